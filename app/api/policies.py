"""Policies: keep, change, remove, run; and take over what other tools were told."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from app.api.answers import JsonAnswer, conditional, etag_of
from app.api.deps import Admin, Reader, Submitter, TheService
from app.api.problems import problems
from app.api.queries import IdempotencyHeader, PageQuery, WaitQuery, idempotency_key, page_answer
from app.api.registries import merged
from app.api.schemas.imports import (
    IMAGE_SYNCER,
    IMPORTS,
    REGSYNC,
    SKOPEO,
    ImageSyncerIn,
    ImportFormat,
    ImportOut,
    RegsyncIn,
    SkopeoIn,
    import_schema,
)
from app.api.schemas.jobs import JobOut
from app.api.schemas.policies import POLICY_NAME_PATTERN, PolicyIn, PolicyOut, PolicyPage
from app.api.waiting import wait_for
from app.domain.access import Caller
from app.domain.errors import ConflictError, FieldError, InvalidRequestError
from app.domain.policy import KeptPolicy
from app.domain.trigger import Policy

PATCH_ATTEMPTS = 5
"""A patch is worked out on what was read; when somebody else was quicker, it is worked out anew."""
_YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/plain"})
_ETAG = re.compile(r'"?(\d{1,18})(-[0-9a-f]+)?"?')

router = APIRouter(tags=["policies"])


class ImportQuery(BaseModel):
    """Whose files these are, and whether to make anything of them."""

    model_config = ConfigDict(extra="forbid")

    format: ImportFormat
    dry_run: bool = Field(default=False, description="Make nothing; say what would be made.")


Name = Annotated[str, Path(pattern=POLICY_NAME_PATTERN, examples=["acr-to-mirror"])]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The `ETag` that was read: change this version or none.")
]


@router.get(
    "/v1/policies",
    summary="List policies",
    response_model=PolicyPage,
    responses=problems("validation_failed", "invalid_cursor"),
)
async def list_policies(
    request: Request, *, _: Reader, service: TheService, query: Annotated[PageQuery, Query()]
) -> Response:
    """List policies by name, each with its next run and its last job."""
    page = await service.policies.list(query.page)
    return page_answer(request, page, out=PolicyPage, show=PolicyOut.of)


@router.post(
    "/v1/policies/import",
    summary="Take over what another tool was told",
    response_model=ImportOut,
    responses={
        201: {"description": "Made.", "model": ImportOut},
        **problems("name_conflict", "import_unreadable", takes_body=True),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "For `image-syncer` and `regsync` the file alone will do, as YAML.",
            "content": {
                "application/json": {
                    "schema": {"oneOf": [import_schema(body) for body in IMPORTS.values()]},
                    "examples": {
                        "image-syncer": {"value": IMAGE_SYNCER},
                        "skopeo": {"value": SKOPEO},
                        "regsync": {"value": REGSYNC},
                    },
                },
                "application/yaml": {"schema": {"type": "string"}, "example": REGSYNC["config"]},
            },
        }
    },
)
async def import_policies(
    request: Request, *, caller: Admin, service: TheService, query: Annotated[ImportQuery, Query()]
) -> Response:
    """Make policies and registries of the files of image-syncer, `skopeo sync` or regsync, or say what would be made.

    `notes` lists every line that can't be carried over, and where we behave differently on purpose. All of it is made
    or nothing; a registry that is entered already stays as it is.
    """
    body = await _import_body(request, query.format)
    done = await service.imports.take_over(body.read, dry_run=query.dry_run, caller=caller)
    return JsonAnswer(ImportOut.of(done), status_code=201 if done.is_made else 200)


@router.get(
    "/v1/policies/{name}",
    summary="Read a policy",
    response_model=PolicyOut,
    responses={304: {"description": "As in `If-None-Match`."}, **problems("not_found")},
)
async def get_policy(name: Name, *, request: Request, _: Reader, service: TheService) -> Response:
    """Read a policy, its next run and its last job."""
    return conditional(request, _answer(await service.policies.get(name)))


@router.put(
    "/v1/policies/{name}",
    summary="Keep or replace a policy",
    response_model=PolicyOut,
    responses={
        201: {"description": "Kept.", "model": PolicyOut},
        **problems("precondition_failed", "host_not_allowed", takes_body=True),
    },
)
async def put_policy(
    name: Name, *, body: PolicyIn, caller: Submitter, service: TheService, if_match: IfMatch = None
) -> Response:
    """Keep a policy. A job that runs goes on with what the policy said when it was made."""
    return await _put(service, caller, body=body, name=name, expected_version=_version(if_match))


@router.patch(
    "/v1/policies/{name}",
    summary="Change a policy",
    response_model=PolicyOut,
    responses=problems("not_found", "conflict", "precondition_failed", "host_not_allowed", takes_body=True),
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
    caller: Submitter,
    service: TheService,
    if_match: IfMatch = None,
) -> Response:
    """Change what is named, as a JSON merge patch (RFC 7396): `{"enabled": false}` pauses, null takes back."""
    for _ in range(PATCH_ATTEMPTS):
        kept = await service.policies.get(name)
        expected = kept.version if if_match is None else _version(if_match)
        try:
            return await _put(service, caller, body=_patched(kept.policy, patch), name=name, expected_version=expected)
        except ConflictError as error:
            if error.code != "precondition_failed" or if_match is not None:
                raise
    raise ConflictError("others keep changing this policy; try again")


@router.delete(
    "/v1/policies/{name}",
    summary="Remove a policy",
    status_code=204,
    responses=problems("not_found", "precondition_failed"),
)
async def delete_policy(name: Name, *, caller: Submitter, service: TheService, if_match: IfMatch = None) -> Response:
    """Remove a policy. Its jobs stay, and those that run go on."""
    await service.policies.delete(name, expected_version=_version(if_match), caller=caller)
    return Response(status_code=204)


@router.post(
    "/v1/policies/{name}/run",
    summary="Run a policy now",
    status_code=202,
    response_model=JobOut,
    responses={
        200: {"description": "The job is done already (with `?wait=`).", "model": JobOut},
        **problems("not_found", "validation_failed", "invalid_idempotency_key", "idempotency_key_reused"),
    },
)
async def run_policy(
    name: Name,
    *,
    request: Request,
    caller: Submitter,
    service: TheService,
    query: Annotated[WaitQuery, Query()],
    idempotency: IdempotencyHeader = None,
) -> Response:
    """Make a job of the whole policy, a paused one's too.

    While a run is at work the answer is the one that follows it, and asking again is answered with that same job: a
    policy never runs twice at once.
    """
    key = idempotency_key(idempotency, caller=caller, body=f"run {name}")
    submission = await service.policies.run(name, caller=caller, idempotency=key)
    job = await wait_for(submission.job, request, seconds=query.seconds(request))
    headers = {"Location": f"/v1/jobs/{job.id}"} | ({} if job.done else {"Retry-After": "1"})
    if key is not None:
        headers["Idempotency-Replayed"] = str(submission.replayed).lower()
    return JsonAnswer(JobOut.of(job), status_code=200 if job.done else 202, headers=headers)


async def _import_body(request: Request, kind: ImportFormat) -> ImageSyncerIn | SkopeoIn | RegsyncIn:
    content = await request.body()
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    document: Any
    try:
        text = content.decode()
        if media_type == "application/json":
            document = json.loads(text)
        elif media_type in _YAML_TYPES:
            document = {"images" if kind == "image-syncer" else "config": text}
        else:
            detail = "the body has to be application/json or application/yaml"
            raise InvalidRequestError(detail, code="unsupported_media_type")
        return IMPORTS[kind].model_validate(document)
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(found, body=document) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body can't be read: {error}", code="malformed_json") from error


async def _put(
    service: TheService, caller: Caller, *, body: PolicyIn, name: str, expected_version: int | None
) -> Response:
    if body.name not in {None, name}:
        detail = f"the path says {name!r}; a policy is not renamed"
        raise InvalidRequestError(detail, errors=(FieldError("/name", "name_mismatch", detail),))
    policy = body.policy(name)
    await service.registries.check_hosts(policy.request)
    stored, is_new = await service.policies.put(policy, expected_version=expected_version, caller=caller)
    return _answer(stored, is_new=is_new)


def _answer(kept: KeptPolicy, *, is_new: bool = False) -> JsonAnswer:
    headers = {"Location": f"/v1/policies/{kept.policy.name}"} if is_new else {}
    answer = JsonAnswer(PolicyOut.of(kept), status_code=201 if is_new else 200, headers=headers)
    # Runs and jobs change what is shown, not what `If-Match` is about: that is the version alone.
    answer.headers["ETag"] = f'"{kept.version}-{etag_of(bytes(answer.body)).strip(chr(34))}"'
    return answer


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    return int(match[1]) if match else -1


def _patched(kept: Policy, patch: dict[str, Any]) -> PolicyIn:
    try:
        return PolicyIn.model_validate(merged(kept.model_dump(mode="json"), patch))
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(found, body=patch) from error
