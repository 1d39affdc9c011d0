"""The authenticator of one registry entry: what to put into `Authorization` for a scope, and what to learn from a 401.

It holds the token cache: a token per realm, service, scope and login, renewed before it ends, fetched once for all that
wait for it (single-flight).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import structlog

from app.domain.errors import RegistryError
from app.domain.registry import RegistryEntry
from app.domain.registry_state import LastErrorState, LoginState
from app.registry.auth.challenge import Challenge, Scopes, parse_challenges
from app.registry.auth.credentials import Login, entered_login
from app.registry.auth.identities import identity_of
from app.registry.auth.renewal import LoginRenewal
from app.registry.auth.token_server import Token, TokenKey, TokenSiblings, fetch_token
from app.registry.http.client import HttpClient
from app.registry.http.errors import LOG_IN, ErrorContext, make_error
from app.registry.http.host_trust import parse_realm
from app.registry.http.message import Headers, HttpRequest, InvalidUrlError, Url
from app.registry.limits import MAX_CACHED_TOKENS

_log = structlog.get_logger(__name__)
_NEVER = datetime.min.replace(tzinfo=UTC)
_MAX_REFUSALS = 3
_REFUSED = timedelta(seconds=60)
"""A login that was not taken so often in a row is not shown again for so long: each image of a job would show it anew,
and Harbor, Artifactory and others lock the account then."""
_JUST_NOW = timedelta(seconds=5)
"""A token this young that does not allow enough would not allow more if it were asked for again."""


@dataclass(frozen=True, slots=True)
class TokenServer:
    """Where a registry's tokens are had from, and what it is called there."""

    realm: Url
    service: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A login that the token server did not take."""

    login: Login
    at: datetime
    message: str
    status: int
    count: int
    """How often in a row."""


class Authenticator:
    """The logins and tokens of one registry entry; nothing in it is ever shared with another entry.

    - `entry`: whose credentials
    - `http`: to ask token servers with
    - `clock`: the time, in UTC, for the tokens' ends
    - `siblings`: the other processes of this host: one of them asks for a token for all

    Protocol: Distribution's "Token Authentication" and "Oauth2" specifications.
    """

    def __init__(
        self,
        entry: RegistryEntry,
        http: HttpClient,
        *,
        clock: Callable[[], datetime],
        siblings: TokenSiblings | None = None,
    ) -> None:
        self._entry = entry
        self._http = http
        self._clock = clock
        self._siblings = siblings
        has_login = entry.auth.type != "none"
        self._entered = entered_login(entry) if has_login else Login()
        fetch = identity_of(entry, http, clock=clock) if has_login else None
        self._renewal = LoginRenewal(fetch, clock=clock) if fetch is not None else None
        """Where the login ends and is asked for anew; None where it is as it was entered."""
        self._challenge: Challenge | None = None
        """The registry's own, as `/v2/` has it."""
        self._others: dict[Scopes, Challenge] = {}
        """Of requests that are challenged otherwise (Harbor: Basic for `_catalog`, Bearer for everything else)."""
        self._is_discovered = False
        self._taken: Login | None = None
        """The login that the token server took last."""
        self._refusal: _Refusal | None = None
        self._discovery = asyncio.Lock()
        self._tokens: OrderedDict[TokenKey, Token] = OrderedDict()
        self._fetches: dict[TokenKey, asyncio.Task[Token | RegistryError]] = {}
        self._learned: dict[Scopes, Scopes] = {}
        """What a registry asked for beyond the scope we thought of (ACR: `metadata_read` to list tags)."""
        self._refused_at: dict[Scopes, datetime] = {}
        """When a token for these was last refused; what was asked for before that may have ended too."""

    async def authorization(self, scopes: Scopes) -> str | None:
        """Return the header for a request of these scopes, fetching a token where one is needed.

        None where nothing is to be shown. Called before a body is sent: a streamed one can't be sent twice.
        """
        login = await self.login()
        if login.bearer:
            return f"Bearer {login.bearer}"
        if not self._is_discovered:
            await self._discover()
        challenge = self._others.get(scopes, self._challenge)
        if challenge is None or challenge.scheme == "basic":
            # A registry that names no scheme lets everybody read; who entered a password wants to be known anyway.
            return login.basic if login.password else None
        try:
            token = await self._token(challenge, scopes, login)
        except RegistryError as error:
            if error.code != "unauthorized" or self._renewal is None:
                raise
            # One that is not the latest any more was renewed while the token was asked for.
            if not self._renewal.refuse(login, unless_younger=_JUST_NOW):
                raise
            token = await self._token(challenge, scopes, await self._renewal.get())
        return f"Bearer {token.text}"

    async def login(self) -> Login:
        """Return the login as it is now; raise `RegistryError` (`unauthorized`) when there is none of it."""
        return self._entered if self._renewal is None else await self._renewal.get()

    @property
    def login_ends_at(self) -> datetime | None:
        """When the login in hand ends (UTC); None for one that was entered, or was not asked for yet."""
        return self._renewal.ends_at if self._renewal is not None else None

    @property
    def login_state(self) -> LoginState | None:
        """What operators are shown of the login; None where nothing is shown to the registry."""
        kind, refusal = self._entry.auth.type, self._refusal
        if kind == "none":
            return None
        state = self._renewal.state if self._renewal is not None else LoginState("")
        if refusal is not None and state.last_error is None:
            error = LastErrorState("unauthorized", refusal.message, refusal.status, refusal.at)
            state = replace(state, last_error=error)
        return replace(state, type=kind)

    async def token_server(self) -> TokenServer | None:
        """Return the token server, None where none is needed; raise `RegistryError` for one that is not trusted."""
        if not self._is_discovered:
            await self._discover()
        challenge = self._challenge
        if challenge is None or challenge.scheme == "basic":
            return None
        return TokenServer(self._realm(challenge), challenge.service)

    def rejected(self, sent: str | None, headers: Headers, scopes: Scopes) -> bool:
        """Learn from a 401, and say whether the request is worth sending once more.

        A cached token that failed is dropped. Without a challenge in the answer (gcr.io) the one known stays.
        """
        login = self._current()
        shown = f"Bearer {login.bearer}" if login.bearer else login.basic
        if self._renewal is not None and sent is not None and (login.bearer or sent.startswith("Basic ")):
            # One that is not the latest any more was renewed while the request was on its way.
            return sent != shown or self._renewal.refuse(login, unless_younger=_JUST_NOW)
        if login.bearer:
            return False
        before = self._others.get(scopes, self._challenge)
        challenge = _choose(parse_challenges(headers.get_list("www-authenticate")), login)
        has_news = challenge is not None and self._learn(challenge, scopes)
        now = self._others.get(scopes, self._challenge)
        if sent is None:
            return now is not None and (now.scheme == "bearer" or bool(login.password))
        if not sent.startswith("Bearer "):
            return now is not None and now.scheme == "bearer" and (before is None or before.scheme != "bearer")
        if now is not None and now.scheme == "basic":
            return bool(login.password)
        if (dropped := self._drop(sent.removeprefix("Bearer "))) is not None:
            if len(self._refused_at) >= MAX_CACHED_TOKENS:
                self._refused_at.clear()
            self._refused_at[self._scopes(scopes)] = self._clock()
        is_insufficient = challenge is not None and challenge.error == "insufficient_scope"
        return has_news or not is_insufficient or dropped is None or dropped.asked_at < self._clock() - _JUST_NOW

    def lacks_right(self, headers: Headers) -> bool:
        """Say of a 401 whether a right is missing: the token server took the login, and the registry its token."""
        challenges = parse_challenges(headers.get_list("www-authenticate"))
        is_invalid = any(challenge.error == "invalid_token" for challenge in challenges)
        return self._taken is not None and self._taken == self._current() and not is_invalid

    async def aclose(self) -> None:
        """Cancel token requests that no caller waits for any more."""
        if self._renewal is not None:
            await self._renewal.aclose()
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    def _current(self) -> Login:
        if self._renewal is None:
            return self._entered
        return self._renewal.latest or Login()

    def _learn(self, challenge: Challenge, scopes: Scopes) -> bool:
        """Keep a challenge; return whether it asks for more than we would have.

        One that differs from the registry's own is that of its request, and changes nothing for others.
        """
        own = self._challenge
        self._is_discovered = True
        if len(self._others) >= MAX_CACHED_TOKENS:
            self._others.clear()
        if own is None:
            self._challenge = challenge
        elif (own.scheme, own.realm, own.service) != (challenge.scheme, challenge.realm, challenge.service):
            self._others[scopes] = challenge
        else:
            self._others.pop(scopes, None)
        wanted = challenge.scopes.restricted_to(scopes)
        if wanted in self._scopes(scopes):
            return False
        if len(self._learned) >= MAX_CACHED_TOKENS:
            self._learned.clear()
        self._learned[scopes] = wanted
        return True

    def _scopes(self, scopes: Scopes) -> Scopes:
        learned = self._learned.get(scopes)
        return scopes.merge(learned) if learned else scopes

    async def _discover(self) -> None:
        """Ask `/v2/` once what login the registry wants; any answer will do, some answer 403 or 404 there."""
        async with self._discovery:
            if self._is_discovered:
                return
            context = ErrorContext(self._entry.registry, LOG_IN)
            url = self._http.trust.home.with_target("/v2/")
            response = await self._http.send(HttpRequest(method="GET", url=url), context)
            answer = await self._http.collect(response, context)
            if answer.status >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status == httpx.codes.TOO_MANY_REQUESTS:
                return  # says nothing; the request itself will meet the same, or fare better
            login = await self.login()
            if answer.status == httpx.codes.UNAUTHORIZED:
                self._challenge = _choose(parse_challenges(answer.headers.get_list("www-authenticate")), login)
            self._is_discovered = True

    async def _token(self, challenge: Challenge, scopes: Scopes, login: Login) -> Token:
        realm = self._realm(challenge)
        if (refusal := self._refusal) and refusal.login == login and self._is_exhausted(refusal):
            raise self._unauthorized(refusal)
        principal = login.username or ("token" if login.identity_token else "")
        key = TokenKey(str(realm), challenge.service, self._scopes(scopes), principal)
        token = self._tokens.get(key)
        if token is not None and token.is_fresh(self._clock()):
            self._tokens.move_to_end(key)
            return token
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = asyncio.create_task(self._fetch(key, realm, login))
            self._fetches[key] = fetch
            fetch.add_done_callback(lambda done: self._fetched(key, done))
        # Shielded: whoever is cancelled while waiting must not take the token from all the others.
        got = await asyncio.shield(fetch)
        if isinstance(got, RegistryError):
            raise got.copied()
        return got

    async def _fetch(self, key: TokenKey, realm: Url, login: Login) -> Token | RegistryError:
        """Ask for a token; return the error where there is none, for each that waits to raise its own."""
        try:
            token = await self._fetch_for_all(key, realm, login)
        except RegistryError as error:
            if error.code == "unauthorized" and not login.is_anonymous and error.status is not None:
                self._taken = None
                self._refusal = self._refused_again(login, error.message, error.status)
            return error
        if not login.is_anonymous:
            self._taken, self._refusal = login, None
        self._tokens[key] = token
        while len(self._tokens) > MAX_CACHED_TOKENS:
            self._tokens.popitem(last=False)
        return token

    async def _fetch_for_all(self, key: TokenKey, realm: Url, login: Login) -> Token:
        """Ask for a token, or take one that another process of this host asked for since one was refused here."""
        registry, siblings = self._entry.registry, self._siblings
        if siblings is None:
            return await fetch_token(self._http, realm, key, login=login, registry=registry, clock=self._clock)
        place = key.place(self._entry.name, login)
        async with siblings.asking(place):
            shared, refused_at = siblings.take(place), self._refused_at.get(key.scopes, _NEVER)
            if shared is not None and shared.asked_at > refused_at and shared.is_fresh(self._clock()):
                return shared
            token = await fetch_token(self._http, realm, key, login=login, registry=registry, clock=self._clock)
            siblings.tell(place, token)
            return token

    def _fetched(self, key: TokenKey, fetch: asyncio.Task[Token | RegistryError]) -> None:
        self._fetches.pop(key, None)
        if not fetch.cancelled():
            fetch.exception()  # looked at, even when nobody waits any more

    def _realm(self, challenge: Challenge) -> Url:
        context = ErrorContext(self._entry.registry, LOG_IN)
        trust = self._http.trust
        try:
            realm = parse_realm(trust, challenge.realm)
        except InvalidUrlError as error:
            message = f"{self._entry.registry} names a token server that is no URL"
            raise make_error(message, context, code="realm_not_trusted") from error
        if not trust.allows_realm(realm):
            _log.warning(
                "token_server_refused", registry=self._entry.registry, host=self._http.echo_guard.clean(realm.authority)
            )
            message = trust.refusal_of_realm(realm)
            raise make_error(message, context, code="realm_not_trusted")
        return realm

    def _refused_again(self, login: Login, message: str, status: int) -> _Refusal:
        before = self._refusal
        count = before.count if before is not None and before.login == login else 0
        return _Refusal(login, self._clock(), message, status, count + 1)

    def _is_exhausted(self, refusal: _Refusal) -> bool:
        return refusal.count >= _MAX_REFUSALS and self._clock() < refusal.at + _REFUSED

    def _unauthorized(self, refusal: _Refusal) -> RegistryError:
        registry, status = self._entry.registry, refusal.status
        return RegistryError(refusal.message, registry=registry, operation=LOG_IN, code="unauthorized", status=status)

    def _drop(self, text: str) -> Token | None:
        key = next((key for key, token in self._tokens.items() if token.text == text), None)
        return self._tokens.pop(key) if key else None


def _choose(challenges: tuple[Challenge, ...], login: Login) -> Challenge | None:
    """Prefer Bearer; Basic only where there is a password to show."""
    bearer = next((challenge for challenge in challenges if challenge.scheme == "bearer"), None)
    basic = next((challenge for challenge in challenges if challenge.scheme == "basic"), None)
    if bearer is not None and bearer.realm:
        return bearer
    return basic if login.password or bearer is None else None
