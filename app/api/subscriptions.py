"""Subscriptions: enter, change, remove, test; deliveries: look, send again.

All of it is for admins: an address may be all that is needed to write there.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.api.answers import JsonAnswer
from app.api.deps import Admin, TheService
from app.api.problems import problems
from app.api.queries import IfMatch, PageQuery, page_answer, version_of
from app.api.schemas.subscriptions import (
    DeliveryOut,
    DeliveryPage,
    SubscriptionIn,
    SubscriptionOut,
    SubscriptionPage,
)
from app.domain.errors import FieldError, InvalidRequestError
from app.domain.notification import Delivery, DeliveryFilter, DeliveryState, EventType, KeptSubscription

router = APIRouter(tags=["subscriptions"])

Name = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$", examples=["ci"])]
DeliveryId = Annotated[str, Path(max_length=64, examples=["msg_7d0f2b6c1e9a4835b0c4d2e6f8a19370"])]


class DeliveryQuery(PageQuery):
    """Which deliveries of a subscription."""

    state: DeliveryState | None = None
    event: EventType | None = None
    job: str | None = Field(default=None, max_length=64, description="Id of the job that is told of.")

    @property
    def wanted(self) -> DeliveryFilter:
        """The filter asked for."""
        return DeliveryFilter(state=self.state, event=self.event, job_id=self.job)


@router.get("/v1/subscriptions", summary="List subscriptions", response_model=SubscriptionPage, responses=problems())
async def list_subscriptions(*, _: Admin, service: TheService) -> Response:
    """List all subscriptions by name."""
    now = service.now()
    items = [SubscriptionOut.of(kept, now=now) for kept in await service.subscriptions.list()]
    return JsonAnswer(SubscriptionPage(items=items))


@router.get(
    "/v1/subscriptions/{name}",
    summary="Read a subscription",
    response_model=SubscriptionOut,
    responses=problems("not_found"),
)
async def get_subscription(name: Name, *, _: Admin, service: TheService) -> Response:
    """Read a subscription: also whether its endpoint takes what it is sent."""
    kept = await service.subscriptions.get(name)
    return JsonAnswer(SubscriptionOut.of(kept, now=service.now()), headers=_headers(kept))


@router.put(
    "/v1/subscriptions/{name}",
    summary="Enter or replace a subscription",
    response_model=SubscriptionOut,
    responses={
        201: {"description": "Entered.", "model": SubscriptionOut},
        **problems("precondition_failed", "host_not_allowed", takes_body=True),
    },
)
async def put_subscription(
    name: Name, *, body: SubscriptionIn, caller: Admin, service: TheService, if_match: IfMatch = None
) -> Response:
    """Enter a subscription. A new secret signs at once, the one before beside it for a day unless told otherwise."""
    if body.name not in {None, name}:
        detail = f"the path says {name!r}; a subscription is not renamed"
        raise InvalidRequestError(detail, errors=(FieldError("/name", "name_mismatch", detail),))
    done = await service.subscriptions.put(
        body.subscription(name),
        secret=body.secret,
        overlap=body.overlap,
        expected_version=version_of(if_match),
        caller=caller,
    )
    headers = _headers(done.kept) | ({"Location": f"/v1/subscriptions/{name}"} if done.is_new else {})
    out = SubscriptionOut.of(done.kept, now=service.now(), secret=done.made_secret)
    return JsonAnswer(out, status_code=201 if done.is_new else 200, headers=headers)


@router.delete(
    "/v1/subscriptions/{name}",
    summary="Remove a subscription",
    status_code=204,
    responses=problems("not_found", "precondition_failed"),
)
async def delete_subscription(name: Name, *, caller: Admin, service: TheService, if_match: IfMatch = None) -> Response:
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
async def send_test(name: Name, *, _: Admin, service: TheService) -> Response:
    """Have a signed `subscription.test` sent, once; what became of it is told at `Location`."""
    return _accepted(await service.subscriptions.test(name))


@router.get(
    "/v1/subscriptions/{name}/deliveries",
    summary="List deliveries",
    response_model=DeliveryPage,
    responses=problems("not_found", "validation_failed", "invalid_cursor"),
)
async def list_deliveries(
    name: Name, *, request: Request, _: Admin, service: TheService, query: Annotated[DeliveryQuery, Query()]
) -> Response:
    """List what was sent, or is to be, the newest first; kept for 30 days after its end."""
    page = await service.subscriptions.list_deliveries(name, query.wanted, query.page)
    return page_answer(request, page, out=DeliveryPage, show=DeliveryOut.of)


@router.get(
    "/v1/subscriptions/{name}/deliveries/{delivery_id}",
    summary="Read a delivery",
    response_model=DeliveryOut,
    responses=problems("not_found"),
)
async def get_delivery(name: Name, delivery_id: DeliveryId, *, _: Admin, service: TheService) -> Response:
    """Read what became of one message."""
    return JsonAnswer(DeliveryOut.of(await service.subscriptions.get_delivery(name, delivery_id)))


@router.post(
    "/v1/subscriptions/{name}/deliveries/{delivery_id}/redeliver",
    summary="Send a delivery again",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems("not_found", "subscription_disabled"),
)
async def redeliver(name: Name, delivery_id: DeliveryId, *, _: Admin, service: TheService) -> Response:
    """Send the same message again, under the same id, now and with all its attempts before it."""
    return _accepted(await service.subscriptions.redeliver(name, delivery_id))


def _accepted(delivery: Delivery) -> JsonAnswer:
    location = f"/v1/subscriptions/{delivery.subscription}/deliveries/{delivery.id}"
    return JsonAnswer(DeliveryOut.of(delivery), status_code=202, headers={"Location": location})


def _headers(kept: KeptSubscription) -> dict[str, str]:
    return {"ETag": f'"{kept.version}"', "Cache-Control": "no-store"}
