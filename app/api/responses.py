"""JSON responses with a newline at their end, pages of a list, and responses that wait (long poll).

One that waits comes when its job is done, when its time is up, or when this process stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, cast

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from app.api.dependencies import caller_limits, service_of
from app.api.schemas.pages import Item, PageOut
from app.domain.job import Job
from app.store.db.paging import Page, T


class JsonResponse(Response):
    """A model, rendered; the newline is for people with curl."""

    media_type = "application/json"

    def __init__(
        self,
        model: BaseModel,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        without_null: bool = False,
    ) -> None:
        body = model.model_dump_json(exclude_none=without_null) + "\n"
        super().__init__(body, status_code=status_code, headers=headers, media_type=media_type)


def page_answer(request: Request, page: Page[T], *, out: type[PageOut[Item]], show: Callable[[T], Item]) -> Response:
    """Render a page; the `Link` header (RFC 8288) leads to the next one for callers who read no bodies."""
    headers = {}
    if page.next_cursor is not None:
        following = request.url.include_query_params(cursor=page.next_cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return JsonResponse(out(items=[show(item) for item in page.items], next_cursor=page.next_cursor), headers=headers)


async def wait_for(job: Job, request: Request, *, seconds: float) -> Job:
    """Return the job when it is done, or as it is at the deadline; a process that stops answers at once."""
    if job.done or not seconds:
        return job
    service, stopping = await service_of(request), request.app.state.stopping
    limits, caller = caller_limits(request), request.state.caller
    limits.take(caller, "wait")
    waiting = asyncio.create_task(service.jobs.wait(job.id, timeout_seconds=seconds, caller=caller))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else await service.jobs.get(job.id, caller=caller)
    finally:
        waiting.cancel()
        stop.cancel()
        limits.give_back(caller, "wait")


async def until(*ends: Callable[[], Coroutine[Any, Any, object]], items: AsyncIterator[T]) -> AsyncIterator[T]:
    """Pass items on as they come; end when they do, or when one of `ends` does, such as this process stopping."""
    stops = {asyncio.create_task(end()) for end in ends}
    following: asyncio.Future[T] | None = None
    try:
        while not any(stop.done() for stop in stops):
            following = asyncio.ensure_future(anext(items))
            await asyncio.wait({following, *stops}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                yield following.result()
    except StopAsyncIteration:
        return
    finally:
        for stop in stops:
            stop.cancel()
        if following is not None and not following.done():
            following.cancel()
            await asyncio.wait({following})
        await cast("AsyncGenerator[T]", items).aclose()
