"""Policies (recurring syncs): create, change, delete, run; and import other tools' configuration."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api.dependencies import (
    JobReader,
    JobSubmitter,
    JsonResponse,
    KeyedRoute,
    PolicyReader,
    PolicyWriter,
    TheService,
    WaitQuery,
    caller_limits,
    page_answer,
)
from app.api.import_body import ImportQuery, import_body
from app.api.jobs import IdempotencyHeader, idempotency_key, job_headers, submitted
from app.api.preconditions import IfMatch, check_name, conditional, patched, put_patched, version_etag, version_of
from app.api.problems import problems
from app.api.queries import PageQuery
from app.api.schemas.imports import (
    EXAMPLES,
    IMPORTS,
    LIST,
    REGSYNC,
    ImportOut,
)
from app.api.schemas.jobs import JobOut
from app.api.schemas.policies import POLICY_NAME_PATTERN, PolicyIn, PolicyOut, PolicyPage
from app.bootstrap.service import Service
from app.domain.access import Caller
from app.domain.errors import NotFoundError
from app.domain.job import IdempotencyKey, JobFilter, JobKind, Submission
from app.domain.page import PageRequest
from app.domain.policy import StoredPolicy

IMPORT_PATH = "/v1/policies/import"

router = APIRouter(tags=["Recurring syncs"], route_class=KeyedRoute)


class PutQuery(BaseModel):
    """Whether to store anything."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Store nothing; answer what would be stored.")


Name = Annotated[str, Path(pattern=POLICY_NAME_PATTERN, examples=["acr-to-mirror"])]


@router.get(
    "/v1/policies",
    summary="List policies",
    response_model=PolicyPage,
    responses=problems("validation_failed", "invalid_cursor"),
)
async def list_policies(
    request: Request, *, caller: PolicyReader, service: TheService, query: Annotated[PageQuery, Query()]
) -> Response:
    """List policies by name, each with its next run and its last job."""
    page = await service.policies.list(query.page, caller=caller)
    return page_answer(request, page, out=PolicyPage, show=PolicyOut.of)


@router.post(
    IMPORT_PATH,
    summary="Import another tool's configuration",
    response_model=ImportOut,
    responses={
        201: {"description": "Created.", "model": ImportOut},
        202: {"description": "Made as jobs; of one alone `Location` says where it is.", "model": ImportOut},
        **problems(
            "name_conflict", "import_unreadable", "host_not_allowed", "not_granted", "quota_exceeded", takes_body=True
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file alone will do, as YAML or plain text, where nothing else is required.",
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [{"$ref": f"#/components/schemas/{body.__name__}"} for body in IMPORTS.values()]
                    },
                    "examples": {name: {"value": example} for name, example in EXAMPLES.items()},
                },
                "application/yaml": {"schema": {"type": "string"}, "example": REGSYNC["config"]},
                "text/plain": {"schema": {"type": "string"}, "example": LIST["config"]},
            },
        }
    },
)
async def import_policies(
    request: Request, *, caller: PolicyWriter, service: TheService, query: Annotated[ImportQuery, Query()]
) -> Response:
    """Make policies and registries, or jobs, of another tool's files or a list of images, or say what would be made.

    With the scope `policies:write`; `registries:write` besides where it makes registries, `jobs:submit` for jobs.
    `notes` lists every line that can't be carried over, and where we behave differently on purpose. All of it is made
    or nothing; a registry that is entered already stays as it is.
    """
    with caller_limits(request).hold(caller, "import"):
        content_type, content = request.headers.get("Content-Type", ""), await request.body()
        body = await asyncio.to_thread(import_body, content, content_type=content_type, query=query)
        as_job = body.as_ == "job"
        done = await service.imports.take_over(body.read, dry_run=query.dry_run, as_job=as_job, caller=caller)
    headers = {"Location": f"/v1/jobs/{done.jobs[0].id}"} if len(done.jobs) == 1 else {}
    status = 202 if done.jobs else 201 if done.has_made_something else 200
    return await asyncio.to_thread(lambda: JsonResponse(ImportOut.of(done), status_code=status, headers=headers))


@router.get(
    "/v1/policies/{name}",
    summary="Get a policy",
    response_model=PolicyOut,
    responses={
        304: {"description": "Unchanged: what `If-None-Match` names is still current."},
        **problems("not_found"),
    },
)
async def get_policy(name: Name, *, request: Request, caller: PolicyReader, service: TheService) -> Response:
    """Read a policy, its next run and its last job."""
    return conditional(request, _answer(await service.policies.get(name, caller=caller)))


@router.put(
    "/v1/policies/{name}",
    summary="Create or replace a policy",
    response_model=PolicyOut,
    responses={
        201: {"description": "Created.", "model": PolicyOut},
        **problems("precondition_failed", "host_not_allowed", "not_granted", takes_body=True),
    },
)
async def put_policy(
    name: Name,
    *,
    body: PolicyIn,
    caller: PolicyWriter,
    service: TheService,
    query: Annotated[PutQuery, Query()],
    if_match: IfMatch = None,
) -> Response:
    """Create or replace a policy. A running job goes on with what the policy said when it was created.

    With `dry_run` all is checked and nothing stored: the answer (200) is the policy as it would be, defaults filled in.
    """
    if query.dry_run:
        check_name(body.name, name, what="a policy")
        expected = version_of(if_match, body.version)
        found = await service.policies.check_put(body.policy(name), expected_version=expected, caller=caller)
        return JsonResponse(PolicyOut.of(found))
    return await _put(service, caller, body=body, name=name, expected_version=version_of(if_match, body.version))


@router.patch(
    "/v1/policies/{name}",
    summary="Update a policy",
    response_model=PolicyOut,
    responses=problems(
        "not_found", "conflict", "precondition_failed", "host_not_allowed", "not_granted", takes_body=True
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "object"}, "example": {"enabled": False}}
                for media_type in ("application/merge-patch+json", "application/json")
            },
        }
    },
)
async def patch_policy(
    name: Name,
    *,
    patch: Annotated[dict[str, Any], Body()],
    caller: PolicyWriter,
    service: TheService,
    if_match: IfMatch = None,
) -> Response:
    """Change what is named, as a JSON merge patch (RFC 7396): `{"enabled": false}` pauses, null takes back."""

    async def attempt() -> Response:
        existing = await service.policies.get(name, caller=caller)
        wanted = version_of(if_match)
        expected = existing.version if wanted is None else wanted
        body = patched(PolicyIn, existing.policy.model_dump(mode="json"), patch)
        return await _put(service, caller, body=body, name=name, expected_version=expected)

    return await put_patched(if_match, attempt, what="policy")


@router.delete(
    "/v1/policies/{name}",
    summary="Delete a policy",
    status_code=204,
    responses=problems("not_found", "precondition_failed"),
)
async def delete_policy(name: Name, *, caller: PolicyWriter, service: TheService, if_match: IfMatch = None) -> Response:
    """Remove a policy. Its jobs stay, and those that run go on."""
    await service.policies.delete(name, expected_version=version_of(if_match), caller=caller)
    return Response(status_code=204)


@dataclass(frozen=True, slots=True)
class _JobAsked:
    """A job of a policy that was asked for: by whom, under which key, and how long the answer may take."""

    request: Request
    service: Service
    caller: Caller
    query: WaitQuery
    key: IdempotencyKey | None

    async def answer(self, submission: Submission) -> Response:
        return await submitted(self.request, submission, query=self.query, key=self.key)


async def _asked(
    name: Name,
    *,
    request: Request,
    caller: JobSubmitter,
    service: TheService,
    query: Annotated[WaitQuery, Query()],
    idempotency: IdempotencyHeader = None,
) -> _JobAsked:
    kind = request.url.path.rpartition("/")[2]
    key = idempotency_key(idempotency, caller=caller, body=f"{kind} {name}")
    return _JobAsked(request, service, caller, query, key)


JobAsked = Annotated[_JobAsked, Depends(_asked)]
_JOB_MADE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The job is done already (with `?wait=`).", "model": JobOut},
    **problems(
        "not_found", "validation_failed", "too_many_requests", "invalid_idempotency_key", "idempotency_key_reused"
    ),
}


@router.post(
    "/v1/policies/{name}/run", summary="Run a policy now", status_code=202, response_model=JobOut, responses=_JOB_MADE
)
async def run_policy(name: Name, *, asked: JobAsked) -> Response:
    """Make a job of the whole policy, a paused one's too.

    While a run is at work the answer is the one that follows it, and asking again is answered with that same job: a
    policy never runs twice at once.
    """
    submission = await asked.service.policies.run(name, caller=asked.caller, idempotency=asked.key)
    return await asked.answer(submission)


@router.post(
    "/v1/policies/{name}/plan",
    summary="Plan a policy (dry run)",
    status_code=202,
    response_model=JobOut,
    responses=_JOB_MADE,
)
async def plan_policy(name: Name, *, asked: JobAsked) -> Response:
    """Make a job of the kind `plan`: what a run would do, at once beside any run; it copies nothing."""
    policy = (await asked.service.policies.get(name, caller=asked.caller)).policy
    submission = await asked.service.jobs.submit(
        policy.request, caller=asked.caller, labels=policy.labels, policy=name, kind=JobKind.PLAN, idempotency=asked.key
    )
    return await asked.answer(submission)


@router.get(
    "/v1/policies/{name}/plan",
    summary="Get a policy's last plan",
    response_model=JobOut,
    responses=problems("not_found"),
)
async def get_policy_plan(name: Name, *, caller: JobReader, service: TheService) -> Response:
    """Read the last job of the kind `plan` that was made of a policy."""
    await service.policies.get(name, caller=caller)
    wanted = JobFilter(policy=name, kind=JobKind.PLAN)
    found = (await service.jobs.list(wanted, PageRequest(limit=1), caller=caller)).items
    if not found:
        raise NotFoundError(f"no plan was made of the policy {name!r} yet: POST /v1/policies/{name}/plan makes one")
    return JsonResponse(JobOut.of(found[0]), headers=job_headers(found[0]))


async def _put(
    service: TheService, caller: Caller, *, body: PolicyIn, name: str, expected_version: int | None
) -> Response:
    check_name(body.name, name, what="a policy")
    stored, is_new = await service.policies.put(body.policy(name), expected_version=expected_version, caller=caller)
    return _answer(stored, is_new=is_new)


def _answer(existing: StoredPolicy, *, is_new: bool = False) -> JsonResponse:
    headers = {"Location": f"/v1/policies/{existing.policy.name}"} if is_new else {}
    answer = JsonResponse(PolicyOut.of(existing), status_code=201 if is_new else 200, headers=headers)
    # Runs and jobs change what is shown, not what `If-Match` is about: that is the version alone.
    answer.headers["ETag"] = version_etag(existing.version, answer)
    return answer
