"""Subscriptions: create, change, delete, test; deliveries: list, redeliver.

All of it is for admins: an address may be all that is needed to write there.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.api.dependencies import HookAdmin, JsonResponse, KeyedRoute, TheService, page_answer
from app.api.preconditions import IfMatch, check_name, version_etag, version_of
from app.api.problems import problems
from app.api.queries import PageQuery
from app.api.schemas.subscriptions import (
    DeliveryOut,
    DeliveryPage,
    SubscriptionIn,
    SubscriptionOut,
    SubscriptionPage,
)
from app.clock import now
from app.domain.notification import Delivery, DeliveryFilter, DeliveryState, EventType, StoredSubscription

router = APIRouter(tags=["Notifications"], route_class=KeyedRoute)

Name = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", examples=["ci"])]
DeliveryId = Annotated[str, Path(max_length=64, examples=["msg_7d0f2b6c1e9a4835b0c4d2e6f8a19370"])]


class DeliveryQuery(PageQuery):
    """Which deliveries of a subscription."""

    state: DeliveryState | None = None
    event: EventType | None = None
    job: str | None = Field(default=None, max_length=64, description="Id of the job that the message is about.")

    @property
    def wanted(self) -> DeliveryFilter:
        """The filter asked for."""
        return DeliveryFilter(state=self.state, event=self.event, job_id=self.job)


@router.get("/v1/subscriptions", summary="List subscriptions", response_model=SubscriptionPage, responses=problems())
async def list_subscriptions(*, _: HookAdmin, service: TheService) -> Response:
    """List all subscriptions by name."""
    items = [SubscriptionOut.of(existing, now=now()) for existing in await service.subscriptions.list()]
    return JsonResponse(SubscriptionPage(items=items))


@router.get(
    "/v1/subscriptions/{name}",
    summary="Get a subscription",
    response_model=SubscriptionOut,
    responses=problems("not_found"),
)
async def get_subscription(name: Name, *, _: HookAdmin, service: TheService) -> Response:
    """Read a subscription: also whether its endpoint takes what it is sent."""
    existing = await service.subscriptions.get(name)
    return JsonResponse(SubscriptionOut.of(existing, now=now()), headers=_headers(existing))


@router.put(
    "/v1/subscriptions/{name}",
    summary="Create or replace a subscription",
    response_model=SubscriptionOut,
    responses={
        201: {"description": "Created.", "model": SubscriptionOut},
        **problems("precondition_failed", "host_not_allowed", "secret_required", takes_body=True),
    },
)
async def put_subscription(
    name: Name, *, body: SubscriptionIn, caller: HookAdmin, service: TheService, if_match: IfMatch = None
) -> Response:
    """Create or replace a subscription. A new secret signs at once, the old one for `secret_overlap` (24 h) too."""
    check_name(body.name, name, what="a subscription")
    done = await service.subscriptions.put(
        body.subscription(name),
        secret=body.secret,
        overlap=body.overlap,
        expected_version=version_of(if_match, body.version),
        caller=caller,
    )
    headers = _headers(done.existing) | ({"Location": f"/v1/subscriptions/{name}"} if done.is_new else {})
    out = SubscriptionOut.of(done.existing, now=now(), secret=done.made_secret)
    return JsonResponse(out, status_code=201 if done.is_new else 200, headers=headers)


@router.delete(
    "/v1/subscriptions/{name}",
    summary="Delete a subscription",
    status_code=204,
    responses=problems("not_found", "precondition_failed"),
)
async def delete_subscription(
    name: Name, *, caller: HookAdmin, service: TheService, if_match: IfMatch = None
) -> Response:
    """Remove a subscription with its secrets and deliveries; what has not been sent never is."""
    await service.subscriptions.delete(name, expected_version=version_of(if_match), caller=caller)
    return Response(status_code=204)


@router.post(
    "/v1/subscriptions/{name}/test",
    summary="Send a test message",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems("not_found"),
)
async def send_test(name: Name, *, _: HookAdmin, service: TheService) -> Response:
    """Send a signed `subscription.test`, once; what became of it is at `Location`."""
    return _accepted(await service.subscriptions.test(name))


@router.get(
    "/v1/subscriptions/{name}/deliveries",
    summary="List deliveries",
    response_model=DeliveryPage,
    responses=problems("not_found", "validation_failed", "invalid_cursor"),
)
async def list_deliveries(
    name: Name, *, request: Request, _: HookAdmin, service: TheService, query: Annotated[DeliveryQuery, Query()]
) -> Response:
    """List what was sent, or is to be, the newest first; kept for 30 days after its end."""
    page = await service.subscriptions.list_deliveries(name, query.wanted, query.page)
    return page_answer(request, page, out=DeliveryPage, show=DeliveryOut.of)


@router.get(
    "/v1/subscriptions/{name}/deliveries/{delivery_id}",
    summary="Get a delivery",
    response_model=DeliveryOut,
    responses=problems("not_found"),
)
async def get_delivery(name: Name, delivery_id: DeliveryId, *, _: HookAdmin, service: TheService) -> Response:
    """Read what became of one message."""
    return JsonResponse(DeliveryOut.of(await service.subscriptions.get_delivery(name, delivery_id)))


@router.post(
    "/v1/subscriptions/{name}/deliveries/{delivery_id}/redeliver",
    summary="Redeliver a message",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems("not_found", "subscription_disabled"),
)
async def redeliver(name: Name, delivery_id: DeliveryId, *, _: HookAdmin, service: TheService) -> Response:
    """Send the same message again, under the same id, now and with all its attempts before it."""
    return _accepted(await service.subscriptions.redeliver(name, delivery_id))


def _accepted(delivery: Delivery) -> JsonResponse:
    location = f"/v1/subscriptions/{delivery.subscription}/deliveries/{delivery.id}"
    return JsonResponse(DeliveryOut.of(delivery), status_code=202, headers={"Location": location})


def _headers(existing: StoredSubscription) -> dict[str, str]:
    return {"ETag": version_etag(existing.version), "Cache-Control": "no-store"}
