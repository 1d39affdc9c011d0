"""Jobs: submit, list, read, wait, stop, run again, forget."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from app.api.answers import JsonAnswer, conditional
from app.api.deps import Reader, Submitter, TheService
from app.api.problems import problems
from app.api.queries import (
    IdempotencyHeader,
    ImageQuery,
    JobQuery,
    WaitQuery,
    idempotency_key,
    page_answer,
)
from app.api.schemas.examples import FULL_FORM, SHORT_FORM
from app.api.schemas.jobs import ImageOut, ImagePage, JobIn, JobOut, JobPage, RetryIn
from app.api.waiting import wait_for
from app.domain.job import Job

MAX_POLL_SECONDS = 30
_POLLS_IN_A_JOBS_AGE = 10
"""A job is worth asking about again when it has become a tenth older."""

router = APIRouter(tags=["jobs"])

JobBody = Annotated[
    JobIn,
    Body(
        openapi_examples={
            "short": {"summary": "One rule, the short form", "value": SHORT_FORM},
            "full": {"summary": "The full form", "value": FULL_FORM},
        }
    ),
]


@router.post(
    "/v1/jobs",
    summary="Submit a sync request",
    status_code=202,
    response_model=JobOut,
    responses={
        200: {"description": "The job is done already (with `?wait=`).", "model": JobOut},
        **problems(
            "host_not_allowed", "invalid_idempotency_key", "idempotency_key_reused", "schema_outdated", takes_body=True
        ),
    },
)
async def submit_job(
    request: Request,
    *,
    body: JobBody,
    caller: Submitter,
    service: TheService,
    query: Annotated[WaitQuery, Query()],
    idempotency: IdempotencyHeader = None,
) -> Response:
    """Keep the request as a job and answer; a worker does it. Nothing is fetched from a registry here."""
    key = idempotency_key(idempotency, caller=caller, body=body)
    await service.registries.check_hosts(body.request)
    if body.notify is not None:
        await service.subscriptions.check_notify(body.notify)
    submission = await service.jobs.submit(
        body.request,
        caller=caller,
        labels=body.labels,
        priority=body.priority,
        notify=body.notify,
        idempotency=key,
    )
    job = await wait_for(submission.job, request, seconds=query.seconds(request))
    headers = _headers(job, service.now()) | {"Location": f"/v1/jobs/{job.id}"}
    if key is not None:
        headers["Idempotency-Replayed"] = str(submission.replayed).lower()
    return JsonAnswer(JobOut.of(job), status_code=200 if query.seconds(request) and job.done else 202, headers=headers)


@router.get(
    "/v1/jobs", summary="List jobs", response_model=JobPage, responses=problems("validation_failed", "invalid_cursor")
)
async def list_jobs(
    request: Request, *, _: Reader, service: TheService, query: Annotated[JobQuery, Query()]
) -> Response:
    """List jobs, the newest first."""
    page = await service.jobs.list(query.wanted, query.page)
    return page_answer(request, page, out=JobPage, show=JobOut.of)


@router.get(
    "/v1/jobs/{job_id}",
    summary="Read a job, or wait for it",
    response_model=JobOut,
    responses={304: {"description": "As in `If-None-Match`."}, **problems("not_found", "validation_failed")},
)
async def get_job(
    job_id: str, *, request: Request, _: Reader, service: TheService, query: Annotated[WaitQuery, Query()]
) -> Response:
    """Read a job. Whatever became of it, this is 200: a job's errors are data."""
    job = await wait_for(await service.jobs.get(job_id), request, seconds=query.seconds(request))
    return conditional(request, JsonAnswer(JobOut.of(job), headers=_headers(job, service.now())))


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Forget a job that is done",
    status_code=204,
    responses=problems("not_found", "job_not_finished"),
)
async def delete_job(job_id: str, *, caller: Submitter, service: TheService) -> Response:
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
    job_id: str, *, request: Request, _: Reader, service: TheService, query: Annotated[ImageQuery, Query()]
) -> Response:
    """List one row for every image the job copies."""
    page = await service.jobs.list_images(job_id, state=query.state, page=query.page)
    return page_answer(request, page, out=ImagePage, show=ImageOut.of)


@router.post(
    "/v1/jobs/{job_id}/cancel",
    summary="Stop a job",
    status_code=202,
    response_model=JobOut,
    responses=problems("not_found", "job_already_finished"),
)
async def cancel_job(job_id: str, *, caller: Submitter, service: TheService) -> Response:
    """Ask for the job to stop: images that wait are cancelled at once, running ones within seconds, done ones stay."""
    job = await service.jobs.cancel(job_id, caller=caller)
    return JsonAnswer(JobOut.of(job), status_code=202, headers=_headers(job, service.now()))


@router.post(
    "/v1/jobs/{job_id}/retry",
    summary="Run a job again",
    status_code=202,
    response_model=JobOut,
    responses=problems("not_found", "job_not_finished", "nothing_to_retry", takes_body=True),
)
async def retry_job(
    job_id: str, *, caller: Submitter, service: TheService, body: Annotated[RetryIn | None, Body()] = None
) -> Response:
    """Make a new job of what failed, or of everything; it names this one in `retry_of`."""
    job = await service.jobs.retry(job_id, only=(body or RetryIn()).only, caller=caller)
    headers = _headers(job, service.now()) | {"Location": f"/v1/jobs/{job.id}"}
    return JsonAnswer(JobOut.of(job), status_code=202, headers=headers)


def _headers(job: Job, now: datetime) -> dict[str, str]:
    if job.done:
        return {}
    age = (now - job.created_at).total_seconds()
    return {"Retry-After": str(max(1, min(MAX_POLL_SECONDS, round(age / _POLLS_IN_A_JOBS_AGE))))}
