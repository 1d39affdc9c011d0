"""What a new job begins with: rows of a plan that it carries out, or of the job that it tries again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.domain.errors import ConflictError
from app.domain.job import Job
from app.domain.plan import Listing
from app.store.db.database import Session
from app.store.jobs import JobStore
from app.store.planned_images import PlannedImageStore


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that was added just now."""

    job: Job
    number: int
    first_revision: int
    """Of what is added to it next."""


TakeOver = Callable[[Session, NewJob], Awaitable[int]]
"""Adds rows of another job to a new one; returns how many."""


async def list_failed_listings(session: Session, old: Job) -> frozenset[Listing] | None:
    """List the lists that a job could not have; None for none."""
    listings = await PlannedImageStore(session).list_failed_listings(await JobStore(session).get_number(old.id))
    return listings or None


def take_planned(plan_number: int) -> TakeOver:
    """Give a new job what a plan found to be done."""

    async def take(session: Session, new: NewJob) -> int:
        return await PlannedImageStore(session).add_planned_of(plan_number, new.number, revision=new.first_revision)

    return take


def take_all(old: Job) -> TakeOver:
    """Give a new job all copies of an old one."""

    async def take(session: Session, new: NewJob) -> int:
        old_number = await JobStore(session).get_number(old.id)
        return await PlannedImageStore(session).add_all_of(old_number, new.number, revision=new.first_revision)

    return take


def take_failed(old: Job) -> TakeOver:
    """Give a new job the copies of an old one that did not arrive; raise `ConflictError` (`nothing_to_retry`)."""

    async def take(session: Session, new: NewJob) -> int:
        old_number = await JobStore(session).get_number(old.id)
        store = PlannedImageStore(session)
        count = await store.add_failed_of(old_number, new.number, revision=new.first_revision)
        if count == 0 and new.job.listings is None:
            message = "every image of the job has arrived"
            if old.progress.images.failed:
                message = "what failed was refused by planning, and would be again: change the rules and submit them"
            raise ConflictError(message, code="nothing_to_retry")
        return count

    return take
