"""A job's progress as it happens: server-sent events, or the same events as JSON pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, cast

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from app.api.deps import Reader, TheService
from app.api.problems import problems
from app.api.queries import PageQuery, page_answer
from app.api.schemas.events import EVENT_STREAM, EventOut, EventPage
from app.api.waiting import until
from app.domain.errors import UnavailableError
from app.domain.job import JobEvent
from app.observability import get_logger

HEARTBEAT_SECONDS = 15
"""Shorter than the silence any common proxy allows."""
RECONNECT_MILLISECONDS = 3_000

log = get_logger(__name__)
router = APIRouter(tags=["jobs"])


class EventQuery(PageQuery):
    """Which events."""

    cursor: str | None = Field(
        default=None,
        pattern=r"^\d{1,18}$",
        description="`next_cursor` of the page before, or the `id` of the last event seen.",
    )


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Follow a job",
    response_model=EventPage,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENT_STREAM}}},
        **problems("not_found", "validation_failed"),
    },
)
async def follow_job(
    job_id: str,
    *,
    request: Request,
    _: Reader,
    service: TheService,
    query: Annotated[EventQuery, Query()],
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Where a stream that broke goes on.")
    ] = None,
) -> Response:
    """With `Accept: text/event-stream`: how the job is, then each change as it happens, until `end`. Else: a page.

    Events tell the present: who comes late sees each image once, as it is now.
    """
    seen = last_event_id if last_event_id and last_event_id.isdecimal() else query.cursor
    if "text/event-stream" not in request.headers.get("Accept", ""):
        page = await service.jobs.list_events(job_id, after=int(seen or 0), limit=query.page.limit)
        return page_answer(request, page, out=EventPage, show=EventOut.of)
    await service.jobs.get(job_id)
    changes = service.jobs.watch(job_id, after=int(seen) if seen else None)
    events = _stream(until(request.app.state.stopping, changes))
    return EventSourceResponse(events, ping=HEARTBEAT_SECONDS, sep="\n")


async def _stream(events: AsyncIterator[JobEvent]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in events:
            out = EventOut.of(event)
            yield ServerSentEvent(
                out.data.model_dump_json(), id=str(out.id), event=out.event, retry=RECONNECT_MILLISECONDS, sep="\n"
            )
    except UnavailableError as error:
        log.warning("event_stream_ended", code=error.code, reason=error.message)  # the caller's client comes back
    finally:
        await cast("AsyncGenerator[JobEvent]", events).aclose()
