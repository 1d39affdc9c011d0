"""One request and its response: permit, login, redirects by hand, retries for what is temporary."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import httpx
import structlog
from msgspec import Struct
from msgspec.structs import replace

from app.concurrency import ANSWER_BYTES, back_off, note_moved, waiting_elsewhere, waiting_for
from app.domain.errors import RegistryError
from app.domain.registry import RegistryEntry
from app.net.http_headers import retry_after_seconds
from app.registry.auth.authenticator import Authenticator, TokenServer
from app.registry.auth.challenge import Scopes
from app.registry.auth.credentials import Login
from app.registry.http.client import HttpClient
from app.registry.http.connections import StreamingResponse
from app.registry.http.error_body import clean
from app.registry.http.errors import ErrorContext, Response, error_of_response, make_error
from app.registry.http.host_trust import HostTrust
from app.registry.http.message import Content, Headers, HttpRequest, InvalidUrlError, Url, is_damaged
from app.registry.limits import MAX_AUTH_ROUNDS, MAX_ERROR_BYTES, MAX_JSON_VALUES, MAX_REDIRECTS, ClientSettings
from app.registry.ratelimit.adaptive_concurrency import ConcurrencyWindow, Permit
from app.registry.ratelimit.quota_headers import QUOTA_HEADERS

T = TypeVar("T")
_log = structlog.get_logger(__name__)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAFE = frozenset({"GET", "HEAD"})
_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.){1,4096})"')
_MAX_WARNINGS = 64


@dataclass(slots=True)
class RequestState:
    """How far a request is that may be withdrawn: what was not sent leaves nothing at the registry."""

    is_under_way: bool = False
    """Whether it was sent, and the answer is waited for."""
    is_withdrawn: bool = False
    """Whether it is not to be sent any more, nor again."""


class RegistryRequest(Struct, frozen=True, kw_only=True):
    """What is asked of a registry."""

    operation: str
    method: str
    url: Url
    scopes: Scopes
    expects: frozenset[int]
    """Statuses that are answers; every other one is an error."""
    headers: Mapping[str, str] = {}
    content: Content = None
    body_limit: int = MAX_ERROR_BYTES
    is_pull: bool = False
    """A manifest GET: what Docker Hub counts."""
    moves_tag: bool = False
    answer_seconds: float | None = None
    is_fresh: bool = False
    """Whether to go over a new connection: what came over an existing one was damaged."""
    login: Mapping[str, str] | None = None
    """What logs in to a registry's own API, in place of what its `/v2/` asks for: sent to where `url` is, and to no
    other host."""
    state: RequestState | None = None
    """Of a request that may be withdrawn."""
    is_urgent: bool = False
    """Whether it takes something back, and goes before all that waits: who sends it has little time."""

    def __repr__(self) -> str:  # neither the login nor the content
        return f"RegistryRequest({self.operation}: {self.method} {self.url})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation)]


class RequestExecutor:
    """Sends requests to one registry entry, with its credentials and within its concurrency window.

    - `entry`: host, TLS, credentials, limits
    - `http`: one request and its response, without credentials or retries
    - `auth`: tokens for a scope, and what a 401 teaches
    - `window`: permits, pauses and rates of this registry
    - `clock`: the time, in UTC, for dates in `Retry-After`
    """

    def __init__(
        self,
        entry: RegistryEntry,
        http: HttpClient,
        auth: Authenticator,
        *,
        window: ConcurrencyWindow,
        clock: Callable[[], datetime],
    ) -> None:
        self.entry = entry
        self.http = http
        self.window = window
        self.home = http.trust.home
        self._registry = entry.registry
        self.head_misses_manifests = False
        """Whether HEAD was found out to answer 404 for a manifest that GET gives."""
        self._auth = auth
        self._clock = clock
        self._retries = Retries(http.settings, window)
        self._warnings: set[str] = set()

    async def login(self) -> Login:
        """Return what there is to log in with, for APIs with rules of their own; raise `RegistryError` for no such."""
        return await self._auth.login()

    async def authorization(self, scopes: Scopes) -> str | None:
        """Return what a request of these scopes would be sent with; raise `RegistryError` where no token is given."""
        return await self._auth.authorization(scopes)

    @property
    def login_ends_at(self) -> datetime | None:
        """When the login in hand ends (UTC); None for one that was entered, or was not asked for yet."""
        return self._auth.login_ends_at

    async def token_server(self) -> TokenServer | None:
        """Return where the registry's tokens are had from, if that may be asked; raise `RegistryError`."""
        return await self._auth.token_server()

    def context(self, operation: str, *, moves_tag: bool = False) -> ErrorContext:
        """Describe a request for an error's message."""
        return ErrorContext(self._registry, operation, moves_tag)

    async def fetch(self, request: RegistryRequest) -> Response:
        """Ask and read the whole answer; raise `RegistryError`."""
        context = self.context(request.operation, moves_tag=request.moves_tag)
        with waiting_for(self._registry):
            try:
                return await self._fetch_once(request, context)
            except RegistryError as error:
                first = error
            return await self._retries.go_on(
                first, lambda: self._fetch_once(request, context), may_repeat=lambda: _may_repeat(request)
            )

    async def fetch_json(self, request: RegistryRequest) -> Response:
        """Ask for a JSON document; raise `RegistryError`: `limit_exceeded` where it would be too large in memory.

        One that says it is JSON and is damaged or cut off is asked for once more, over another connection.
        """
        answer = await self._fetch_values(request)
        if answer.status == httpx.codes.OK and is_damaged(answer.headers, answer.body):
            return await self._fetch_values(replace(request, is_fresh=True))
        return answer

    async def _fetch_values(self, request: RegistryRequest) -> Response:
        answer = await self.fetch(request)
        if answer.body.count(b",") > MAX_JSON_VALUES:
            context = self.context(request.operation)
            message = f"{context.registry} answered with more than {MAX_JSON_VALUES} values at once"
            raise make_error(message, context, code="limit_exceeded")
        return answer

    @asynccontextmanager
    async def open(self, request: RegistryRequest) -> AsyncIterator[StreamingResponse]:
        """Ask and hand out the answer's head, its body to be read inside the block; raise `RegistryError`."""
        context = self.context(request.operation)
        with waiting_for(self._registry):
            try:
                permit, response = await self._begin(request, context)
            except RegistryError as error:
                permit, response = await self._retries.go_on(
                    error, lambda: self._begin(request, context), may_repeat=lambda: True
                )
        try:
            yield response
        finally:
            response.close()
            permit.give_back()

    async def _fetch_once(self, request: RegistryRequest, context: ErrorContext) -> Response:
        try:
            permit, response = await self._begin(request, context)
            try:
                body = await self.http.read(response, context, limit=request.body_limit)
            finally:
                permit.give_back()
        finally:
            if request.state is not None:
                request.state.is_under_way = False
        note_moved(ANSWER_BYTES + len(body))
        return self.http.whole(response, body)

    async def _begin(self, request: RegistryRequest, context: ErrorContext) -> tuple[Permit, StreamingResponse]:
        """Return the answer's head if it is an expected one, and the permit that has to be given back."""
        self._keep_reserve(request, context)
        with waiting_elsewhere():  # for those that have the permits
            permit = await self.window.permit(is_urgent=request.is_urgent)
        if request.state is not None:
            request.state.is_under_way = True
        try:
            response = await self._with_login(request, context)
            is_home = self.http.trust_of(response.url) is HostTrust.HOME
            if is_home:
                self._listen(response.headers)
            if response.status not in request.expects:
                says_limits = is_home or request.login is not None
                lacks_right = request.login is None and self._auth.lacks_right(response.headers)
                context = replace(context, lacks_right=lacks_right)
                await self._fail(response, context=context, permit=permit if says_limits else None)
            self.window.went_well()
        except BaseException as error:
            permit.give_back()
            if isinstance(error, RegistryError):
                error.message = self.http.echo_guard.clean(error.message)
                self.window.notes.note_error(error, now=self._clock())
            raise
        return permit, response

    async def _fail(self, response: StreamingResponse, *, context: ErrorContext, permit: Permit | None) -> NoReturn:
        """Raise the error for an answer, and slow down if it says so; some say it with 403 and a code.

        Without a turn: where the answer comes from says nothing about how tired the registry is.
        """
        answer = await self.http.collect(response, context)
        retry_after = retry_after_seconds(answer.headers.get("retry-after", ""), now=self._clock())
        error = error_of_response(answer, context, retry_after=retry_after)
        is_rate_limit = error.code == "rate_limited"
        if permit is None:
            raise error
        if is_rate_limit or answer.status == httpx.codes.SERVICE_UNAVAILABLE:
            self.window.was_refused(permit, retry_after=retry_after, is_rate_limit=is_rate_limit, reason=error.message)
            _log.info(
                "registry_slowed_down",
                registry=context.registry,
                status=answer.status,
                window=self.window.size,
                pause_seconds=round(self.window.pause_seconds, 1),
            )
        elif not error.temporary:
            self.window.went_well()
        raise error

    def _listen(self, headers: Headers) -> None:
        """Take in what comes with any answer: what is left of a rate limit, and warnings, each logged once."""
        self._retries.is_down, self._retries.was_alive = False, True
        if not QUOTA_HEADERS.isdisjoint(headers):
            now, wall_now = asyncio.get_running_loop().time(), self._clock().timestamp()
            self.window.quota.see(headers, now=now, wall_now=wall_now)
        if "warning" not in headers:
            return
        for text in _WARNING.findall(headers["warning"]):
            if text not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
                self._warnings.add(text)
                _log.warning(
                    "registry_warned", registry=self.entry.registry, warning=self.http.echo_guard.clean(clean(text))
                )

    async def _with_login(self, request: RegistryRequest, context: ErrorContext) -> StreamingResponse:
        if request.login is not None:
            return await self._follow(request, context, authorization=None)
        for last_round in range(MAX_AUTH_ROUNDS):
            authorization = await self._auth.authorization(request.scopes)
            response = await self._follow(request, context, authorization=authorization)
            if response.status != httpx.codes.UNAUTHORIZED or self.http.trust_of(response.url) is not HostTrust.HOME:
                break
            may_help = self._auth.rejected(authorization, response.headers, request.scopes)
            if not may_help or last_round == MAX_AUTH_ROUNDS - 1:
                break
            answer = await self.http.collect(response, context)
            if _has_begun(request.content):
                # The body is gone; whoever made it can make it again, from where the registry says it got to.
                error = error_of_response(answer, context)
                raise make_error(error.message, context, code="unauthorized", temporary=True)
        return response

    async def _follow(
        self, request: RegistryRequest, context: ErrorContext, *, authorization: str | None
    ) -> StreamingResponse:
        url = request.url
        for hop in range(MAX_REDIRECTS + 1):
            headers = request.headers if request.login is None else {**request.headers, **request.login}
            if authorization is not None and self.http.trust_of(url) is HostTrust.HOME:
                headers = {**headers, "Authorization": authorization}
            sent = HttpRequest(
                method=request.method,
                url=url,
                headers=headers,
                content=request.content,
                answer_seconds=request.answer_seconds,
                is_fresh=request.is_fresh,
            )
            response = await self.http.send(sent, context)
            location = response.headers.get("location") if response.status in _REDIRECTS else None
            if not location or hop == MAX_REDIRECTS:
                return response
            try:
                following = self._next_hop(request, url, location, context=context)
            except RegistryError:
                response.close()
                raise
            if following is None:
                return response
            await self.http.collect(response, context)
            url = following
        raise AssertionError  # the last hop returned

    def _next_hop(self, request: RegistryRequest, url: Url, location: str, *, context: ErrorContext) -> Url | None:
        """Return where a redirect leads, or None for one that is not followed; the answer then counts as an error.

        Raise `RegistryError` (`host_not_allowed`) for one that leads from https to http.
        """
        trust = self.http.trust
        try:
            following = trust.locate(url, location)
        except InvalidUrlError:
            return None
        if not trust.allows_hop(url, following):
            raise make_error(trust.refusal_of_hop(url, following), context, code="host_not_allowed")
        if following == url:
            return None
        if request.login is not None and following.origin != url.origin:
            return None
        if request.method not in _SAFE:
            may_repeat = request.content is None or isinstance(request.content, bytes)
            is_ours = trust.trust_of(following) is not HostTrust.STRANGER
            return following if may_repeat and is_ours else None
        return following

    def _keep_reserve(self, request: RegistryRequest, context: ErrorContext) -> None:
        """Refuse, for now, what would use up the last of a rate limit, or wait for a pause with permits in hand."""
        quota = self.window.quota
        if quota.remaining is not None:
            seconds = quota.wait_seconds(now=asyncio.get_running_loop().time(), is_pull=request.is_pull)
            if seconds and quota.counts_pulls:
                message = f"{context.registry} has {quota.remaining} pulls left of its rate limit, which are kept"
                raise make_error(message, context, code="rate_limited", temporary=True, retry_after=seconds)
            if seconds:
                self.window.pause(seconds)
        pause = self.window.pause_seconds
        if pause and pause > self._retries.longest_pause:
            message = f"{context.registry} asked to be left alone for a while"
            raise make_error(message, context, code="rate_limited", temporary=True, retry_after=pause)


@dataclass(slots=True, eq=False)
class Retries:
    """Retries of requests to one registry, with exponential backoff and jitter.

    - `settings`: the retry policy (5 attempts, 0.5 to 20 s apart), and attempts of what is rate limited (10)
    - `window`: the registry's pauses
    """

    settings: ClientSettings
    window: ConcurrencyWindow
    is_down: bool = False
    """The registry does not respond: until it does, one attempt each is enough to see whether that is still so."""
    was_alive: bool = False
    """Whether it has responded, ever."""

    @property
    def longest_pause(self) -> float:
        """How long a pause is waited for; less by who holds another registry's slots meanwhile."""
        settings = self.settings
        return settings.permit_pause_max_seconds if self.window.covers_this_task() else settings.retry_policy.max_pause

    async def go_on(
        self, first: RegistryError, once: Callable[[], Awaitable[T]], *, may_repeat: Callable[[], bool]
    ) -> T:
        """Return what `once` returns after a first try that failed, or raise the last error.

        Rate limits are borne longer than failures. An error that was `retries_exhausted` is not to be repeated soon
        further up. The first try is the caller's: it is nearly always enough, and getting ready for more costs as
        much as a small request.
        """
        policy = self.settings.retry_policy
        most = max(policy.attempts or 0, self.settings.rate_limit_attempts)
        tries = failures = 0

        def may_help(error: RegistryError) -> bool:
            nonlocal tries, failures
            if not error.temporary or not may_repeat():
                return False
            if error.retry_after is not None and error.retry_after > self.longest_pause:
                return False
            tries += 1
            failures += error.code != "rate_limited"
            error.registry_responded = self.was_alive
            is_last = not policy.allows(failures)
            error.retries_exhausted = tries == most or is_last or bool(failures and self.is_down)
            if is_last:
                self.is_down = error.status is None
            return not error.retries_exhausted

        error = first
        while may_help(error):
            _log.info(
                "request_retried", registry=error.registry, operation=error.operation, code=error.code, attempt=tries
            )
            await back_off(policy, tries)
            try:
                return await once()
            except RegistryError as failure:
                error = failure
        raise error


def _may_repeat(request: RegistryRequest) -> bool:
    is_withdrawn = request.state is not None and request.state.is_withdrawn
    return not is_withdrawn and not _has_begun(request.content)


def _has_begun(content: Content) -> bool:
    return content is not None and not isinstance(content, bytes) and content.has_begun
