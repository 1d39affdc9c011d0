"""Pages about work: the overview, jobs, one job live, and a new one."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from io import StringIO
from typing import Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from app.api.dependencies import JsonResponse, TheService
from app.api.field_errors import field_problems, path_of
from app.api.queries import MAX_SEARCH, JobQuery
from app.api.schemas.jobs import JobIn, JobOut
from app.api.schemas.problems import FieldProblem
from app.clock import now
from app.console.commands import commands_for
from app.console.formatting import share
from app.console.session import ConsoleRoute, Visitor, form_of, leave_to, page
from app.domain.access import Caller, Scope
from app.domain.errors import InvalidRequestError
from app.domain.job import Image, ImageFilter, ImageState, Job, JobFilter, JobState, TriggerType
from app.domain.page import MAX_LIMIT, PageRequest

JOBS_ON_A_PAGE = 50
IMAGES_ON_A_PAGE = 100
RUNNING_SHOWN = 8
CHART = timedelta(hours=1)
CHART_STEP = timedelta(minutes=5)
RECENT_JOBS = 500
"""Jobs of the last hour that the chart is drawn from."""
_REPEATED = frozenset({"state", "label"})

router = APIRouter(prefix="/console", route_class=ConsoleRoute, include_in_schema=False)


@router.get("")
@router.get("/")
async def overview(request: Request, caller: Visitor, service: TheService) -> Response:
    """Show what runs, what failed, and how policies and registries stand."""
    return page(request, "overview.html", **await _overview(service, caller))


@router.get("/now")
async def overview_now(request: Request, caller: Visitor, service: TheService) -> Response:
    """Show the part of the overview that is asked for again and again."""
    return page(request, "overview_now.html", **await _overview(service, caller))


@router.get("/jobs")
async def list_jobs(request: Request, caller: Visitor, service: TheService) -> Response:
    """List jobs, the newest first, by the filters of the API."""
    given = _given(request)
    shown: dict[str, Any] = {"given": given, "states": list(JobState), "triggers": get_args(TriggerType)}
    try:
        wanted = JobQuery.model_validate(given).wanted
        found = await service.jobs.list(
            wanted, PageRequest(JOBS_ON_A_PAGE, request.query_params.get("cursor")), caller=caller
        )
    except ValidationError as error:
        problems = [f"{one.parameter}: {one.detail}" for one in _query_problems(error)]
        return page(request, "jobs.html", status=422, jobs=(), next=None, more_path="", problems=problems, **shown)
    path = f"/console/jobs?{urlencode(given, doseq=True)}{'&' if given else ''}"
    return page(request, "jobs.html", jobs=found.items, next=found.next_cursor, more_path=path, problems=[], **shown)


@router.get("/jobs/{job_id}")
async def show_job(
    request: Request,
    job_id: str,
    *,
    caller: Visitor,
    service: TheService,
    state: str = "",
    q: str = "",
    cursor: str = "",
) -> Response:
    """Show a job with a page of its images."""
    shown = await _job(service, job_id, caller=caller, state=state, q=q, cursor=cursor)
    return page(request, "job.html", **shown, commands=commands_for(shown["job"], public_url=service.public_url))


@router.get("/jobs/{job_id}/live")
async def show_job_live(
    request: Request,
    job_id: str,
    *,
    caller: Visitor,
    service: TheService,
    state: str = "",
    q: str = "",
    cursor: str = "",
) -> Response:
    """Show the part of a job's page that is asked for again until the job is done."""
    return page(request, "job_live.html", **await _job(service, job_id, caller=caller, state=state, q=q, cursor=cursor))


@router.get("/jobs/{job_id}/images/{image}")
async def show_log(request: Request, job_id: str, *, image: str, caller: Visitor, service: TheService) -> Response:
    """Show what was done for an image that failed."""
    steps = await service.jobs.get_image_log(job_id, image, caller=caller)
    return page(request, "image_log.html", job_id=job_id, image=image, steps=steps)


@router.get("/jobs/{job_id}/job.json")
async def download_job(job_id: str, caller: Visitor, service: TheService) -> Response:
    """Hand out a job as the API shows it."""
    return JsonResponse(JobOut.of(await service.jobs.get(job_id, caller=caller)))


@router.get("/jobs/{job_id}/images.csv")
async def download_images(job_id: str, caller: Visitor, service: TheService) -> Response:
    """Hand out all images of a job as a table, as they are read."""
    await service.jobs.get(job_id, caller=caller)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.csv"'}
    return StreamingResponse(_csv(service, job_id, caller), media_type="text/csv", headers=headers)


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(job_id: str, caller: Visitor, service: TheService) -> Response:
    """Cancel a job."""
    caller.require(Scope.JOBS_CANCEL)
    await service.jobs.cancel(job_id, caller=caller)
    return leave_to(f"/console/jobs/{job_id}")


@router.post("/jobs/{job_id}/retry")
async def retry_job(request: Request, job_id: str, *, caller: Visitor, service: TheService) -> Response:
    """Make a new job of what failed, or of everything."""
    caller.require(Scope.JOBS_SUBMIT)
    everything = (await form_of(request)).get("only") == "all"
    job = await service.jobs.retry(job_id, only="all" if everything else "failed", caller=caller)
    return leave_to(f"/console/jobs/{job.id}")


@router.get("/submit")
async def new_job(request: Request, _: Visitor, *, source: str = "", destination: str = "") -> Response:
    """Show the form of a new job."""
    return page(request, "submit.html", form={"source": source, "destination": destination}, problems=[], plan=None)


@router.post("/submit")
async def submit_job(request: Request, caller: Visitor, service: TheService) -> Response:
    """Plan what the form says, or submit it."""
    caller.require(Scope.JOBS_SUBMIT)
    form = await form_of(request)
    try:
        body = _request(form)
        if form.get("action") == "run":
            submission = await service.jobs.submit(body.request, caller=caller, labels=body.labels)
            return leave_to(f"/console/jobs/{submission.job.id}")
        preview = await service.previews.preview(body.request, caller=caller)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, found['loc'])) or 'request'}: {found['msg']}" for found in error.errors()]
        return page(request, "submit.html", status=422, form=form, problems=problems, plan=None)
    except InvalidRequestError as error:
        problems = [f"{'.'.join(map(str, path_of(one.pointer)))}: {one.detail}" for one in error.errors]
        return page(request, "submit.html", status=422, form=form, problems=problems or [error.message], plan=None)
    totals = Counter(image.action for image in preview.images)
    there = sum(image.tally.bytes_done for image in preview.images)
    to_send = sum(image.tally.bytes_total for image in preview.images) - there
    shown: dict[str, Any] = {"totals": totals, "to_send": to_send, "there": there}
    return page(request, "submit.html", form=form, problems=[], plan=preview, **shown)


# --- below ------------------------------------------------------------------------------------------------------------


async def _overview(service: TheService, caller: Caller) -> dict[str, Any]:
    moment = now()
    recent = await service.jobs.list(JobFilter(since=moment - CHART), PageRequest(limit=RECENT_JOBS), caller=caller)
    running = await service.jobs.list(JobFilter((JobState.RUNNING,)), PageRequest(limit=RUNNING_SHOWN), caller=caller)
    failed = await service.jobs.list(JobFilter((JobState.FAILED,)), PageRequest(limit=RUNNING_SHOWN), caller=caller)
    backlog, policies = await service.gauges.read_backlog()
    states = await service.registries.get_states()
    registries = [stored.entry.name for stored in await service.registries.list(caller=caller)]
    return {
        "running": running.items,
        "failed": failed.items,
        "has_more": {"running": running.next_cursor, "failed": failed.next_cursor, "recent": recent.next_cursor},
        "backlog": backlog,
        "policies": [one for one in policies if caller.grant.sees_policy(one.policy)],
        "registries": [(name, states.get(name)) for name in registries],
        "throughput": _throughput(recent.items),
        "share": share,
        "now": moment,
    }


def _throughput(jobs: Sequence[Job]) -> list[int]:
    """Add up the bytes of jobs that ended, by steps of the last hour, the oldest first."""
    steps = [0] * int(CHART / CHART_STEP)
    for job in jobs:
        if job.finished_at is not None:
            step = int((now() - job.finished_at) / CHART_STEP)
            if 0 <= step < len(steps):
                steps[-1 - step] += job.progress.bytes.transferred
    return steps


async def _job(service: TheService, job_id: str, *, caller: Caller, state: str, q: str, cursor: str) -> dict[str, Any]:
    job = await service.jobs.get(job_id, caller=caller)
    wanted = ImageFilter((ImageState(state),) if state in list(ImageState) else (), q[:MAX_SEARCH] or None)
    found = await service.jobs.list_images(job_id, wanted, PageRequest(IMAGES_ON_A_PAGE, cursor or None), caller=caller)
    amounts = job.progress.bytes
    left = (amounts.total - amounts.done) / amounts.per_second if amounts.per_second and job.progress.planned else None
    return {
        "job": job,
        "images": found.items,
        "next": found.next_cursor,
        "state": state,
        "q": q,
        "cursor": cursor,
        "states": list(ImageState),
        "share": share(job),
        "eta": left,
        "age": ((job.finished_at or now()) - job.created_at).total_seconds(),
        "seconds_of": _seconds_of,
    }


async def _csv(service: TheService, job_id: str, caller: Caller) -> AsyncIterator[str]:
    cursor, head = None, ("state", "source", "destination", "digest", "bytes", "sent", "seconds", "code", "error")
    rows: list[Sequence[object]] = [head]
    while True:
        wanted = PageRequest(limit=MAX_LIMIT, cursor=cursor)
        found = await service.jobs.list_images(job_id, ImageFilter(), wanted, caller=caller)
        for image in found.items:
            code, text = (image.error.code, image.error.message) if image.error else ("", image.reason or "")
            amounts = (image.bytes.total, image.bytes.transferred, _seconds_of(image))
            cells = (image.state, image.source, image.destination, image.digest, *amounts, code, text)
            rows.append([_cell(value) for value in cells])
        lines = StringIO()
        csv.writer(lines).writerows(rows)
        yield lines.getvalue()
        rows, cursor = [], found.next_cursor
        if cursor is None:
            return


def _cell(value: object) -> str:
    """Write a cell that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _seconds_of(image: Image) -> float | None:
    if image.started_at is None:
        return None
    return ((image.finished_at or now()) - image.started_at).total_seconds()


def _request(form: dict[str, str]) -> JobIn:
    """Make a request of the form; raise pydantic's `ValidationError`."""
    request: dict[str, Any] = {
        "source": form.get("source", ""),
        "destination": _lines(form.get("destination", "")) or [""],
    }
    include, exclude = _lines(form.get("include", "")), _lines(form.get("exclude", ""))
    if include or exclude:
        request["tags"] = {"include": include, "exclude": exclude}
    if platforms := _lines(form.get("platforms", "")):
        request["platforms"] = platforms
    if (overwrite := form.get("overwrite", "always")) != "always":
        request["options"] = {"overwrite": overwrite}
    return JobIn.model_validate(request)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _given(request: Request) -> dict[str, list[str] | str]:
    """Return the filters that a form sends, without the fields that were left empty."""
    given: dict[str, list[str] | str] = {}
    for name in request.query_params:
        values = [text.strip() for text in request.query_params.getlist(name) if text.strip()]
        if values and name != "cursor":
            given[name] = values if name in _REPEATED else values[-1]
    return given


def _query_problems(error: ValidationError) -> list[FieldProblem]:
    found = [{**problem, "loc": ("query", *problem["loc"])} for problem in error.errors()]
    return field_problems(found, body=None)
