"""How the service itself is: alive, ready, its metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY
from prometheus_client.exposition import generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from app.api.answers import JsonAnswer
from app.api.deps import MetricsReader, TheService
from app.api.problems import problems

router = APIRouter(tags=["system"])


class HealthOut(BaseModel):
    """The process runs."""

    status: Literal["alive"] = "alive"


class ReadyOut(BaseModel):
    """The service can take requests."""

    status: Literal["ready"] = "ready"


@router.get("/healthz", summary="Is the process alive?", response_model=HealthOut, responses=problems(is_public=True))
async def is_alive() -> Response:
    """Answer, asking nothing else."""
    return JsonAnswer(HealthOut())


@router.get(
    "/readyz",
    summary="Is the service ready?",
    response_model=ReadyOut,
    responses=problems("database_unreachable", "schema_outdated", is_public=True),
)
async def is_ready(service: TheService) -> Response:
    """Answer 200 when the database is reachable and its schema current; no registry is asked."""
    await service.database.check_schema()
    return JsonAnswer(ReadyOut())


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def read_metrics(*, _: MetricsReader, service: TheService) -> Response:
    """Show this process's metrics, and the queue's as the database has it now."""
    await service.refresh_gauges()
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
