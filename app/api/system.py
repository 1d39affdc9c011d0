"""Liveness, readiness and metrics."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from app.api.dependencies import JsonResponse, MetricsReader, TheService
from app.api.problems import problems
from app.observability import render_metrics

router = APIRouter(tags=["System"])


class HealthOut(BaseModel):
    """The process runs."""

    status: Literal["alive"] = "alive"


class ReadyOut(BaseModel):
    """The service can take requests."""

    status: Literal["ready"] = "ready"
    unreadable_secrets: int = Field(
        default=0,
        description="Registries with a stored secret that can't be opened: what names them fails with "
        "`secret_unreadable`, and all else goes on. The metric `registry_sync_secret_unreadable` names them.",
    )


@router.get("/", include_in_schema=False)
async def show_start(request: Request) -> Response:
    """Send a browser to the console, and tell a program where the API is described."""
    if "text/html" in request.headers.get("Accept", ""):
        return RedirectResponse("/console/", status_code=HTTPStatus.SEE_OTHER)
    return JSONResponse({"api": "/v1/jobs", "openapi": "/openapi.json", "docs": "/docs", "console": "/console/"})


@router.get("/healthz", summary="Check liveness", response_model=HealthOut, responses=problems(is_public=True))
async def is_alive() -> Response:
    """Answer, asking nothing else."""
    return JsonResponse(HealthOut())


@router.get(
    "/readyz",
    summary="Check readiness",
    response_model=ReadyOut,
    responses=problems("database_unreachable", "schema_outdated", is_public=True),
)
async def is_ready(service: TheService) -> Response:
    """Answer 200 when the database is reachable and its schema current; no registry is asked.

    It says how many registries have secrets that can't be opened.
    """
    await service.database.check_schema()
    return JsonResponse(ReadyOut(unreadable_secrets=len(await service.gauges.read_unreadable())))


@router.get(
    "/metrics",
    summary="Get Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def read_metrics(*, _: MetricsReader, service: TheService) -> Response:
    """Show the metrics of all processes of this host, and the queue's as the database has it now."""
    gauges, processes = await service.gauges.read(), service.processes
    metrics = render_metrics(processes.pids, processes.restarts, gauges)
    return Response(metrics, media_type=CONTENT_TYPE_LATEST)
