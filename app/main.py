"""The web application: routers, error rendering, lifespan; no logic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api import (
    audit,
    contract,
    errors,
    events,
    hooks,
    jobs,
    keys,
    plan,
    policies,
    registries,
    subscriptions,
    system,
)
from app.api.middleware import HeadAsGet, LimitedBody, RequestContext
from app.settings import Settings
from app.wiring.clock import new_id
from app.wiring.service import open_service

DESCRIPTION = """
Copies container images from registry to registry, as jobs: submit a sync request, poll or follow the job, read what
became of every image. Answers that are not a success are `application/problem+json` with a stable `code`.
"""
TAGS = [
    {"name": "jobs", "description": "Sync requests and what became of them."},
    {"name": "registries", "description": "Where registries are and how to log in; secrets go in and never come out."},
    {"name": "policies", "description": "Syncs that stand: rules, when they run by themselves, and whether on push."},
    {"name": "hooks", "description": "Push events that registries send, and what became of them."},
    {"name": "subscriptions", "description": "Who is told when jobs end, and what became of telling them."},
    {"name": "keys", "description": "API keys."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "system", "description": "The service itself."},
]


def create_app(settings: Settings, *, is_working: bool = True) -> FastAPI:
    """Make the application; its service lives from start to stop, with a worker unless `is_working` is False."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings) as service:
            app.state.service = service
            async with service.working(app.state.stopping) if is_working else nullcontext():
                yield

    app = FastAPIOffline(
        title="registry-sync",
        summary="Copy container images from registry to registry",
        description=DESCRIPTION.strip(),
        version=version("registry-sync"),
        openapi_tags=TAGS,
        lifespan=lifespan,
        generate_unique_id_function=contract.operation_id,
        redirect_slashes=False,
        redoc_url=None,
        static_url="/docs/static",
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
    )
    app.state.stopping = asyncio.Event()
    errors.install(app)
    app.add_middleware(LimitedBody, limit=settings.max_body_bytes)
    app.add_middleware(errors.UnexpectedErrors)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestContext, new_id=new_id)
    for room in (jobs, events, plan, registries, policies, hooks, subscriptions, keys, audit, system):
        app.include_router(room.router)
    app.openapi = lambda: contract.openapi_of(app)  # type: ignore[method-assign]
    return app
