"""What a request would do."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.api.answers import JsonAnswer
from app.api.deps import Submitter, TheService
from app.api.jobs import JobBody
from app.api.problems import problems
from app.api.schemas.plan import PlanOut

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/plan",
    summary="See what a sync request would do",
    response_model=PlanOut,
    responses=problems("host_not_allowed", takes_body=True),
)
async def plan_request(*, body: JobBody, _: Submitter, service: TheService) -> Response:
    """Ask both sides what would be copied; copies nothing. What goes wrong at a registry is data, as in a job."""
    await service.registries.check_hosts(body.request)
    return JsonAnswer(PlanOut.of(await service.previews.preview(body.request)))
