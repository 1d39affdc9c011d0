"""Registries: create, change, delete, check."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import Response

from app.api.dependencies import JsonResponse, KeyedRoute, RegistryReader, RegistryWriter, TheService
from app.api.preconditions import IfMatch, check_name, conditional, patched, put_patched, version_etag, version_of
from app.api.problems import problems
from app.api.queries import DeleteQuery
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
from app.domain.registry import StoredRegistry
from app.domain.registry_state import RegistryState
from app.services.check_requests import CheckRequest

router = APIRouter(tags=["Registries"], route_class=KeyedRoute)

Name = Annotated[str, Path(pattern=REGISTRY_NAME_PATTERN, examples=["old-acr"])]


@router.get("/v1/registries", summary="List registries", response_model=RegistryPage, responses=problems())
async def list_registries(*, caller: RegistryReader, service: TheService) -> Response:
    """List all registries by name, without their secrets."""
    states = await service.registries.get_states()
    shown = [
        RegistryOut.of(stored, states.get(stored.entry.name)) for stored in await service.registries.list(caller=caller)
    ]
    return JsonResponse(RegistryPage(items=shown))


@router.get(
    "/v1/registries/{name}",
    summary="Get a registry",
    response_model=RegistryOut,
    responses={
        304: {"description": "Unchanged: what `If-None-Match` names is still current."},
        **problems("not_found"),
    },
)
async def get_registry(name: Name, *, request: Request, caller: RegistryReader, service: TheService) -> Response:
    """Read an entry, without its secrets."""
    states = await service.registries.get_states()
    return conditional(request, _answer(await service.registries.get(name, caller=caller), states.get(name)))


@router.put(
    "/v1/registries/{name}",
    summary="Create or replace a registry",
    response_model=RegistryOut,
    responses={
        201: {"description": "Created.", "model": RegistryOut},
        **problems(
            "host_taken", "precondition_failed", "secret_required", "host_not_allowed", "not_granted", takes_body=True
        ),
    },
)
async def put_registry(
    name: Name, *, body: RegistryIn, caller: RegistryWriter, service: TheService, if_match: IfMatch = None
) -> Response:
    """Create or replace a registry. A secret that is left out stays as it was, unless `host` or `insecure` change."""
    return await _put(service, caller, body=body, name=name, expected_version=version_of(if_match, body.version))


@router.patch(
    "/v1/registries/{name}",
    summary="Update a registry",
    response_model=RegistryOut,
    responses=problems(
        "not_found",
        "host_taken",
        "precondition_failed",
        "secret_required",
        "host_not_allowed",
        "not_granted",
        takes_body=True,
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
    caller: RegistryWriter,
    service: TheService,
    if_match: IfMatch = None,
) -> Response:
    """Change what is named, as a JSON merge patch (RFC 7396): null puts a field back to its default."""

    async def attempt() -> Response:
        existing = await service.registries.get(name, caller=caller)
        wanted = version_of(if_match)
        expected = existing.version if wanted is None else wanted
        return await _put(service, caller, body=_patched(existing, patch), name=name, expected_version=expected)

    return await put_patched(if_match, attempt, what="entry")


@router.delete(
    "/v1/registries/{name}",
    summary="Delete a registry",
    status_code=204,
    responses=problems("not_found", "precondition_failed", "registry_in_use", "not_granted", "validation_failed"),
)
async def delete_registry(
    name: Name,
    *,
    caller: RegistryWriter,
    service: TheService,
    query: Annotated[DeleteQuery, Query()],
    if_match: IfMatch = None,
) -> Response:
    """Remove an entry and its secrets; jobs that need it from now on ask anonymously.

    One that policies copy from or to stays, unless `force` is true.
    """
    expected = version_of(if_match)
    await service.registries.delete(name, expected_version=expected, caller=caller, is_forced=query.force)
    return Response(status_code=204)


@router.post(
    "/v1/registries/{name}/check",
    summary="Check a registry",
    response_model=CheckOut,
    responses=problems("not_found", "not_granted", takes_body=True),
)
async def check_registry(
    name: Name, *, caller: RegistryWriter, service: TheService, body: Annotated[CheckIn | None, Body()] = None
) -> Response:
    """Reach it, log in, list, read a byte of a blob, and open an upload when asked to, which is taken back.

    200, whatever is found. It is the way a copy goes: what a redirect to storage, a token server or a private address
    gets in the way of shows here. Reading costs a pull where pulls are counted.
    """
    wanted = body or CheckIn()
    target = CheckRequest(wanted.repository, wanted.namespace, is_pushing=wanted.push)
    check = await service.checks.check(name, target, caller=caller)
    return JsonResponse(CheckOut.model_validate(check))


async def _put(
    service: TheService, caller: Caller, *, body: RegistryIn, name: str, expected_version: int | None
) -> Response:
    check_name(body.name, name, what="an entry")
    stored, is_new = await service.registries.put(body.entry(name), expected_version=expected_version, caller=caller)
    return _answer(stored, is_new=is_new)


def _answer(existing: StoredRegistry, state: RegistryState | None = None, *, is_new: bool = False) -> JsonResponse:
    headers = {"Location": f"/v1/registries/{existing.entry.name}"} if is_new else {}
    answer = JsonResponse(RegistryOut.of(existing, state), status_code=201 if is_new else 200, headers=headers)
    answer.headers["ETag"] = version_etag(existing.version, answer)
    return answer


def _patched(existing: StoredRegistry, change: dict[str, Any]) -> RegistryIn:
    document = shown_entry(existing.entry)
    del document["tls"]["has_client_key"]
    document["auth"] = _proof(document["auth"], change.get("auth"))
    if document["hook"] is not None:
        hook = change.get("hook")
        document["hook"]["auth"] = _proof(
            document["hook"]["auth"], hook.get("auth") if isinstance(hook, dict) else None
        )
    return patched(RegistryIn, document, change)


def _proof(shown: dict[str, Any], patch: Any) -> dict[str, Any]:
    """Take what a patch changes; another way to prove something shares no fields with the one before."""
    if isinstance(patch, dict) and patch.get("type", shown["type"]) != shown["type"]:
        return {}
    return {name: value for name, value in shown.items() if not name.startswith("has_")}
