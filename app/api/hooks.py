"""Hooks: webhooks of registries come in here, and the list of push events.

Senders bring no API key; each proves itself in the way its registry's `hook` is set to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, RootModel
from starlette.responses import Response

from app.api.dependencies import JsonResponse, RegistryReader, TheService, page_answer, peer_of
from app.api.problems import problems
from app.api.queries import PageQuery
from app.api.schemas.hooks import HookEventOut, HookEventPage, ReceiptOut
from app.bootstrap.service import Service
from app.domain.errors import HookError
from app.domain.hook_event import HookEventFilter, HookEventState
from app.webhooks.inbound import RawDelivery

router = APIRouter(tags=["Push events"])

HOOK_PATH = "/v1/hooks/{registry}"
TOKEN_PATH = "/v1/hooks/{registry}/{token}"  # noqa: S105 — a path, not a secret
_DELIVERY = {
    "requestBody": {
        "required": True,
        "description": "Whatever the registry sends, in its hook's `format`.",
        "content": {"application/json": {"schema": {}}, "*/*": {"schema": {}}},
    }
}
_RESPONSES = {
    200: {"description": "Nothing is to be done; `reason` says why.", "model": ReceiptOut},
    **problems("hook_rejected", "hook_too_large", "too_many_requests", "unavailable", is_public=True),
}


class HookEventQuery(PageQuery):
    """Which events."""

    registry: str | None = Field(default=None, max_length=255, description="Those that came to this registry's hook.")
    status: HookEventState | None = None

    @property
    def wanted(self) -> HookEventFilter:
        """The filter asked for."""
        return HookEventFilter(registry=self.registry, state=self.status)


@router.post(
    HOOK_PATH,
    summary="Receive push events",
    status_code=202,
    response_model=ReceiptOut,
    responses=_RESPONSES,
    openapi_extra=_DELIVERY,
)
async def receive(registry: str, *, request: Request, service: TheService) -> Response:
    """Receive a registry's push events; policies with `on_push` that select what was pushed make jobs of them.

    Answered 202 as soon as it is stored for good: its jobs are made after that. No registry is asked before the answer.
    What does not concern us is answered 200, never with an error: senders repeat what was refused, some for ever. Any
    missing or wrong secret, and any unknown registry, is one and the same 401.
    """
    return await _receive(registry, request, service, token="")


@router.post(
    TOKEN_PATH,
    summary="Receive push events (token in the URL)",
    status_code=202,
    response_model=ReceiptOut,
    responses=_RESPONSES,
    openapi_extra=_DELIVERY,
)
async def receive_by_token(registry: str, token: str, *, request: Request, service: TheService) -> Response:
    """Receive push events of senders that can't sign (Docker Hub, Quay, Alibaba): `auth.type` is `url_token`."""
    return await _receive(registry, request, service, token=token)


@router.options(
    HOOK_PATH,
    summary="Validate a sender's origin",
    responses={
        200: {"description": "It may (`WebHook-Allowed-Origin`)."},
        **problems("hook_rejected", "too_many_requests", is_public=True),
    },
)
async def allow_origin(registry: str, *, request: Request, service: TheService) -> Response:
    """Answer the handshake of CloudEvents' web hooks, for the origins that the hook lists in `allowed_origins`."""
    return await _allow_origin(registry, request, service, token="")


@router.options(
    TOKEN_PATH,
    summary="Validate a sender's origin (token in the URL)",
    responses={
        200: {"description": "It may (`WebHook-Allowed-Origin`)."},
        **problems("hook_rejected", "too_many_requests", is_public=True),
    },
)
async def allow_origin_by_token(registry: str, token: str, *, request: Request, service: TheService) -> Response:
    """Answer the same handshake at an address with a token."""
    return await _allow_origin(registry, request, service, token=token)


@router.get(
    "/v1/hook-events",
    summary="List push events",
    response_model=HookEventPage,
    responses=problems("validation_failed", "invalid_cursor"),
)
async def list_hook_events(
    request: Request, *, caller: RegistryReader, service: TheService, query: Annotated[HookEventQuery, Query()]
) -> Response:
    """List what arrived and what became of it, the newest first; deliveries whose secret was wrong are not among it."""
    page = await service.push_events.list(query.wanted, query.page, caller=caller)
    return page_answer(request, page, out=HookEventPage, show=HookEventOut.of)


async def _receive(registry: str, request: Request, service: TheService, *, token: str) -> Response:
    delivery = RawDelivery(await request.body(), dict(request.headers), token)
    async with _slowing_failures(service, registry, request):
        receipt = await service.push_events.receive(registry, delivery)
    if receipt.answer is not None:
        return JsonResponse(RootModel[dict[str, str]](dict(receipt.answer)))
    return JsonResponse(ReceiptOut.of(receipt), status_code=202 if receipt.is_accepted else 200)


async def _allow_origin(registry: str, request: Request, service: TheService, *, token: str) -> Response:
    async with _slowing_failures(service, registry, request):
        headers = await service.push_events.answer_origin(registry, dict(request.headers), token=token)
    return Response(headers={**headers, "Allow": "OPTIONS, POST"})


@asynccontextmanager
async def _slowing_failures(service: Service, registry: str, request: Request) -> AsyncIterator[None]:
    try:
        yield
    except HookError as error:
        if error.code == "hook_rejected":
            peer = peer_of(request)
            await service.authentication.refuse("hook", peer=peer, target=registry, reason="secret")
        raise
