"""What is told of jobs: written into the outbox in the transaction that moves the job, for whoever wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from app.domain.job import Job
from app.domain.notification import Delivery, JobEventType, Subscription, delivery_id, event_of
from app.hooks.messages import job_data, write_message
from app.jobs.changes import JobChange
from app.jobs.metering import count_change
from app.store.announcements import after_commit
from app.store.database import Session
from app.store.deliveries import DeliveryStore
from app.store.jobs import JobStore
from app.store.subscriptions import SubscriptionStore


async def save_change(session: Session, change: JobChange) -> None:
    """Put a changed job back; where it has come into another state, write down who is to be told."""
    job = change.result()
    await JobStore(session).save(job)
    after_commit(session, partial(count_change, change.before, job))
    event = event_of(job.state) if change.has_moved else None
    if event is not None:
        subscriptions = [kept.subscription for kept in await SubscriptionStore(session).list_for_writing()]
        if subscriptions:
            moved = await JobStore(session).get(job.id)
            await DeliveryStore(session).add(_notices(moved, event, subscriptions, now=change.now))


def _notices(job: Job, event: JobEventType, subscriptions: Sequence[Subscription], *, now: datetime) -> list[Delivery]:
    notices = [_notice(job, event, one, url=None, now=now) for one in subscriptions if one.wants(event, job)]
    if job.notify and job.done:
        ours = [one for one in subscriptions if one.name == job.notify.subscription]
        notices += [_notice(job, event, one, url=job.notify.url, now=now) for one in ours]
    return notices


def _notice(job: Job, event: JobEventType, subscription: Subscription, *, url: str | None, now: datetime) -> Delivery:
    message_id = delivery_id(job.id, event, subscription.name, url or "")
    body = write_message(
        subscription.format, message_id=message_id, event=event, occurred_at=now, subject=job.id, data=job_data(job)
    )
    return Delivery(
        id=message_id,
        subscription=subscription.name,
        event=event,
        job_id=job.id,
        body=body,
        format=subscription.format,
        created_at=now,
        due_at=now,
        url=url,
    )
