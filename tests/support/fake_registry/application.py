"""The ASGI application of the fake registry: journal, faults, pressure, auth, then the handler, then the answer."""

import asyncio
import base64
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import assert_never

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.support.fake_registry.acr import exchange
from tests.support.fake_registry.apis import Apis
from tests.support.fake_registry.auth import Auth
from tests.support.fake_registry.blobs import Blobs
from tests.support.fake_registry.creation import Creation
from tests.support.fake_registry.digest_lists import DigestLists
from tests.support.fake_registry.faults import (
    Call,
    Cut,
    CutAnswer,
    CutBody,
    Deed,
    Echo,
    Fault,
    Faults,
    Respond,
    Stall,
    TooMany,
    Unauthorized,
)
from tests.support.fake_registry.journal import Entry, Kind, Origin
from tests.support.fake_registry.lists import Lists, refuse_n
from tests.support.fake_registry.manifests import Manifests
from tests.support.fake_registry.messages import (
    Answer,
    ClientGoneError,
    ConnectionCutError,
    Request,
    error,
    page_answer,
)
from tests.support.fake_registry.pressure import Pressure, retry_after
from tests.support.fake_registry.site import Site
from tests.support.fake_registry.uploads import Uploads

Handler = Callable[[Request], Answer | Awaitable[Answer]]
WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass
class Application:
    """Serves one site under several addresses; `at(origin)` is the application of one of them."""

    site: Site
    faults: Faults = field(default_factory=Faults)
    bugs: list[BaseException] = field(default_factory=list)
    """What went wrong in the fake itself."""

    def __post_init__(self) -> None:
        self.auth = Auth(self.site)
        self.pressure = Pressure(self.site)
        self.lists = Lists(self.site)
        self.apis = Apis(self.site, self.lists)
        self.creation = Creation(self.site)
        self.digest_lists = DigestLists(self.site, self.lists)
        self.manifests = Manifests(self.site, self.lists)
        self.blobs = Blobs(self.site)
        self.uploads = Uploads(self.site)
        self._handlers: dict[tuple[str, Kind], Handler] = {
            ("GET", "ping"): _ping,
            ("GET", "catalog"): self._list,
            ("GET", "tags"): self._list,
            ("GET", "referrers"): self.lists.referrers,
            ("GET", "manifest"): self.manifests.read,
            ("PUT", "manifest"): self.manifests.put,
            ("DELETE", "manifest"): self.manifests.delete,
            ("GET", "blob"): self.blobs.read,
            ("DELETE", "blob"): self.blobs.delete,
            ("POST", "upload_start"): self.uploads.start,
            ("PATCH", "upload_chunk"): self.uploads.chunk,
            ("PUT", "upload_close"): self.uploads.close,
            ("GET", "upload_status"): self.uploads.status,
            ("DELETE", "upload_cancel"): self.uploads.cancel,
        }

    def at(self, origin: Origin) -> ASGIApp:
        """Return the application of one of the servers."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            entry = _entry(scope, origin)
            request = Request(scope, receive, entry=entry)
            self.site.journal.begin(entry)
            try:
                await self._serve(request, send=send)
            except ConnectionCutError:
                entry.cut = True
                _close(scope)
                await request.until_gone()
            except ClientGoneError:
                entry.client_gone = True
            except Exception as bug:
                self.bugs.append(bug)
                raise
            finally:
                self.site.journal.end(entry)

        return serve

    async def _serve(self, request: Request, *, send: Send) -> None:
        fault = self.faults.meet(request.entry)
        if self.site.quirks.latency_seconds:
            await asyncio.sleep(self.site.quirks.latency_seconds)
        answer = None
        if fault is not None and not fault.after_work:
            answer = await self._do(fault.deed, request)
        if answer is None:
            answer = await self._work(request)
        if fault is not None:
            answer = await self._spoil(fault, request, answer)
        self._finish(request.entry, answer)
        await self._send(request, answer, send=send)

    async def _do(self, deed: Deed, request: Request) -> Answer | None:
        """Do what a fault says; return the answer it gives instead of the registry's."""
        match deed:
            case Respond(status, headers, body):
                answer = error(status, "UNKNOWN", "injected fault") if body is None else Answer(status, body=body)
                answer.headers += headers
                return answer
            case TooMany(told):
                answer = error(429, "TOOMANYREQUESTS", "injected fault")
                answer.headers += retry_after(self.site) if told is None else [("Retry-After", told)]
                return answer
            case Echo(status):
                scheme, _, value = (request.entry.authorization or "").partition(" ")
                pair = base64.b64decode(value).decode() if scheme == "Basic" else ""
                answer = error(status, "UNKNOWN", f"you sent: {value} that is: {pair}")
                answer.headers.append(("Warning", f'299 - "you sent: {value} that is: {pair}"'))
                return answer
            case Unauthorized(revoke):
                if revoke:
                    self.auth.revoke_all()
                return self.auth.challenge(request, self.auth.needed(request), why="invalid_token")
            case Cut():
                raise ConnectionCutError
            case CutBody(after_bytes):
                request.cut_after_received = after_bytes
            case Stall():
                await request.until_gone()
                raise ClientGoneError
            case Call(action):
                done = action(request.entry)
                if inspect.isawaitable(done):
                    await done
            case CutAnswer():
                pass
            case _:
                assert_never(deed)
        return None

    async def _spoil(self, fault: Fault, request: Request, answer: Answer) -> Answer:
        """Return the answer as a fault leaves it, after the work."""
        if isinstance(fault.deed, CutAnswer):
            answer.cut_after_bytes = fault.deed.after_bytes
        elif fault.after_work:
            return await self._do(fault.deed, request) or answer
        return answer

    async def _work(self, request: Request) -> Answer:
        """Do what is asked, if it is allowed."""
        quirks, entry = self.site.quirks, request.entry
        if entry.kind == "token":
            return await self.auth.give_token(request)
        if entry.kind == "exchange" and self.site.entra is not None:
            return await exchange(request, self.site)
        if entry.kind == "api_login":
            return await self.apis.log_in(request)
        if entry.kind == "api":
            made = await self.creation.answer(request)
            return made or self.digest_lists.answer(request) or self.apis.list(request)
        if entry.kind == "storage":
            return self.blobs.read_storage(request)
        if quirks.accepts_everything:
            await request.read()
            return page_answer()
        if entry.repository and (refusal := self.creation.refuse(entry.repository)):
            return refusal
        refusal = self._refuse(request) if entry.origin in {"registry", "plain"} else None
        return refusal or await self._dispatch(request)

    def _refuse(self, request: Request) -> Answer | None:
        """Return why the registry will not do it; a limit on pulls counts only those that were allowed."""
        if self.site.quirks.limit_counts == "all":
            refusal = self.pressure.check(request.entry) or self.auth.check(request)
        else:
            refusal = self.auth.check(request) or self.pressure.check(request.entry)
        if refusal is None and self.site.quirks.read_only and request.method in WRITING:
            return error(405, "UNSUPPORTED", "the registry is read-only")
        return refusal

    async def _dispatch(self, request: Request) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._handlers.get((method, request.entry.kind))
        if handler is None:
            return error(404, "UNSUPPORTED", f"nothing at {request.path}")
        answer = handler(request)
        return answer if isinstance(answer, Answer) else await answer

    def _list(self, request: Request) -> Answer:
        refusal = refuse_n(self.site, request)
        return refusal or (self.lists.tags if request.entry.kind == "tags" else self.lists.catalog)(request)

    def _finish(self, entry: Entry, answer: Answer) -> None:
        """Add what every answer of this registry has."""
        quirks = self.site.quirks
        if answer.status >= HTTPStatus.BAD_REQUEST:
            self.site.shape_error(answer)
        answer.headers += [("Docker-Distribution-Api-Version", "registry/2.0"), *self.pressure.headers(entry)]
        if quirks.warning:
            answer.headers.append(("Warning", quirks.warning))
        if quirks.closes_connections:
            answer.headers.append(("Connection", "close"))
        has_body = answer.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
        if answer.with_length and has_body:
            length = len(answer.body) if answer.length is None else answer.length
            answer.headers.append(("Content-Length", str(length)))
        entry.status, entry.answer_headers = answer.status, tuple(answer.headers)

    async def _send(self, request: Request, answer: Answer, *, send: Send) -> None:
        """Send an answer, as far as it goes."""
        entry = request.entry
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if request.method == "HEAD" else answer.body
        stops = [stop for stop in (answer.cut_after_bytes, answer.stall_after_bytes) if stop is not None]
        stop = min(stops, default=None)
        for begin in range(0, len(body), answer.piece_bytes):
            piece = body[begin : begin + answer.piece_bytes]
            if stop is not None and begin + len(piece) >= stop:
                piece = piece[: stop - begin]
                entry.sent_bytes += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await self._end_early(request, answer)
            entry.sent_bytes += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if answer.pause_seconds:
                await asyncio.sleep(answer.pause_seconds)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_early(self, request: Request, answer: Answer) -> None:
        if answer.cut_after_bytes is None:
            await request.until_gone()
            raise ClientGoneError
        raise ConnectionCutError


def _ping(_: Request) -> Answer:
    return Answer(200, [("Content-Type", "application/json")], b"{}")


def _close(scope: Scope) -> None:
    """Break the connection a request came by: at once, or after what was already answered has gone out."""
    protocol: H11Protocol = scope["state"]["protocol"]
    if protocol.cycle.response_started:
        protocol.transport.close()
    else:
        protocol.transport.abort()


def _entry(scope: Scope, origin: Origin) -> Entry:
    return Entry(
        number=0,
        origin=origin,
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]),
        connection=(scope.get("client") or ("", 0))[1],
    )
