"""What routes depend on: the service, the authenticated caller with the scope a route asks for, and the responses.

Every route that is not public on purpose names a scope through one of the types here; a test walks the routes.
While no API key exists, callers on this machine may do everything and all others nothing.

Responses are JSON with a newline at their end, pages of a list, or wait (long poll): one that waits comes when its job
is done, when its time is up (`WaitQuery`), or when this process stops.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Annotated, Any, cast, get_origin
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from app.api.caller_limits import CallerLimits
from app.api.schemas.pages import Item, PageOut
from app.bootstrap.service import Service
from app.domain.access import AUDIT_CONTEXT, Caller, Scope
from app.domain.duration import parse_duration
from app.domain.errors import AccessError
from app.domain.job import Job
from app.domain.page import Page, T

LARGE_BODY = 32 * 1024
"""Bytes; what is smaller is checked where it is read."""
_PROXY_HEADERS = frozenset({"forwarded", "via", "client-ip"})
_PROXY_PREFIXES = tuple(
    f"{name}-"
    for name in (
        *("x-forwarded", "x-original", "x-real", "x-envoy", "x-amzn", "x-amz-cf", "x-azure", "x-appengine", "x-arr"),
        *("x-vercel", "cf", "cdn", "fly", "fastly"),
    )
)
_PROXY_SUFFIXES = tuple(
    f"-{name}"
    for name in (
        *("client-ip", "connecting-ip", "user-ip", "proxyuser-ip", "remote-ip", "remote-addr", "source-ip"),
        *("forwarded-for", "forwarded-host", "client-address", "external-address", "forwarded-proto"),
    )
)
"""Headers that proxies put there, in lower case: the peer is then the proxy, and who asked is somewhere else."""

bearer = HTTPBearer(
    scheme_name="ApiKey",
    auto_error=False,
    description="`Authorization: Bearer rsk_…`. A key has scopes, by themselves or as `read`, `submit` and `admin`, "
    "and may be bound to repositories, policies, its own jobs and addresses.",
)


async def service_of(request: Request) -> Service:
    """Return the live service, there from start to stop; a coroutine, since FastAPI gives a function to a thread."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def known_caller(
    scopes: SecurityScopes, request: Request, *, service: TheService, credentials: Credentials
) -> Caller:
    """Return the caller; raise `AccessError` for an unknown one, or one without the route's scope."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is not None:
        pass  # the route has asked already
    elif "Authorization" not in request.headers:
        caller = await service.keys.admit_without_key(is_local=is_local(request))
    elif credentials is None:
        raise AccessError("the Authorization header has to be: Bearer <key>")
    else:
        caller = await service.keys.authenticate(credentials.credentials, address=peer_of(request))
    request.state.caller = caller
    note_caller(caller)
    structlog.contextvars.bind_contextvars(caller=caller.name)
    if not caller.scopes.issuperset(scopes.scopes):
        for scope in scopes.scopes:
            caller.require(Scope(scope))
    return caller


JobReader = Annotated[Caller, Security(known_caller, scopes=[Scope.JOBS_READ])]
JobSubmitter = Annotated[Caller, Security(known_caller, scopes=[Scope.JOBS_SUBMIT])]
JobCanceller = Annotated[Caller, Security(known_caller, scopes=[Scope.JOBS_CANCEL])]
PolicyReader = Annotated[Caller, Security(known_caller, scopes=[Scope.POLICIES_READ])]
PolicyWriter = Annotated[Caller, Security(known_caller, scopes=[Scope.POLICIES_WRITE])]
RegistryReader = Annotated[Caller, Security(known_caller, scopes=[Scope.REGISTRIES_READ])]
RegistryWriter = Annotated[Caller, Security(known_caller, scopes=[Scope.REGISTRIES_WRITE])]
HookAdmin = Annotated[Caller, Security(known_caller, scopes=[Scope.HOOKS])]
Auditor = Annotated[Caller, Security(known_caller, scopes=[Scope.AUDIT])]
KeyAdmin = Annotated[Caller, Security(known_caller, scopes=[Scope.KEYS])]


def note_caller(caller: Caller) -> None:
    """Have what is done from here on written into the audit log with the caller's key."""
    AUDIT_CONTEXT.set(replace(AUDIT_CONTEXT.get(), key_id=caller.key_id))


def peer_of(request: Request) -> str | None:
    """Return the address of the peer of the connection; None where that is no network."""
    return request.client.host if request.client else None


def caller_limits(request: Request) -> CallerLimits:
    """Return what counts how much each caller has open."""
    limits: CallerLimits = request.app.state.caller_limits
    return limits


async def metrics_reader(
    scopes: SecurityScopes, request: Request, *, service: TheService, credentials: Credentials
) -> None:
    """Allow callers with the scope to read metrics, and all callers with `METRICS_WITHOUT_KEY`."""
    if not service.metrics_without_key:
        caller = await known_caller(scopes, request, service=service, credentials=credentials)
        caller.require_all_of_it()


MetricsReader = Annotated[None, Security(metrics_reader, scopes=[Scope.JOBS_READ])]


def is_local(request: Request) -> bool:
    """Return whether a caller on this machine asks, and not a foreign page in that caller's browser.

    A page from elsewhere gives itself away by `Origin` or `Sec-Fetch-Site`, or, where it made its own name resolve to
    loopback (DNS rebinding), by `Host`.
    """
    if request.client is None or not _is_loopback(request.client.host):
        return False
    if request.scope.get("http_version") == "1.0":
        return False  # what nginx says to its upstreams unless told otherwise; browsers and curl speak 1.1
    host = request.headers.get("Host", "")
    if any(map(_is_of_proxy, request.headers)):
        return False
    if not _is_loopback(urlsplit(f"//{host}").hostname or ""):
        return False
    origin = request.headers.get("Origin")
    same_origin = origin is None or urlsplit(origin).netloc == host
    return same_origin and request.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}


def _is_of_proxy(name: str) -> bool:
    """Return whether proxies put a header there; Starlette has names in lower case."""
    return name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES) or name.endswith(_PROXY_SUFFIXES)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class KeyedRoute(APIRoute):
    """A route that knows its caller before it reads the body, and checks a large body in a thread.

    It takes no other query parameters than its own, and once what is no list. Ten thousand rules take a quarter of a
    second to check: for so long nothing else would be answered.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle, field = super().get_route_handler(), self.body_field
        # Lists that have but one page are read like all others.
        parameters = _parameters_of(self.dependant) | (_OF_LISTS if self.methods == {"GET"} else {})
        single = {name for name, kind in parameters.items() if get_origin(kind) is not list}
        model: TypeAdapter[Any] | None = TypeAdapter(field.field_info.annotation or Any) if field else None

        async def answer(request: Request) -> Response:
            query = request.query_params
            unknown = [("extra_forbidden", name) for name in query if name not in parameters]
            repeated = [("repeated", name) for name in query if name in single and len(query.getlist(name)) > 1]
            wrong = [{"type": kind, "loc": ("query", name), "msg": kind} for kind, name in unknown + repeated]
            if model is None and not wrong:
                return await handle(request)
            service, credentials = await service_of(request), await bearer(request)
            await known_caller(SecurityScopes(), request, service=service, credentials=credentials)
            if wrong:
                raise RequestValidationError(wrong)
            if model is None:
                return await handle(request)
            is_json = request.headers.get("Content-Type", "").partition(";")[0].strip().endswith(("/json", "+json"))
            if is_json and len(body := await request.body()) > LARGE_BODY:
                checked = await asyncio.to_thread(_checked, model, body)
                if checked is not None:  # else FastAPI finds out that it is no JSON
                    # Where Starlette keeps what a body holds; FastAPI takes a model that was checked as it is.
                    request._json = checked  # noqa: SLF001 — where Starlette looks for it
            return await handle(request)

        return answer


def _parameters_of(dependant: Dependant) -> dict[str, Any]:
    """Name the query parameters of a route with their types, those that stand together in a model too."""
    found = {name: kind for below in dependant.dependencies for name, kind in _parameters_of(below).items()}
    for field in dependant.query_params:
        kind, alone = field.field_info.annotation, {field.alias: field.field_info}
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else alone
        found |= {one.alias or name: one.annotation for name, one in fields.items()}
    return found


def _checked(model: TypeAdapter[Any], body: bytes) -> Any:
    """Return what a body says, None where it is no JSON; raise `RequestValidationError`."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    try:
        return model.validate_python(document)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found, body=document) from None


_OF_LISTS = {"limit": int, "cursor": str}
MAX_WAIT_SECONDS = 60
"""Proxies commonly cut a silent request after 60 to 100 seconds."""
_PREFERRED_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)


class JsonResponse(Response):
    """A model, rendered; the newline is for people with curl."""

    media_type = "application/json"

    def __init__(
        self,
        model: BaseModel,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        without_null: bool = False,
    ) -> None:
        body = model.model_dump_json(exclude_none=without_null) + "\n"
        super().__init__(body, status_code=status_code, headers=headers, media_type=media_type)


def page_answer(request: Request, page: Page[T], *, out: type[PageOut[Item]], show: Callable[[T], Item]) -> Response:
    """Render a page; the `Link` header (RFC 8288) leads to the next one for callers who read no bodies."""
    headers = {}
    if page.next_cursor is not None:
        following = request.url.include_query_params(cursor=page.next_cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return JsonResponse(out(items=[show(item) for item in page.items], next_cursor=page.next_cursor), headers=headers)


def _wait_seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        seconds = int(value) if value.isdecimal() and len(value) < MAX_WAIT_SECONDS else parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_duration", "{reason}", {"reason": str(error)}) from error
    return min(seconds, MAX_WAIT_SECONDS)


class WaitQuery(BaseModel):
    """How long to wait for the job to be done."""

    model_config = ConfigDict(extra="forbid")

    wait: Annotated[
        float,
        BeforeValidator(_wait_seconds),
        WithJsonSchema({"type": "string", "examples": ["30s"]}),
        Field(
            description="Answer when the job is done, or after this long with the job as it is; at most `60s`. "
            "`Prefer: wait=30` does the same."
        ),
    ] = Field(default_factory=float)

    def seconds(self, request: Request) -> float:
        """How long, by query or by preference (RFC 7240)."""
        preferred = _PREFERRED_WAIT.search(request.headers.get("Prefer", ""))
        return self.wait or (min(int(preferred[1]), MAX_WAIT_SECONDS) if preferred else 0)


class ExplainQuery(WaitQuery):
    """How long to wait, and which tag to explain."""

    explain: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None,
        examples=["team-a/app:1.4"],
        description="Say of this tag what each rule and matcher takes or drops it for, as the source is now: `tag`, "
        "`repository:tag` or `host/repository:tag`.",
    )


async def wait_for(job: Job, request: Request, *, seconds: float) -> Job:
    """Return the job when it is done, or as it is at the deadline; a process that stops answers at once."""
    if job.done or not seconds:
        return job
    service, stopping = await service_of(request), request.app.state.stopping
    limits, caller = caller_limits(request), request.state.caller
    limits.take(caller, "wait")
    waiting = asyncio.create_task(service.jobs.wait(job.id, timeout_seconds=seconds, caller=caller))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else await service.jobs.get(job.id, caller=caller)
    finally:
        waiting.cancel()
        stop.cancel()
        limits.give_back(caller, "wait")


async def until(*ends: Callable[[], Coroutine[Any, Any, object]], items: AsyncIterator[T]) -> AsyncIterator[T]:
    """Pass items on as they come; end when they do, or when one of `ends` does, such as this process stopping."""
    stops = {asyncio.create_task(end()) for end in ends}
    following: asyncio.Future[T] | None = None
    try:
        while not any(stop.done() for stop in stops):
            following = asyncio.ensure_future(anext(items))
            await asyncio.wait({following, *stops}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                yield following.result()
    except StopAsyncIteration:
        return
    finally:
        for stop in stops:
            stop.cancel()
        if following is not None and not following.done():
            following.cancel()
            await asyncio.wait({following})
        await cast("AsyncGenerator[T]", items).aclose()
