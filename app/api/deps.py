"""What routes ask for: the service, and who is calling.

Every route outside `PUBLIC_PATHS` names a scope through one of `Reader`, `Submitter`, `Admin`; a test walks the routes
and holds that. While no API key exists, callers on this machine may do everything and all others nothing.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from app.domain.access import Caller, Scope
from app.domain.errors import AccessError
from app.wiring.service import Service

PUBLIC_PATHS = frozenset(
    {"/healthz", "/readyz", "/openapi.json", "/docs", "/v1/hooks/{registry}", "/v1/hooks/{registry}/{token}"}
)
"""Hooks prove themselves, each as its registry says."""
LOCAL_OPERATOR = Caller("local", Scope.ADMIN.implied)
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""Put there by proxies: the peer is then the proxy, and who asked is somewhere else."""

bearer = HTTPBearer(
    scheme_name="ApiKey",
    auto_error=False,
    description="`Authorization: Bearer rsk_…`. Scopes: `read`, `submit` (implies read), `admin` (implies both).",
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
    """Tell who is calling; raise `AccessError` for nobody known, or without the route's scope."""
    if "Authorization" in request.headers:
        if credentials is None:
            raise AccessError("the Authorization header has to be: Bearer <key>")
        caller = await service.keys.authenticate(credentials.credentials)
    else:
        caller = await _local_operator(request, service)
    structlog.contextvars.bind_contextvars(caller=caller.name)
    for scope in scopes.scopes:
        caller.require(Scope(scope))
    return caller


Reader = Annotated[Caller, Security(known_caller, scopes=[Scope.READ])]
Submitter = Annotated[Caller, Security(known_caller, scopes=[Scope.SUBMIT])]
Admin = Annotated[Caller, Security(known_caller, scopes=[Scope.ADMIN])]


async def metrics_reader(
    scopes: SecurityScopes, request: Request, *, service: TheService, credentials: Credentials
) -> None:
    """Let callers with the scope read metrics, and everybody where the operator said so (`METRICS_WITHOUT_KEY`)."""
    if not service.metrics_without_key:
        await known_caller(scopes, request, service=service, credentials=credentials)


MetricsReader = Annotated[None, Security(metrics_reader, scopes=[Scope.READ])]


async def _local_operator(request: Request, service: Service) -> Caller:
    if await service.keys.any_exists():
        raise AccessError("an API key is needed: Authorization: Bearer <key>")
    if not is_local(request):
        message = (
            "no API key exists yet, so only callers on this machine are served; make one: registry-sync create-key"
        )
        raise AccessError(message, code="local_callers_only")
    return LOCAL_OPERATOR


def is_local(request: Request) -> bool:
    """Say whether somebody on this machine asks, and not a page in their browser on behalf of somebody else.

    A page from elsewhere gives itself away by `Origin` or `Sec-Fetch-Site`, or, where it made its own name resolve to
    loopback (DNS rebinding), by `Host`.
    """
    if request.client is None or not _is_loopback(request.client.host):
        return False
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
