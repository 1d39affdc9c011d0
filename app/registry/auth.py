"""Who we are to a registry: what to put into `Authorization` for a scope, and what to learn from a 401."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
import structlog

from app.domain.registry import RegistryEntry
from app.registry.challenge import Challenge, Scopes, parse_challenges
from app.registry.credentials import Credentials, Login
from app.registry.failures import LOG_IN, Asked, make_failure
from app.registry.limits import MAX_HELD_TOKENS
from app.registry.tokens import Token, TokenKey, fetch_token
from app.registry.trust import parse_realm
from app.registry.url import InvalidUrlError, Url
from app.registry.wire import Sent, Wire

_log = structlog.get_logger(__name__)
_JUST_NOW = timedelta(seconds=5)
"""A token this young that does not allow enough would not allow more if it were asked for again."""


@dataclass(frozen=True, slots=True)
class TokenServer:
    """Where a registry's tokens are had from, and what it is called there."""

    realm: Url
    service: str


class Authenticator:
    """The logins and tokens of one registry entry; nothing in it is ever shared with another entry."""

    def __init__(self, entry: RegistryEntry, wire: Wire, *, clock: Callable[[], datetime]) -> None:
        self._entry = entry
        self._wire = wire
        self._clock = clock
        self._credentials = Credentials(entry)
        self._challenge: Challenge | None = None
        self._is_discovered = False
        self._discovery = asyncio.Lock()
        self._tokens: OrderedDict[TokenKey, Token] = OrderedDict()
        self._fetches: dict[TokenKey, asyncio.Task[Token]] = {}
        self._learned: dict[Scopes, Scopes] = {}
        """What a registry asked for beyond the scope we thought of (ACR: `metadata_read` to list tags)."""

    async def authorization(self, scopes: Scopes) -> str | None:
        """Return the header for a request of these scopes, fetching a token where one is needed.

        None where nothing is to be shown. Called before a body is sent: a streamed one can't be sent twice.
        """
        login = self._credentials.current()
        if login.bearer:
            return f"Bearer {login.bearer}"
        if not self._is_discovered:
            await self._discover()
        challenge = self._challenge
        if challenge is None or challenge.scheme == "basic":
            # A registry that names no scheme lets everybody read; who entered a password wants to be known anyway.
            return login.basic if login.password else None
        token = await self._token(challenge, scopes, login)
        return f"Bearer {token.text}"

    def login(self) -> Login:
        """Return the login as it is now; raise `RegistryError` (`unauthorized`) when there is none of it."""
        return self._credentials.current()

    async def token_server(self) -> TokenServer | None:
        """Return the token server, None where none is needed; raise `RegistryError` for one that is not trusted."""
        if not self._is_discovered:
            await self._discover()
        challenge = self._challenge
        if challenge is None or challenge.scheme == "basic":
            return None
        return TokenServer(self._realm(challenge), challenge.service)

    def rejected(self, sent: str | None, headers: httpx.Headers, scopes: Scopes) -> bool:
        """Learn from a 401, and say whether the request is worth sending once more.

        A cached token that failed is dropped. Without a challenge in the answer (gcr.io) the one known stays.
        """
        login = self._credentials.current()
        if login.bearer:
            return False
        before = self._challenge
        challenge = _choose(parse_challenges(headers.get_list("www-authenticate")), login)
        has_news = challenge is not None and self._learn(challenge, scopes)
        now = self._challenge
        if sent is None:
            return now is not None and (now.scheme == "bearer" or bool(login.password))
        if not sent.startswith("Bearer "):
            return now is not None and now.scheme == "bearer" and (before is None or before.scheme != "bearer")
        dropped = self._drop(sent.removeprefix("Bearer "))
        is_insufficient = challenge is not None and challenge.error == "insufficient_scope"
        return has_news or not is_insufficient or dropped is None or dropped.asked_at < self._clock() - _JUST_NOW

    async def aclose(self) -> None:
        """End token requests that nobody waits for any more."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    def _learn(self, challenge: Challenge, scopes: Scopes) -> bool:
        """Keep a challenge; return whether it asks for more than we would have."""
        self._challenge = challenge
        self._is_discovered = True
        wanted = challenge.scopes.restricted_to(scopes)
        if wanted in self._scopes(scopes):
            return False
        if len(self._learned) >= MAX_HELD_TOKENS:
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
            asked = Asked(self._entry.registry, LOG_IN)
            url = self._wire.trust.home.with_target("/v2/")
            response = await self._wire.send(Sent(method="GET", url=url), asked)
            answer = await self._wire.collect(response, url, asked)
            if answer.status >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status == httpx.codes.TOO_MANY_REQUESTS:
                return  # says nothing; the request itself will meet the same, or fare better
            login = self._credentials.current()
            if answer.status == httpx.codes.UNAUTHORIZED:
                self._challenge = _choose(parse_challenges(answer.headers.get_list("www-authenticate")), login)
            self._is_discovered = True

    async def _token(self, challenge: Challenge, scopes: Scopes, login: Login) -> Token:
        realm = self._realm(challenge)
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
        return await asyncio.shield(fetch)

    async def _fetch(self, key: TokenKey, realm: Url, login: Login) -> Token:
        token = await fetch_token(self._wire, realm, key, login=login, registry=self._entry.registry, clock=self._clock)
        self._tokens[key] = token
        while len(self._tokens) > MAX_HELD_TOKENS:
            self._tokens.popitem(last=False)
        return token

    def _fetched(self, key: TokenKey, fetch: asyncio.Task[Token]) -> None:
        self._fetches.pop(key, None)
        if not fetch.cancelled():
            fetch.exception()  # looked at, even when nobody waits any more

    def _realm(self, challenge: Challenge) -> Url:
        asked = Asked(self._entry.registry, LOG_IN)
        trust = self._wire.trust
        try:
            realm = parse_realm(trust.home.with_target("/v2/"), challenge.realm)
        except InvalidUrlError as error:
            message = f"{self._entry.registry} names a token server that is no URL"
            raise make_failure(message, asked, code="realm_not_trusted") from error
        if not trust.allows_realm(realm):
            _log.warning("token_server_refused", registry=self._entry.registry, host=realm.authority)
            message = (
                f"{self._entry.registry} sends us to log in at {realm.scheme}://{realm.authority}, which is not "
                f"known to belong to it; add {realm.host} to trusted_hosts if it does"
            )
            raise make_failure(message, asked, code="realm_not_trusted")
        return realm

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
