"""What surrounds every request: its id, its log line and metrics, HEAD, and the headers that keep browsers careful."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.observability import HTTP_REQUESTS, HTTP_SECONDS, bound, get_logger

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
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = get_logger(__name__)


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

        with bound(request_id=request_id):
            try:
                await self._app(scope, receive, with_headers)
            finally:
                _account(scope, status, seconds=time.perf_counter() - began)


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
    """Reads no more of a body than a limit; what exceeds it becomes a 413."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        announced = Headers(scope=scope).get("Content-Length", "") if scope["type"] == "http" else ""
        size = int(announced) if announced.isdecimal() else 0
        read = 0

        async def limited() -> Message:
            nonlocal read
            if size > self._limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
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


def _account(scope: Scope, status: int, *, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE)
    method = scope["method"]
    label = method if method in _METHODS else "(other)"
    HTTP_REQUESTS.labels(route, label, status or "(none)").inc()
    HTTP_SECONDS.labels(route, label).observe(seconds)
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
