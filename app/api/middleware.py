"""Middleware: request line limit, unexpected errors, request id, access log and metrics, HEAD, body limit, headers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import UNEXPECTED, problem_response
from app.api.problems import PROBLEMS
from app.domain.access import AUDIT_CONTEXT, AuditContext
from app.observability import HTTP_REQUESTS, HTTP_SECONDS, NO_SPAN, Span, bound, get_logger, span

MAX_TARGET_BYTES = 8_192
"""Of a path and its query; RFC 9110 4.1 wants 8,000 to be taken, and before authentication no more is worked on."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE"})
"""What is used or refused (405) somewhere here; another word is foreign text, and answered with 501."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
_UNKNOWN_ROUTE = "(none)"
_STREAMS = ("/events",)
"""Answers without an end: HEAD would wait for it, so it is not among their methods."""
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)

log = get_logger(__name__)


class LimitedRequestLine:
    """Answers 414 to a target that is too long and 501 to an unknown method, before any of it is looked at."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
            detail = PROBLEMS["uri_too_long"].detail
            await problem_response(Request(scope), HTTPStatus.REQUEST_URI_TOO_LONG, detail=detail)(scope, receive, send)
        elif "\0" in scope["path"] or b"%00" in scope["query_string"]:
            detail = "a path and its query hold no NUL character"  # which PostgreSQL takes in no text
            answer = problem_response(Request(scope), 422, detail=detail, code="validation_failed")
            await answer(scope, receive, send)
        elif scope["method"] not in METHODS:
            detail = PROBLEMS["method_not_implemented"].detail
            await problem_response(Request(scope), HTTPStatus.NOT_IMPLEMENTED, detail=detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class UnexpectedErrors:
    """Answers 500 for unexpected errors: logged whole, shown to the caller as a request id only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; an exception after the answer began can only end the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = False

        async def watched(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return  # within its body: nobody is there to be answered
        except Exception:
            log.exception("unexpected_error")
            if began:
                raise
            answer = problem_response(Request(scope), 500, detail=UNEXPECTED)
            await answer(scope, receive, send)


class RequestContext:
    """Gives each request an id, logs and counts it by its route template: never a query, never a repository."""

    def __init__(self, app: ASGIApp, *, new_id: Callable[[], str]) -> None:
        self._app = app
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = dict(scope)  # a copy to write on: the server goes by what it wrote in its own
        given = Headers(scope=scope).get("X-Request-Id", "")
        request_id = scope["request_id"] = given if _REQUEST_ID.fullmatch(given) else self._new_id()
        status = 0
        began = time.perf_counter()

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _complete(MutableHeaders(scope=message), request_id, path=scope["path"])
            await send(message)

        peer = scope["client"][0] if scope.get("client") else None
        AUDIT_CONTEXT.set(AuditContext(peer, None, request_id))
        with bound(request_id=request_id), _span(scope) as span:
            try:
                await self._app(scope, receive, with_headers)
            finally:
                _account(scope, status, seconds=time.perf_counter() - began)
                _describe(span, scope, status)


class HeadAsGet:
    """Answers HEAD as GET without the body, where a GET ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].endswith(_STREAMS):
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, without_body)
        finally:
            scope["method"] = "HEAD"


class LimitedBody:
    """Reads no more of a body than a limit; what exceeds it becomes a 413.

    - `limits`: those of paths that have others
    """

    def __init__(self, app: ASGIApp, *, limit: int, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        announced = Headers(scope=scope).get("Content-Length", "") if scope["type"] == "http" else ""
        size = int(announced) if announced.isdecimal() else 0
        limit = self._limits.get(scope.get("path", ""), self._limit)
        read = 0

        async def limited() -> Message:
            nonlocal read
            if size > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        await self._app(scope, limited, send)


def _complete(headers: MutableHeaders, request_id: str, *, path: str) -> None:
    headers["X-Request-Id"] = request_id
    headers.setdefault("Cache-Control", "no-store")
    for name, value in _SAFE_HEADERS.items():
        headers.setdefault(name, value)
    if path == "/docs":
        headers["Content-Security-Policy"] = _DOCS_POLICY


def _span(scope: Scope) -> Span:
    """Return the span of a request: of its path nothing is in it, for that of a hook has a token."""
    if scope["path"] in _QUIET_ROUTES:
        return NO_SPAN
    parent = Headers(scope=scope).get("traceparent")
    return span(_method(scope), kind="server", parent=parent, attributes={"registry_sync.request": scope["request_id"]})


def _describe(span: Span, scope: Scope, status: int) -> None:
    route, method = _route(scope), _method(scope)
    span.rename(f"{method} {route}")
    span.set({"http.request.method": method, "http.route": route, "http.response.status_code": status or None})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.fail(str(status))


def _route(scope: Scope) -> str:
    route: str = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE)
    return route


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else "(other)"


def _account(scope: Scope, status: int, *, seconds: float) -> None:
    route, method = _route(scope), _method(scope)
    HTTP_REQUESTS.labels(route, method, status or "(none)").inc()
    HTTP_SECONDS.labels(route, method).observe(seconds)
    peer = scope["client"][0] if scope.get("client") else None
    event = log.debug if route in _QUIET_ROUTES else log.info
    event(
        "http_request",
        method=method,
        route=route,
        parts={name: part for name, part in scope.get("path_params", {}).items() if name != "token"},
        status=status,
        seconds=round(seconds, 4),
        peer=peer,
    )
