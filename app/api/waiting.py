"""Waiting inside a request: until there is something to say, the time is up, or this process stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar, cast

from fastapi import Request

from app.api.deps import service_of
from app.domain.job import Job

T = TypeVar("T")


async def wait_for(job: Job, request: Request, *, seconds: float) -> Job:
    """Return the job when it is done, or as it is at the deadline; a process that stops answers at once."""
    if job.done or not seconds:
        return job
    service, stopping = await service_of(request), request.app.state.stopping
    waiting = asyncio.create_task(service.jobs.wait(job.id, timeout_seconds=seconds))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else await service.jobs.get(job.id)
    finally:
        waiting.cancel()
        stop.cancel()


async def until(stopping: asyncio.Event, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """Pass items on as they come; end when they do, or when this process stops."""
    stop = asyncio.create_task(stopping.wait())
    following: asyncio.Future[T] | None = None
    try:
        while not stop.done():
            following = asyncio.ensure_future(anext(items))
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                yield following.result()
    except StopAsyncIteration:
        return
    finally:
        stop.cancel()
        if following is not None and not following.done():
            following.cancel()
            await asyncio.wait({following})
        await cast("AsyncGenerator[T]", items).aclose()
