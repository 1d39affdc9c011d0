"""Registry tokens: fetched from a token server, by GET (distribution `spec/auth/token.md`) or POST (`oauth.md`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlencode

import httpx
from msgspec.structs import replace

from app.domain.errors import RegistryError
from app.net.http_headers import PRODUCT
from app.registry.auth.challenge import Scopes
from app.registry.auth.credentials import Login
from app.registry.http.client import HttpClient
from app.registry.http.errors import LOG_IN, ErrorContext, Response, error_of_response, make_error
from app.registry.http.message import HttpRequest, Url, is_damaged
from app.registry.limits import MAX_TOKEN_ANSWER_BYTES, MAX_TOKEN_LENGTH

CLIENT_ID = PRODUCT
_MIN_SECONDS, _MAX_SECONDS = 60, 24 * 3600
"""The spec's default is 60 s, and some servers say less than they mean."""
_USED_SHARE = 0.9
"""A token is replaced when a tenth of its life is left, so that it lasts for the request it is sent with."""
_NOT_THIS_WAY = frozenset({401, 404, 405, 501})
"""Some servers that know one way only answer the other like a wrong password."""
VISIBLE = re.compile(r"[\x21-\x7e]+")
"""What a token is made of; anything else would not go into a header as it is."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """The key of the token cache: what a token was asked for; it serves this and nothing else."""

    realm: str
    service: str
    scopes: Scopes
    principal: str

    def place(self, entry: str, login: Login) -> str:
        """Return what processes call it to each other: the same for the same entry with the same login, else never."""
        secrets = (entry, login.username, login.password, login.identity_token)
        parts = (*secrets, self.realm, self.service, *self.scopes.texts())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and until when it is used."""

    text: str = field(repr=False)
    asked_at: datetime
    good_until: datetime

    def is_fresh(self, now: datetime) -> bool:
        """Whether it may still be sent."""
        return now < self.good_until


class TokenSiblings(Protocol):
    """The other processes of this host, which talk for the same entries; a place is a hash of what a token is for."""

    def asking(self, place: str) -> AbstractAsyncContextManager[None]:
        """Be the only one among them that asks for a token, while inside."""

    def take(self, place: str) -> Token | None:
        """Return what another one got and shared; once, so that one that is refused is not taken again."""

    def tell(self, place: str, token: Token) -> None:
        """Tell them of a token."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A token as a server gives it, and how long it is good for."""

    text: str = field(repr=False)
    seconds: float


async def fetch_token(
    http: HttpClient, realm: Url, key: TokenKey, *, login: Login, registry: str, clock: Callable[[], datetime]
) -> Token:
    """Ask for a token; raise `RegistryError` (`unauthorized` when the login is not accepted).

    An identity token goes by POST first, everything else by GET; the other way is tried when a server does not know
    the first one.
    """
    ways = [_post, _get] if login.identity_token else [_get, _post]
    if login.is_anonymous:
        ways = [_get]
    context = ErrorContext(registry, LOG_IN)
    begun = clock()
    refusals: list[Response] = []
    for way in ways:
        sent = way(realm, key, login)
        answer = await ask_token_server(http, sent, context)
        if answer.status == httpx.codes.OK and is_damaged(answer.headers, answer.body):
            answer = await ask_token_server(http, replace(sent, is_fresh=True), context)
        if answer.status == httpx.codes.OK:
            token = read_token(answer.body, context)
            # From our own clock and not `issued_at`: servers' clocks differ.
            return Token(token.text, begun, begun + timedelta(seconds=token.seconds * _USED_SHARE))
        refusals.append(answer)
        if answer.status not in _NOT_THIS_WAY:
            break
    # "Wrong password" says more than "not this way".
    raise _refusal(min(refusals, key=lambda answer: answer.status), realm, context)


def _get(realm: Url, key: TokenKey, login: Login) -> HttpRequest:
    url = realm
    if key.service:
        url = url.with_parameter("service", key.service)
    for scope in key.scopes.texts():
        url = url.with_parameter("scope", scope)
    if login.username and not login.identity_token:
        url = url.with_parameter("account", login.username)
    headers = {"Accept": "application/json"}
    if login.password:
        headers["Authorization"] = login.basic
    elif login.identity_token:
        headers["Authorization"] = Login(username=login.username or "<token>", password=login.identity_token).basic
    return HttpRequest(method="GET", url=url.with_parameter("client_id", CLIENT_ID), headers=headers)


def _post(realm: Url, key: TokenKey, login: Login) -> HttpRequest:
    form = {"client_id": CLIENT_ID, "service": key.service, "scope": " ".join(key.scopes.texts())}
    if login.identity_token:
        form |= {"grant_type": "refresh_token", "refresh_token": login.identity_token}
    else:
        form |= {"grant_type": "password", "username": login.username, "password": login.password}
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    return HttpRequest(method="POST", url=realm, headers=headers, content=urlencode(form).encode())


async def ask_token_server(http: HttpClient, sent: HttpRequest, context: ErrorContext) -> Response:
    """Send what asks for a token, and return the answer, of which no more is read than a token needs."""
    response = await http.send(sent, context)
    if response.status != httpx.codes.OK:
        return await http.collect(response, context)
    return http.whole(response, await http.read(response, context, limit=MAX_TOKEN_ANSWER_BYTES))


def _refusal(answer: Response, realm: Url, context: ErrorContext) -> RegistryError:
    error = error_of_response(answer, context)
    if error.temporary:
        return error
    # GAR answers 400 to a wrong password; whatever the status, no token means that the login is not accepted.
    return RegistryError(
        f"no token from {realm.authority}: {error.message}",
        registry=context.registry,
        operation=context.operation,
        code="unauthorized",
        status=answer.status,
        spec_codes=error.spec_codes,
    )


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object that an answer is; an empty one where it is none."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def read_token(body: bytes, context: ErrorContext) -> TokenAnswer:
    """Read an answer with a token in it; raise `RegistryError` for one without."""
    document = read_json(body)
    text = document.get("token") or document.get("access_token")
    if not isinstance(text, str) or len(text) > MAX_TOKEN_LENGTH or not VISIBLE.fullmatch(text):
        raise make_error(
            f"the token server of {context.registry} answered without a token", context, code="unauthorized"
        )
    seconds: Any = document.get("expires_in")
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds == seconds  # noqa: PLR0124 — only NaN differs from itself
    # Clamped before it is a float: one of 400 digits is JSON, and more than a float holds.
    return TokenAnswer(text, float(min(max(seconds if known else 0.0, _MIN_SECONDS), _MAX_SECONDS)))
