"""A job's progress as it happens: server-sent events, or the same events as JSON pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from app.api.dependencies import JobReader, TheService, caller_limits, page_answer, until
from app.api.problems import problems
from app.api.queries import PageQuery
from app.api.schemas.events import EVENT_STREAM, EventOut, EventPage
from app.clock import now
from app.domain.errors import UnavailableError
from app.domain.job import JobEvent
from app.observability import get_logger

HEARTBEAT_SECONDS = 15
"""Shorter than the silence any common proxy allows."""
RECONNECT_MILLISECONDS = 3_000
EVENT_ID_PATTERN = r"^[0-9]{1,18}$"
"""Eighteen digits fit the databases' 64 bits."""

log = get_logger(__name__)
router = APIRouter(tags=["Jobs"])


class EventQuery(PageQuery):
    """Which events."""

    cursor: str | None = Field(
        default=None,
        pattern=EVENT_ID_PATTERN,
        description="`next_cursor` of the page before, or the `id` of the last event seen.",
    )


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Stream a job's events",
    response_model=EventPage,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENT_STREAM}}},
        **problems("not_found", "validation_failed", "too_many_requests"),
    },
)
async def follow_job(
    job_id: str,
    *,
    request: Request,
    caller: JobReader,
    service: TheService,
    query: Annotated[EventQuery, Query()],
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", pattern=EVENT_ID_PATTERN, description="Where a stream that broke goes on."),
    ] = None,
) -> Response:
    """With `Accept: text/event-stream`: how the job is, then each change as it happens, until `end`. Else: a page.

    A stream ends when its key is revoked or expires, or its token ends.

    Events show the present: a late reader sees each image once, as it is now.
    """
    seen = query.cursor if last_event_id is None else last_event_id
    if "text/event-stream" not in request.headers.get("Accept", ""):
        page = await service.jobs.list_events(job_id, after=int(seen or 0), limit=query.page.limit, caller=caller)
        return page_answer(request, page, out=EventPage, show=EventOut.of)
    changes = await service.jobs.watch(job_id, after=int(seen) if seen else None, caller=caller)
    limits = caller_limits(request)
    limits.take(caller, "events")
    ends: list[Callable[[], Coroutine[Any, Any, object]]] = [request.app.state.stopping.wait]
    if caller.key_id is not None:
        ends.append(partial(service.keys.wait_until_ended, caller.key_id))
    if caller.expires_at is not None:
        ends.append(partial(asyncio.sleep, max(0.0, (caller.expires_at - now()).total_seconds())))
    events = _stream(until(*ends, items=changes), end=partial(limits.give_back, caller, "events"))
    return EventSourceResponse(events, ping=HEARTBEAT_SECONDS, sep="\n")


async def _stream(events: AsyncIterator[JobEvent], *, end: Callable[[], None]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in events:
            out = EventOut.of(event)
            yield ServerSentEvent(
                out.data.model_dump_json(), id=str(out.id), event=out.event, retry=RECONNECT_MILLISECONDS, sep="\n"
            )
    except UnavailableError as error:
        log.warning("event_stream_ended", code=error.code, reason=error.message)  # the caller's client comes back
    finally:
        end()
        await cast("AsyncGenerator[JobEvent]", events).aclose()
