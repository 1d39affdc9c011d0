"""Plan a sync request: a dry run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from app.api.dependencies import ExplainQuery, JobSubmitter, JsonResponse, KeyedRoute, TheService, caller_limits
from app.api.jobs import IdempotencyHeader, idempotency_key, submit, submitted
from app.api.problems import problems
from app.api.schemas.examples import FULL_FORM, SHORT_FORM
from app.api.schemas.jobs import JobOut
from app.api.schemas.plan import PlanIn, PlanOut
from app.domain.errors import FieldError, InvalidRequestError
from app.domain.job import JobKind

router = APIRouter(tags=["Jobs"], route_class=KeyedRoute)

PlanBody = Annotated[
    PlanIn,
    Body(
        openapi_examples={
            "short": {"summary": "One rule, the short form", "value": SHORT_FORM},
            "full": {"summary": "The full form", "value": FULL_FORM},
            "job": {"summary": "As a job, for any number of images", "value": SHORT_FORM | {"as_job": True}},
        }
    ),
]


@router.post(
    "/v1/plan",
    summary="Plan a sync request (dry run)",
    response_model=PlanOut,
    responses={
        202: {"description": "A job of the kind `plan` (with `as_job`).", "model": JobOut},
        **problems(
            "host_not_allowed",
            "not_granted",
            "too_many_requests",
            "invalid_idempotency_key",
            "idempotency_key_reused",
            "schema_outdated",
            takes_body=True,
        ),
    },
)
async def plan_request(
    *,
    request: Request,
    body: PlanBody,
    caller: JobSubmitter,
    service: TheService,
    query: Annotated[ExplainQuery, Query()],
    idempotency: IdempotencyHeader = None,
) -> Response:
    """Ask both sides what would be copied; copies nothing. What goes wrong at a registry is data, as in a job.

    With `as_job` the answer is the job, as from `POST /v1/jobs` with `dry_run`. With `explain` it is about one tag:
    what each rule and matcher does with it, and what would become of it; not both.
    """
    if query.explain is not None:
        if body.as_job:
            detail = (
                "`explain` is answered at once: leave one of them out, or ask the job by GET /v1/jobs/{id}?explain="
            )
            problem = FieldError("/as_job", "as_job_with_explain", detail)
            raise InvalidRequestError(detail, errors=(problem,))
        with caller_limits(request).hold(caller, "plan"):
            explained = await service.previews.explain(body.request, query.explain, caller=caller)
        return JsonResponse(PlanOut.of(explained))
    if not body.as_job:
        with caller_limits(request).hold(caller, "plan"):
            return JsonResponse(PlanOut.of(await service.previews.preview(body.request, caller=caller)))
    key = idempotency_key(idempotency, caller=caller, body=body)
    submission = await submit(body, JobKind.PLAN, caller=caller, service=service, key=key)
    answer = await submitted(request, submission, query=query, key=key)
    answer.status_code = 202  # with 200 comes a plan
    return answer
