"""The web application: routers, error rendering, lifespan; no logic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.staticfiles import StaticFiles

from app.api import (
    audit,
    errors,
    events,
    hooks,
    jobs,
    keys,
    openapi,
    plan,
    policies,
    registries,
    subscriptions,
    system,
)
from app.api.caller_limits import CallerLimits
from app.api.middleware import HeadAsGet, LimitedBody, LimitedRequestLine, RequestContext, UnexpectedErrors
from app.api.policies import IMPORT_PATH
from app.bootstrap.service import open_service
from app.console import job_pages, settings_pages
from app.console.session import STATIC
from app.jobs.submission import new_id
from app.net.http_headers import PRODUCT
from app.process_channel import ProcessChannel
from app.settings import Settings

DESCRIPTION = """
Copies container images from registry to registry, as jobs: submit a sync request, poll or follow the job, read what
became of every image. Answers that are not a success are `application/problem+json` with a stable `code`.
"""
TAGS = [
    {"name": "Jobs", "description": "Submit sync requests; wait for, cancel and retry their jobs."},
    {"name": "Registries", "description": "Where registries are and how to log in; secrets are write-only."},
    {"name": "Recurring syncs", "description": "Policies: rules, a schedule, and whether push events run them."},
    {"name": "Push events", "description": "Webhooks of registries, and what became of each event."},
    {"name": "Notifications", "description": "Subscriptions to jobs' starts and ends, and their deliveries."},
    {"name": "API keys", "description": "Who may call, with which scope."},
    {"name": "Audit", "description": "Who changed what."},
    {"name": "System", "description": "Health and metrics."},
]
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own spans have the path, and with it the tokens of hooks; ours (app/tracing.py) have the route."""


def create_app(settings: Settings, *, channel: ProcessChannel | None = None, is_working: bool = False) -> FastAPI:
    """Make the application; its service lives from start to stop.

    - `settings`: all there is to set
    - `channel`: the way to the supervisor, whose workers do what is submitted
    - `is_working`: whether a worker shares the event loop, where there is no supervisor
    """
    app = FastAPIOffline(
        telemetry=_NO_TELEMETRY,
        title=PRODUCT,
        summary="Copy container images from registry to registry",
        description=DESCRIPTION.strip(),
        version=version(PRODUCT),
        openapi_tags=TAGS,
        lifespan=_lifespan(settings, channel=channel, is_working=is_working),
        generate_unique_id_function=openapi.operation_id,
        separate_input_output_schemas=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "Where this document is served."}],
        redirect_slashes=False,
        redoc_url=None,
        static_url="/docs/static",
        swagger_ui_oauth2_redirect_url="/docs/oauth2-redirect",
    )
    _complete(app, settings)
    for room in (jobs, events, plan, registries, policies, hooks, subscriptions, keys, audit, system):
        app.include_router(room.router)
    app.include_router(job_pages.router)
    app.include_router(settings_pages.router)
    app.mount("/console/static", StaticFiles(directory=STATIC), name="console-static")
    app.openapi = lambda: openapi.openapi_of(app)  # type: ignore[method-assign]  # FastAPI's own way to replace its document
    openapi.serve_document(app)
    return app


def create_status_app(settings: Settings, *, channel: ProcessChannel) -> FastAPI:
    """Make what `work` shows of itself: alive, ready, metrics; nothing that asks for a key."""
    settings = settings.model_copy(update={"metrics_without_key": True})
    app = FastAPI(
        telemetry=_NO_TELEMETRY, lifespan=_lifespan(settings, channel=channel, is_working=False), openapi_url=None
    )
    _complete(app, settings)
    app.include_router(system.router)
    return app


def _lifespan(
    settings: Settings, *, channel: ProcessChannel | None, is_working: bool
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, channel=channel) as service:
            app.state.service = service
            async with service.working(app.state.stopping) if is_working else nullcontext():
                yield

    return lifespan


def _complete(app: FastAPI, settings: Settings) -> None:
    """Add what surrounds every route."""
    app.state.stopping = asyncio.Event()
    app.state.caller_limits = CallerLimits()
    errors.install(app)
    most = max(settings.max_body_bytes, settings.max_import_bytes)
    app.add_middleware(LimitedBody, limit=settings.max_body_bytes, limits={IMPORT_PATH: most})
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(HeadAsGet)
    app.add_middleware(LimitedRequestLine)
    app.add_middleware(RequestContext, new_id=new_id)
