"""Waiting for a job inside a request: until it is done, the time is up, or this process stops."""

from __future__ import annotations

import asyncio

from fastapi import Request

from app.api.deps import service_of
from app.domain.job import Job


async def wait_for(job: Job, request: Request, *, seconds: float) -> Job:
    """Return the job when it is done, or as it is at the deadline; a process that stops answers at once."""
    if job.done or not seconds:
        return job
    service, stopping = service_of(request), request.app.state.stopping
    waiting = asyncio.create_task(service.jobs.wait(job.id, timeout_seconds=seconds))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else await service.jobs.get(job.id)
    finally:
        waiting.cancel()
        stop.cancel()
