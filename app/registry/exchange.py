"""One request and its answer: a turn, a login, redirects by hand, and another try for what is temporary."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn

import httpx
import structlog

from app.domain.registry import RegistryEntry
from app.registry.auth import Authenticator, TokenServer
from app.registry.challenge import Scopes
from app.registry.credentials import Login
from app.registry.failures import Answer, Asked, clean, failure_of_answer, failure_of_exception, make_failure
from app.registry.limits import MAX_AUTH_ROUNDS, MAX_ERROR_BYTES, MAX_REDIRECTS
from app.registry.pressure import Pressure, Turn
from app.registry.quota import retry_after_seconds
from app.registry.retries import Retries
from app.registry.trust import Standing
from app.registry.url import InvalidUrlError, Url
from app.registry.wire import Content, Sent, Wire

_log = structlog.get_logger(__name__)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAFE = frozenset({"GET", "HEAD"})
_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.){1,4096})"')
_MAX_WARNINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked of a registry."""

    operation: str
    method: str
    url: Url
    scopes: Scopes
    expects: frozenset[int]
    """Statuses that are answers; every other one is an error."""
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content = field(default=None, repr=False)
    length: int = 0
    """Of a streamed content."""
    body_limit: int = MAX_ERROR_BYTES
    is_pull: bool = False
    """A manifest GET: what Docker Hub counts."""
    moves_tag: bool = False
    answer_seconds: float | None = None
    login: Mapping[str, str] | None = field(default=None, repr=False)
    """What logs in to a registry's own API, in place of what its `/v2/` asks for: sent to where `url` is, and nobody
    else is asked."""


@dataclass(slots=True)
class Live:
    """An answer whose body is still on its way."""

    status: int
    headers: httpx.Headers
    url: Url
    response: httpx.Response = field(repr=False)
    asked: Asked

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raise `RegistryError` (temporary) when it breaks off."""
        try:
            async for part in self.response.aiter_raw():
                yield part
        except httpx.HTTPError as error:
            raise failure_of_exception(error, self.asked) from error


class Exchange:
    """Asks one registry entry, with its credentials and under its pressure."""

    def __init__(
        self,
        entry: RegistryEntry,
        wire: Wire,
        auth: Authenticator,
        *,
        pressure: Pressure,
        clock: Callable[[], datetime],
    ) -> None:
        self.entry = entry
        self.wire = wire
        self.pressure = pressure
        self.home = wire.trust.home
        self._auth = auth
        self._clock = clock
        self._retries = Retries(wire.settings, pressure)
        self._warnings: set[str] = set()

    def login(self) -> Login:
        """Return what there is to log in with, for APIs with rules of their own; raise `RegistryError` for no such."""
        return self._auth.login()

    async def token_server(self) -> TokenServer | None:
        """Return where the registry's tokens are had from, if that may be asked; raise `RegistryError`."""
        return await self._auth.token_server()

    def asked(self, operation: str, *, moves_tag: bool = False) -> Asked:
        """Describe a request for an error's message."""
        return Asked(self.entry.registry, operation, moves_tag)

    async def fetch(self, call: Call) -> Answer:
        """Ask and read the whole answer; raise `RegistryError`."""
        asked = self.asked(call.operation, moves_tag=call.moves_tag)

        async def once() -> Answer:
            turn, response, url = await self._begin(call, asked)
            try:
                body = await self.wire.read(response, asked, limit=call.body_limit)
            finally:
                turn.give_back()
            return Answer(response.status_code, response.headers, body, url, self.wire.standing(url))

        return await self._retries.run(once, may_repeat=lambda: not _has_begun(call.content))

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Live]:
        """Ask and hand out the answer's head, its body to be read inside the block; raise `RegistryError`."""
        asked = self.asked(call.operation)
        turn, response, url = await self._retries.run(lambda: self._begin(call, asked), may_repeat=lambda: True)
        try:
            yield Live(response.status_code, response.headers, url, response, asked)
        finally:
            try:
                await response.aclose()
            finally:
                turn.give_back()

    async def _begin(self, call: Call, asked: Asked) -> tuple[Turn, httpx.Response, Url]:
        """Return the answer's head if it is an expected one, and the turn that has to be given back."""
        self._keep_reserve(call, asked)
        turn = await self.pressure.turn()
        try:
            response, url = await self._with_login(call, asked)
            if self.wire.standing(url) is Standing.HOME:
                self._listen(response)
            if response.status_code not in call.expects:
                is_told = self.wire.standing(url) is Standing.HOME or call.login is not None
                await self._fail(response, url, asked=asked, turn=turn if is_told else None)
            self.pressure.went_well()
        except BaseException:
            turn.give_back()
            raise
        return turn, response, url

    async def _fail(self, response: httpx.Response, url: Url, *, asked: Asked, turn: Turn | None) -> NoReturn:
        """Raise the error for an answer, and slow down if it says so; some say it with 403 and a code.

        Without a turn: where the answer comes from says nothing about how tired the registry is.
        """
        answer = await self.wire.collect(response, url, asked)
        retry_after = retry_after_seconds(answer.headers, now=self._clock())
        error = failure_of_answer(answer, asked, retry_after=retry_after)
        is_rate_limit = error.code == "rate_limited"
        if turn is None:
            raise error
        if is_rate_limit or answer.status == httpx.codes.SERVICE_UNAVAILABLE:
            self.pressure.was_refused(turn, retry_after=retry_after, is_rate_limit=is_rate_limit)
            _log.info(
                "registry_slowed_down",
                registry=asked.registry,
                status=answer.status,
                window=self.pressure.window,
                pause_seconds=round(self.pressure.pause_seconds, 1),
            )
        elif not error.temporary:
            self.pressure.went_well()
        raise error

    def _listen(self, response: httpx.Response) -> None:
        """Take in what comes with any answer: what is left of a rate limit, and warnings, each told once."""
        self._retries.answered()
        now, wall_now = asyncio.get_running_loop().time(), self._clock().timestamp()
        self.pressure.quota.see(response.headers, now=now, wall_now=wall_now)
        for text in _WARNING.findall(response.headers.get("warning", "")):
            if text not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
                self._warnings.add(text)
                _log.warning("registry_warned", registry=self.entry.registry, warning=clean(text))

    async def _with_login(self, call: Call, asked: Asked) -> tuple[httpx.Response, Url]:
        if call.login is not None:
            return await self._follow(call, asked, authorization=None)
        for last_round in range(MAX_AUTH_ROUNDS):
            authorization = await self._auth.authorization(call.scopes)
            response, url = await self._follow(call, asked, authorization=authorization)
            if response.status_code != httpx.codes.UNAUTHORIZED or self.wire.standing(url) is not Standing.HOME:
                break
            may_help = self._auth.rejected(authorization, response.headers, call.scopes)
            if not may_help or last_round == MAX_AUTH_ROUNDS - 1:
                break
            answer = await self.wire.collect(response, url, asked)
            if _has_begun(call.content):
                # The body is gone; whoever made it can make it again, from where the registry says it got to.
                error = failure_of_answer(answer, asked)
                raise make_failure(error.message, asked, code="unauthorized", temporary=True)
        return response, url

    async def _follow(self, call: Call, asked: Asked, *, authorization: str | None) -> tuple[httpx.Response, Url]:
        url = call.url
        for hop in range(MAX_REDIRECTS + 1):
            headers = {**call.headers, **(call.login or {})}
            if authorization is not None and self.wire.standing(url) is Standing.HOME:
                headers["Authorization"] = authorization
            sent = Sent(
                method=call.method,
                url=url,
                headers=headers,
                content=call.content,
                length=call.length,
                answer_seconds=call.answer_seconds,
            )
            response = await self.wire.send(sent, asked)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or not location or hop == MAX_REDIRECTS:
                return response, url
            following = self._next_hop(call, url, location)
            if following is None:
                return response, url
            await self.wire.collect(response, url, asked)
            url = following
        raise AssertionError  # the last hop returned

    def _next_hop(self, call: Call, url: Url, location: str) -> Url | None:
        """Say where a redirect leads, or None for one that is not followed; the answer then counts as an error."""
        trust = self.wire.trust
        try:
            following = trust.locate(url, location)
        except InvalidUrlError:
            return None
        if not trust.allows_hop(url, following) or following == url:
            return None
        if call.login is not None and following.origin != url.origin:
            return None
        if call.method not in _SAFE:
            may_repeat = call.content is None or isinstance(call.content, bytes)
            is_ours = trust.standing(following) is not Standing.STRANGER
            return following if may_repeat and is_ours else None
        return following

    def _keep_reserve(self, call: Call, asked: Asked) -> None:
        """Refuse, for now, what would use up the last of a rate limit, or wait for a pause with slots in hand."""
        now = asyncio.get_running_loop().time()
        quota = self.pressure.quota
        seconds = quota.wait_seconds(now=now, is_pull=call.is_pull)
        if seconds and quota.counts_pulls:
            message = f"{asked.registry} has {quota.remaining} pulls left of its rate limit, which are kept"
            raise make_failure(message, asked, code="rate_limited", temporary=True, retry_after=seconds)
        if seconds:
            self.pressure.pause(seconds)
        pause = self.pressure.pause_seconds
        if pause > self._retries.longest_pause:
            message = f"{asked.registry} asked to be left alone for a while"
            raise make_failure(message, asked, code="rate_limited", temporary=True, retry_after=pause)


class StreamedBody:
    """Marks a streamed body as begun, so that a request is never repeated with half of it."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self.has_begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.has_begun = True
        async for part in self._parts:
            yield part


def _has_begun(content: Content) -> bool:
    return isinstance(content, StreamedBody) and content.has_begun
