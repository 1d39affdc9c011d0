"""Jobs: submit, list, get, wait for, cancel, retry, delete."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.api.dependencies import (
    ExplainQuery,
    JobCanceller,
    JobReader,
    JobSubmitter,
    JsonResponse,
    KeyedRoute,
    TheService,
    WaitQuery,
    caller_limits,
    page_answer,
    wait_for,
)
from app.api.preconditions import conditional
from app.api.problems import problems
from app.api.queries import (
    ImageQuery,
    JobQuery,
)
from app.api.schemas.examples import FULL_FORM, PLAN_FORM, SHORT_FORM
from app.api.schemas.explanation import ExplanationOut
from app.api.schemas.jobs import (
    ImageLogOut,
    ImageOut,
    ImagePage,
    JobIn,
    JobOut,
    JobPage,
    RetryIn,
    SubmittedRequest,
)
from app.bootstrap.service import Service
from app.clock import now
from app.domain.access import Caller, Scope
from app.domain.errors import InvalidRequestError
from app.domain.job import IdempotencyKey, Job, JobKind, Submission

MAX_POLL_SECONDS = 30
_POLLS_IN_A_JOBS_AGE = 10
"""A job is worth asking about again when it has become a tenth older."""

_IDEMPOTENCY_KEY = re.compile(r'"?([!#-~]([ !#-~]{0,253}[!#-~])?)"?')

router = APIRouter(tags=["Jobs"], route_class=KeyedRoute)

IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Any string of yours: the same key with the same body is the same job, however often it is sent.",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
    ),
]
JobBody = Annotated[
    JobIn,
    Body(
        openapi_examples={
            "short": {"summary": "One rule, the short form", "value": SHORT_FORM},
            "full": {"summary": "The full form", "value": FULL_FORM},
            "plan": {"summary": "A plan to be carried out", "value": PLAN_FORM},
        }
    ),
]


def idempotency_key(text: str | None, *, caller: Caller, body: BaseModel | str) -> IdempotencyKey | None:
    """Read the header, quoted (a structured field's string) or bare; raise `InvalidRequestError` for anything else.

    `body` is what must not differ: what was sent, or where nothing is, a text that says what was asked for.
    """
    if text is None:
        return None
    match = _IDEMPOTENCY_KEY.fullmatch(text.strip())
    if match is None:
        detail = "an idempotency key has 1 to 255 printable characters"
        raise InvalidRequestError(detail, code="invalid_idempotency_key")
    sent = body if isinstance(body, str) else body.model_dump(mode="json")
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return IdempotencyKey(caller.name, match[1], hashlib.sha256(canonical.encode()).hexdigest())


@router.post(
    "/v1/jobs",
    summary="Submit a sync request",
    status_code=202,
    response_model=JobOut,
    responses={
        200: {"description": "The job is done already (with `?wait=`).", "model": JobOut},
        **problems(
            "host_not_allowed",
            "not_granted",
            "too_many_requests",
            "quota_exceeded",
            "invalid_idempotency_key",
            "idempotency_key_reused",
            "schema_outdated",
            "plan_not_finished",
            takes_body=True,
        ),
    },
)
async def submit_job(
    request: Request,
    *,
    body: JobBody,
    caller: JobSubmitter,
    service: TheService,
    query: Annotated[WaitQuery, Query()],
    idempotency: IdempotencyHeader = None,
) -> Response:
    """Create a job and answer at once; a worker runs it. Nothing is fetched from a registry here."""
    key = idempotency_key(idempotency, caller=caller, body=body)
    if body.plan is not None:
        submission = await service.jobs.submit_plan(
            str(body.plan),
            caller=caller,
            labels=body.labels,
            priority=body.priority,
            notify=body.notify,
            idempotency=key,
        )
    else:
        kind = JobKind.PLAN if body.dry_run else JobKind.COPY
        submission = await submit(body, kind, caller=caller, service=service, key=key)
    return await submitted(request, submission, query=query, key=key)


async def submit(
    body: SubmittedRequest, kind: JobKind, *, caller: Caller, service: Service, key: IdempotencyKey | None
) -> Submission:
    """Submit a sync request with all that is said beside it."""
    return await service.jobs.submit(
        body.request,
        caller=caller,
        labels=body.labels,
        priority=body.priority,
        kind=kind,
        notify=body.notify,
        idempotency=key,
    )


async def submitted(
    request: Request, submission: Submission, *, query: WaitQuery, key: IdempotencyKey | None
) -> Response:
    """Answer with a job that was submitted: 200 for one that was waited for and is done, 202 for any other."""
    seconds = query.seconds(request)
    job = await wait_for(submission.job, request, seconds=seconds)
    headers = job_headers(job) | {"Location": f"/v1/jobs/{job.id}"}
    if key is not None:
        headers["Idempotency-Replayed"] = str(submission.replayed).lower()
    return JsonResponse(JobOut.of(job), status_code=200 if seconds and job.done else 202, headers=headers)


@router.get(
    "/v1/jobs", summary="List jobs", response_model=JobPage, responses=problems("validation_failed", "invalid_cursor")
)
async def list_jobs(
    request: Request, *, caller: JobReader, service: TheService, query: Annotated[JobQuery, Query()]
) -> Response:
    """List jobs, the newest first."""
    page = await service.jobs.list(query.wanted, query.page, caller=caller)
    return page_answer(request, page, out=JobPage, show=JobOut.of)


@router.get(
    "/v1/jobs/{job_id}",
    summary="Get a job, or wait for it",
    response_model=JobOut,
    responses={
        304: {"description": "Unchanged: what `If-None-Match` names is still current."},
        **problems("not_found", "validation_failed", "too_many_requests"),
    },
)
async def get_job(
    job_id: str, *, request: Request, caller: JobReader, service: TheService, query: Annotated[ExplainQuery, Query()]
) -> Response:
    """Read a job. Whatever became of it, this is 200: a job's errors are data.

    With `explain` its rules are asked about one tag, which reads from registries and so needs `jobs:submit` too.
    """
    job = await wait_for(await service.jobs.get(job_id, caller=caller), request, seconds=query.seconds(request))
    shown = JobOut.of(job)
    if query.explain is not None:
        caller.require(Scope.JOBS_SUBMIT)
        with caller_limits(request).hold(caller, "plan"):
            asked = await service.previews.explain(job.request, query.explain, caller=caller, compares=False)
        shown.explanation = ExplanationOut.of(asked.explanation) if asked.explanation else None
    return conditional(request, JsonResponse(shown, headers=job_headers(job)))


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Delete a finished job",
    status_code=204,
    responses=problems("not_found", "job_not_finished"),
)
async def delete_job(job_id: str, *, caller: JobCanceller, service: TheService) -> Response:
    """Delete the job, its images and its events; what it copied stays."""
    await service.jobs.delete(job_id, caller=caller)
    return Response(status_code=204)


@router.get(
    "/v1/jobs/{job_id}/images",
    summary="List a job's images",
    response_model=ImagePage,
    responses=problems("not_found", "validation_failed", "invalid_cursor"),
)
async def list_images(
    job_id: str, *, request: Request, caller: JobReader, service: TheService, query: Annotated[ImageQuery, Query()]
) -> Response:
    """List one row for every image the job copies."""
    page = await service.jobs.list_images(job_id, query.wanted, query.page, caller=caller)
    return page_answer(request, page, out=ImagePage, show=ImageOut.of)


@router.get(
    "/v1/jobs/{job_id}/images/{image}/log",
    summary="Get the log of a failed image",
    response_model=ImageLogOut,
    responses=problems("not_found"),
)
async def get_image_log(job_id: str, image: str, *, caller: JobReader, service: TheService) -> Response:
    """Read what the last attempt did for an image that failed, step by step; empty for one that did not."""
    return JsonResponse(ImageLogOut.of(await service.jobs.get_image_log(job_id, image, caller=caller)))


@router.post(
    "/v1/jobs/{job_id}/cancel",
    summary="Cancel a job",
    status_code=202,
    response_model=JobOut,
    responses=problems("not_found", "job_already_finished"),
)
async def cancel_job(job_id: str, *, caller: JobCanceller, service: TheService) -> Response:
    """Request cancellation: images that wait are cancelled at once, running ones within seconds, done ones stay."""
    job = await service.jobs.cancel(job_id, caller=caller)
    return JsonResponse(JobOut.of(job), status_code=202, headers=job_headers(job))


@router.post(
    "/v1/jobs/{job_id}/retry",
    summary="Retry a job",
    status_code=202,
    response_model=JobOut,
    responses=problems(
        "not_found", "job_not_finished", "nothing_to_retry", "not_granted", "quota_exceeded", takes_body=True
    ),
)
async def retry_job(
    job_id: str, *, caller: JobSubmitter, service: TheService, body: Annotated[RetryIn | None, Body()] = None
) -> Response:
    """Make a new job of what failed, or of everything; it names this one in `retry_of`."""
    job = await service.jobs.retry(job_id, only=(body or RetryIn()).only, caller=caller)
    headers = job_headers(job) | {"Location": f"/v1/jobs/{job.id}"}
    return JsonResponse(JobOut.of(job), status_code=202, headers=headers)


def job_headers(job: Job) -> dict[str, str]:
    """Return when a job is worth asking about again."""
    if job.done:
        return {}
    age = (now() - job.created_at).total_seconds()
    return {"Retry-After": str(max(1, min(MAX_POLL_SECONDS, round(age / _POLLS_IN_A_JOBS_AGE))))}
