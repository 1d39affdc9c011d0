"""The outbox: saving a job adds its notifications in the same transaction, and reports what changed after the commit.

The transactional outbox: a notification exists exactly where the change it tells of was committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from app.domain.job import Job
from app.domain.notification import Delivery, JobEventType, Subscription, delivery_id, event_of
from app.jobs.telemetry import report_transition
from app.jobs.transitions import JobTransition
from app.store.db.change_feed import after_commit
from app.store.db.database import Session
from app.store.deliveries import DeliveryStore
from app.store.jobs import JobStore
from app.store.subscriptions import SubscriptionStore
from app.webhooks.messages import job_data, write_message


async def save_transition(session: Session, transition: JobTransition) -> None:
    """Save a changed job; where its state changed, write a delivery for each receiver in the same transaction."""
    job = transition.result()
    await JobStore(session).save(job)
    after_commit(session, partial(report_transition, transition.before, job))
    event = event_of(job.state) if transition.has_moved else None
    if event is not None:
        subscriptions = [existing.subscription for existing in await SubscriptionStore(session).list_for_writing()]
        if subscriptions:
            moved = await JobStore(session).get(job.id)
            await DeliveryStore(session).add(_notices(moved, event, subscriptions, now=transition.now))


def _notices(job: Job, event: JobEventType, subscriptions: Sequence[Subscription], *, now: datetime) -> list[Delivery]:
    heard = [one for one in subscriptions if not job.dry_run and one.wants(event, job)]  # a plan changes nothing
    notices = [_notice(job, event, one, url=None, now=now) for one in heard]
    if job.notify and job.done:
        ours = [
            one for one in subscriptions if one.name == job.notify.subscription and not one.is_email
        ]  # it signs none
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
        traceparent=job.traceparent,
    )
