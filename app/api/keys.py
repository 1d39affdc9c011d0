"""API keys: create, list, revoke."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.api.dependencies import JsonResponse, KeyAdmin, KeyedRoute, TheService
from app.api.problems import problems
from app.api.schemas.keys import KeyIn, KeyOut, KeyPage, NewKeyOut

router = APIRouter(tags=["API keys"], route_class=KeyedRoute)


@router.post(
    "/v1/keys",
    summary="Create an API key",
    status_code=201,
    response_model=NewKeyOut,
    responses=problems("name_conflict", "not_granted", takes_body=True),
)
async def create_key(body: KeyIn, *, caller: KeyAdmin, service: TheService) -> Response:
    """Make a key and show it, once. The first key ends the time in which local callers need none."""
    made = await service.keys.create(
        name=body.name,
        scopes=body.allowed_scopes,
        grant=body.grant,
        expires_seconds=body.expires_seconds,
        caller=caller,
    )
    out = NewKeyOut(**KeyOut.of(made.key).model_dump(), key=made.text)
    return JsonResponse(out, status_code=201, headers={"Location": f"/v1/keys/{made.key.id}"})


@router.get("/v1/keys", summary="List API keys", response_model=KeyPage, responses=problems())
async def list_keys(*, _: KeyAdmin, service: TheService) -> Response:
    """List all keys, without the keys themselves."""
    return JsonResponse(KeyPage(items=[KeyOut.of(key) for key in await service.keys.list()]))


@router.delete(
    "/v1/keys/{key_id}", summary="Revoke an API key", status_code=204, responses=problems("not_found", "last_admin_key")
)
async def revoke_key(key_id: str, *, caller: KeyAdmin, service: TheService) -> Response:
    """Revoke a key, at once and for good."""
    await service.keys.revoke(key_id, caller=caller)
    return Response(status_code=204)
