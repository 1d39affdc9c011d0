"""FastAPI dependencies: the service, and the authenticated caller with the scope a route asks for.

Every route outside `PUBLIC_PATHS` names a scope through one of the types here; a test walks the routes and holds that.
While no API key exists, callers on this machine may do everything and all others nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from app.api.caller_limits import CallerLimits
from app.bootstrap.service import Service
from app.domain.access import Caller, Scope
from app.domain.audit import current_context, enter_context
from app.domain.errors import AccessError

PUBLIC_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/v1/hooks/{registry}", "/v1/hooks/{registry}/{token}"}
)
"""Hooks prove themselves, each as its registry says."""
LARGE_BODY = 32 * 1024
"""Bytes; what is smaller is checked where it is read."""
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""Put there by proxies: the peer is then the proxy, and who asked is somewhere else."""

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
    enter_context(replace(current_context(), key_id=caller.key_id))


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
    if any(name in request.headers for name in _FORWARDED) or not _is_loopback(urlsplit(f"//{host}").hostname or ""):
        return False
    origin = request.headers.get("Origin")
    same_origin = origin is None or urlsplit(origin).netloc == host
    return same_origin and request.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class KeyedRoute(APIRoute):
    """A route that knows its caller before it reads the body, and checks a large body in a thread.

    Ten thousand rules take a quarter of a second to check: for so long nothing else would be answered.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle, field = super().get_route_handler(), self.body_field
        if field is None:
            return handle
        model: TypeAdapter[Any] = TypeAdapter(field.field_info.annotation or Any)

        async def answer(request: Request) -> Response:
            service, credentials = await service_of(request), await bearer(request)
            await known_caller(SecurityScopes(), request, service=service, credentials=credentials)
            is_json = request.headers.get("Content-Type", "").partition(";")[0].strip().endswith(("/json", "+json"))
            if is_json and len(body := await request.body()) > LARGE_BODY:
                checked = await asyncio.to_thread(_checked, model, body)
                if checked is not None:  # else FastAPI finds out that it is no JSON
                    # Where Starlette keeps what a body holds; FastAPI takes a model that was checked as it is.
                    request._json = checked  # noqa: SLF001 — where Starlette looks for it
            return await handle(request)

        return answer


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
