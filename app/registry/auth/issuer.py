"""Requests to those who issue logins: through the entry's own client, with one form of refusals.

What may pass (no answer, a failure, a limit of rate) is temporary, so that jobs wait for it; everything else is about
the identity. Addresses of issuers are written by callers: they are reached as any stranger is, at public addresses with
a certificate, or elsewhere where the entry trusts the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt

from app.domain.errors import RegistryError
from app.registry.auth.credentials import Login
from app.registry.auth.renewal import RenewableLogin
from app.registry.auth.token_server import VISIBLE, ask_token_server, read_json
from app.registry.http.client import HttpClient
from app.registry.http.error_body import clean
from app.registry.http.errors import LOG_IN, ErrorContext, error_of_response, make_error
from app.registry.http.message import HttpRequest, InvalidUrlError, Url
from app.registry.limits import MAX_TOKEN_LENGTH

_SHORTEST = timedelta(seconds=30)
"""Of tokens that say how long they live: issuers give some for a minute."""
_LIFE = timedelta(minutes=5)
"""Of a token that does not say it."""
_MAX_SECONDS = 10 * 365 * 86_400
_FAILED = re.compile(r"InternalError|ServiceUnavailable")
"""A failure by its code: Tencent Cloud answers 200 to everything."""
_PASSING = re.compile(
    r"rate ?limit|LimitExceeded|throttl|too many requests|slow_down|temporarily_unavailable", re.IGNORECASE
)
"""A refusal that says of itself that it passes, whatever its status: OAuth 2.0 (RFC 6749 5.2), GitHub (403)."""


_REASONS = ("error", "error_description", "message", "Code", "Message")


class Issuer:
    """The issuer of one entry's logins: `registry` is the entry's, `clock` the time in UTC."""

    def __init__(self, http: HttpClient, registry: str, *, clock: Callable[[], datetime]) -> None:
        self._http = http
        self._registry = registry
        self._clock = clock

    async def ask(self, sent: HttpRequest, *, advice: str) -> dict[str, Any]:
        """Return the object that is answered; raise `RegistryError`, `advice` saying what to check of the identity."""
        context, where = ErrorContext(self._registry, LOG_IN), sent.url.authority
        answer = await ask_token_server(self._http, sent, context)
        document = read_json(answer.body)
        if answer.status in {httpx.codes.OK, httpx.codes.CREATED}:
            return document
        error = error_of_response(answer, context)
        reason = _reason_of(document) or error.message
        if error.temporary:
            raise error
        raise self._refusal(f"{answer.status}: {reason}", where, advice=advice)

    def refusal(self, document: dict[str, Any], where: str, *, advice: str) -> RegistryError:
        """Return the error for what says of itself that it is a refusal, whatever its status."""
        return self._refusal(_reason_of(document), where, advice=advice)

    def hide(self, token: str) -> None:
        """Take a token that is sent in a form out of what is answered, as those in headers are."""
        self._http.note_sent(f"Bearer {token}")

    def _refusal(self, reason: str, where: str, *, advice: str) -> RegistryError:
        reason = self._http.echo_guard.clean(reason)
        if _PASSING.search(reason):
            return self.error(f"{where} limits the rate of logins ({reason})", code="rate_limited", temporary=True)
        if _FAILED.search(reason):
            return self.error(f"{where} failed ({reason})", code="registry_unreachable", temporary=True)
        return self.error(f"{where} does not take the identity: {advice} ({reason})")

    def url(self, text: str, target: str = "") -> Url:
        """Read an address that was entered, with a path below it; raise `RegistryError`."""
        try:
            return Url.parse(text.rstrip("/") + target if target else text)
        except InvalidUrlError:
            raise self.error("the address of its issuer is none: enter one that begins with https://") from None

    def token_of(self, document: dict[str, Any], *names: str) -> str:
        """Return the token in an answer, under one of some names; raise `RegistryError`."""
        token = next((document[name] for name in names if document.get(name)), None)
        if not isinstance(token, str) or len(token) > MAX_TOKEN_LENGTH or not VISIBLE.fullmatch(token):
            raise self.error("its issuer answered without a token")
        return token

    def renewable(self, login: Login, token: str, *, seconds: Any = None) -> RenewableLogin:
        """Return a login that ends when its issuer says in seconds, else when the token itself says."""
        is_said = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < _MAX_SECONDS
        now = self._clock()
        ends_at = now + timedelta(seconds=seconds) if is_said else end_of(token) or now + _LIFE
        return RenewableLogin(login, ends_at, shortest=_SHORTEST)

    def error(self, message: str, *, code: str = "unauthorized", temporary: bool = False) -> RegistryError:
        """Make an error of logging in."""
        return login_error(self._registry, message, code=code, temporary=temporary)


def login_error(registry: str, message: str, *, code: str = "unauthorized", temporary: bool = False) -> RegistryError:
    """Make the error for a login that can't be had."""
    return make_error(f"{registry}: {message}", ErrorContext(registry, LOG_IN), code=code, temporary=temporary)


def end_of(token: str) -> datetime | None:
    """Return when a token says that it ends, None where it does not; who issued it checks it, not we."""
    try:
        end: Any = jwt.decode(token, options={"verify_signature": False}).get("exp")
        return datetime.fromtimestamp(end, UTC)
    except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError, OSError):
        return None


def moment_of(milliseconds: object) -> datetime | None:
    """Read a moment as clouds write it, None where it is none."""
    try:
        return datetime.fromtimestamp(float(str(milliseconds)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _reason_of(document: dict[str, Any]) -> str:
    """Say what an answer gives as its reason: OAuth 2.0 has two fields, GitHub one, clouds two."""
    found = (document.get(name) for name in _REASONS)
    return clean(": ".join(text for text in found if isinstance(text, str)))
