"""Registries: enter, change, remove, check."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from app.api.answers import JsonAnswer, conditional
from app.api.deps import Admin, Reader, TheService
from app.api.problems import problems
from app.api.schemas.registries import (
    REGISTRY_NAME_PATTERN,
    CheckIn,
    CheckOut,
    RegistryIn,
    RegistryOut,
    RegistryPage,
    shown_entry,
)
from app.domain.access import Caller
from app.domain.errors import ConflictError, FieldError, InvalidRequestError
from app.domain.registry import KeptRegistry

PATCH_ATTEMPTS = 5
"""A patch is worked out on what was read; when somebody else was quicker, it is worked out anew."""

router = APIRouter(tags=["registries"])

Name = Annotated[str, Path(pattern=REGISTRY_NAME_PATTERN, examples=["old-acr"])]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The `ETag` that was read: change this version or none.")
]


@router.get("/v1/registries", summary="List registries", response_model=RegistryPage, responses=problems())
async def list_registries(*, _: Reader, service: TheService) -> Response:
    """List all registries by name, without their secrets."""
    return JsonAnswer(RegistryPage(items=[_shown(kept) for kept in await service.registries.list()]))


@router.get(
    "/v1/registries/{name}",
    summary="Read a registry",
    response_model=RegistryOut,
    responses={304: {"description": "As in `If-None-Match`."}, **problems("not_found")},
)
async def get_registry(name: Name, *, request: Request, _: Reader, service: TheService) -> Response:
    """Read an entry, without its secrets."""
    return conditional(request, _answer(await service.registries.get(name)))


@router.put(
    "/v1/registries/{name}",
    summary="Enter or replace a registry",
    response_model=RegistryOut,
    responses={
        201: {"description": "Entered.", "model": RegistryOut},
        **problems("host_taken", "precondition_failed", "secret_required", "host_not_allowed", takes_body=True),
    },
)
async def put_registry(
    name: Name, *, body: RegistryIn, caller: Admin, service: TheService, if_match: IfMatch = None
) -> Response:
    """Enter a registry. A secret that is left out stays as it was, unless `host` or `insecure` change."""
    return await _put(service, caller, body=body, name=name, expected_version=_version(if_match))


@router.patch(
    "/v1/registries/{name}",
    summary="Change a registry",
    response_model=RegistryOut,
    responses=problems(
        "not_found", "host_taken", "precondition_failed", "secret_required", "host_not_allowed", takes_body=True
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "object"}, "example": {"limits": {"connections": 4}}}
                for media_type in ("application/merge-patch+json", "application/json")
            },
        }
    },
)
async def patch_registry(
    name: Name,
    *,
    patch: Annotated[dict[str, Any], Body()],
    caller: Admin,
    service: TheService,
    if_match: IfMatch = None,
) -> Response:
    """Change what is named, as a JSON merge patch (RFC 7396): null puts a field back to its default."""
    for _ in range(PATCH_ATTEMPTS):
        kept = await service.registries.get(name)
        version = _version(if_match)
        try:
            return await _put(
                service, caller, body=_patched(kept, patch), name=name, expected_version=version or kept.version
            )
        except ConflictError as error:
            if error.code != "precondition_failed" or if_match:
                raise
    raise ConflictError("others keep changing this entry; try again")


@router.delete(
    "/v1/registries/{name}",
    summary="Remove a registry",
    status_code=204,
    responses=problems("not_found", "precondition_failed"),
)
async def delete_registry(name: Name, *, caller: Admin, service: TheService, if_match: IfMatch = None) -> Response:
    """Remove an entry and its secrets; jobs that need it from now on ask anonymously."""
    await service.registries.delete(name, expected_version=_version(if_match), caller=caller)
    return Response(status_code=204)


@router.post(
    "/v1/registries/{name}/check",
    summary="Check a registry",
    response_model=CheckOut,
    responses=problems("not_found", takes_body=True),
)
async def check_registry(
    name: Name, *, _: Admin, service: TheService, body: Annotated[CheckIn | None, Body()] = None
) -> Response:
    """Reach it, log in, list, and open an upload when asked to, which is taken back. 200, whatever is found."""
    wanted = body or CheckIn()
    check = await service.checks.check(name, repository=wanted.repository, is_pushing=wanted.push)
    return JsonAnswer(CheckOut.model_validate(check))


async def _put(
    service: TheService, caller: Caller, *, body: RegistryIn, name: str, expected_version: int | None
) -> Response:
    if body.name not in {None, name}:
        detail = f"the path says {name!r}; an entry is not renamed"
        raise InvalidRequestError(detail, errors=(FieldError("/name", "name_mismatch", detail),))
    stored, is_new = await service.registries.put(body.entry(name), expected_version=expected_version, caller=caller)
    return _answer(stored, is_new=is_new)


def _answer(kept: KeptRegistry, *, is_new: bool = False) -> JsonAnswer:
    headers = {"ETag": f'"{kept.version}"'} | ({"Location": f"/v1/registries/{kept.entry.name}"} if is_new else {})
    return JsonAnswer(_shown(kept), status_code=201 if is_new else 200, headers=headers)


def _shown(kept: KeptRegistry) -> RegistryOut:
    return RegistryOut.of(kept.entry, created_at=kept.created_at, updated_at=kept.updated_at, version=kept.version)


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = re.fullmatch(r'"?(\d{1,18})"?', if_match.strip())
    return int(match[1]) if match else -1


def _patched(kept: KeptRegistry, patch: dict[str, Any]) -> RegistryIn:
    document = shown_entry(kept.entry)
    del document["tls"]["has_client_key"]
    document["auth"] = _proof(document["auth"], patch.get("auth"))
    if document["hook"] is not None:
        hook = patch.get("hook")
        document["hook"]["auth"] = _proof(
            document["hook"]["auth"], hook.get("auth") if isinstance(hook, dict) else None
        )
    changed = merged(document, patch)
    try:
        return RegistryIn.model_validate(changed)
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(found, body=changed) from error


def _proof(shown: dict[str, Any], patch: Any) -> dict[str, Any]:
    """Take what a patch changes; another way to prove something shares no fields with the one before."""
    if isinstance(patch, dict) and patch.get("type", shown["type"]) != shown["type"]:
        return {}
    return {name: value for name, value in shown.items() if not name.startswith("has_")}


def merged(document: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
