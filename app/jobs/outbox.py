"""The outbox: saving a job writes its notifications in the same transaction; what changed is reported after the commit.

The transactional outbox: a notification exists exactly where the change it tells of was committed. Log events, metrics
(of jobs finished and others) and spans follow the commit: `job_submitted`, `job_started`, `job_planned`,
`job_finished`, `image_copied`, `image_failed`, `listing_failed`, `copy_refused`; each has the job, its policy and, of
an image, its source, destination, side and code.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from prometheus_client import Counter

from app.domain.job import Image, ImageState, Job, JobKind, JobState
from app.domain.notification import EVENT_OF_STATE, Delivery, JobEventType, Subscription, delivery_id
from app.domain.report import ExecutionError, FailureCount
from app.jobs.transitions import JobTransition
from app.observability import (
    BLOBS,
    BYTES,
    FAILURES,
    IMAGES,
    JOB_SECONDS,
    JOBS_FINISHED,
    Span,
    get_logger,
    record_span,
    span,
)
from app.store.db.database import ChangeFeed, Session, after_commit
from app.store.deliveries import DeliveryStore
from app.store.jobs import JobStore, LockedJob
from app.store.subscriptions import SubscriptionStore
from app.webhooks.messages import job_data, write_message

log = get_logger(__name__)

_FAILURE_EVENTS = {"image": "image_failed", "listing": "listing_failed", "refused": "copy_refused"}


async def save_transition(session: Session, transition: JobTransition, feed: ChangeFeed) -> None:
    """Save a changed job, and announce it; where its state changed, write a delivery for each receiver with it."""
    job = transition.result()
    await JobStore(session).save(job)
    feed.publish(session, job.id, has_ended=job.done)
    after_commit(session, partial(report_transition, transition.before, job))
    event = EVENT_OF_STATE.get(job.state) if transition.has_moved else None
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


def submission_span(job_id: str, *, policy: str | None) -> Span:
    """Return the span of a job's submission; its `traceparent` is the job's, and what workers do is a part of it."""
    return span("submit job", kind="producer", attributes={"registry_sync.job": job_id, "registry_sync.policy": policy})


async def report_submitted(jobs: Sequence[Job]) -> None:
    """Log that jobs were accepted; after the commit, so that each is there to be looked at."""
    for job in jobs:
        log.info(
            "job_submitted",
            job=job.id,
            kind=job.kind,
            plan=job.plan,
            policy=job.policy,
            by=job.created_by,
            trigger=job.trigger.type,
            retry_of=job.retry_of,
            rules=len(job.request.rules),
        )


async def report_transition(before: LockedJob, after: LockedJob) -> None:
    """Log where a job has got to, and count what one change of it came to; after the commit."""
    _log_transition(before, after)
    if after.kind is JobKind.PLAN:
        return  # no image is copied, and none fails to be
    was, now = before.progress, after.progress
    for state in ImageState:
        if state.done:
            _grow(IMAGES.labels(state), getattr(was.images, state), getattr(now.images, state))
    _grow(BLOBS.labels("present"), was.blobs.present, now.blobs.present)
    _grow(BLOBS.labels("mounted"), was.blobs.mounted, now.blobs.mounted)
    _grow(BLOBS.labels("transferred"), was.blobs.transferred, now.blobs.transferred)
    _grow(BYTES, was.bytes.transferred, now.bytes.transferred)
    if before.failures != after.failures:
        counted = {_failure_key(failure): failure.count for failure in before.failures}
        for failure in after.failures:
            labels = FAILURES.labels(failure.kind, failure.code, failure.side or "")
            _grow(labels, counted.get(_failure_key(failure), 0), failure.count)
    if after.finished_at is not None and not before.done:
        JOBS_FINISHED.labels(after.state).inc()
        JOB_SECONDS.labels(after.state).observe((after.finished_at - after.created_at).total_seconds())
        record_span(
            "job",
            parent=after.traceparent,
            began_at=after.created_at,
            ended_at=after.finished_at,
            attributes={
                "registry_sync.job": after.id,
                "registry_sync.policy": after.policy,
                "registry_sync.job.state": after.state,
                "registry_sync.images": now.images.total,
                "registry_sync.bytes": now.bytes.transferred,
                "error.type": after.error.code if after.error else None,
            },
        )


async def report_images(job_id: str, policy: str | None, images: Sequence[Image]) -> None:
    """Log how images ended; after the commit. One that was up to date is logged at the level debug."""
    for image in images:
        match image.state:
            case ImageState.COPIED:
                log.info("image_copied", **_image_keys(job_id, policy, image), bytes=image.bytes.transferred)
            case ImageState.UP_TO_DATE:
                log.debug("image_up_to_date", **_image_keys(job_id, policy, image))
            case ImageState.FAILED:
                log.warning(
                    _FAILURE_EVENTS[image.kind], **_image_keys(job_id, policy, image), **_error_keys(image.error)
                )
            case _:
                pass


async def report_refused(job_id: str, policy: str | None, failures: Sequence[FailureCount]) -> None:
    """Log what could not be planned: lists that could not be had, copies that were refused; after the commit."""
    for failure in failures:
        log.warning(
            _FAILURE_EVENTS[failure.kind],
            job=job_id,
            policy=policy,
            source=failure.source,
            destination=failure.destination,
            code=failure.code,
            side=failure.side,
            error=failure.message,
        )


async def report_stalled(job_id: str, policy: str | None, *, unit_id: int, worker: str | None) -> None:
    """Log that a unit was taken over from a worker whose heartbeat is missing; after the commit."""
    log.warning("unit_stalled", job=job_id, policy=policy, unit=unit_id, worker=worker)


def _log_transition(before: LockedJob, after: LockedJob) -> None:
    keys = {"job": after.id, "kind": after.kind, "policy": after.policy}
    if before.state is JobState.QUEUED and after.state is JobState.RUNNING:
        log.info("job_started", **keys)
    if after.progress.planned and not before.progress.planned:
        log.info("job_planned", **keys, images=after.progress.images.total, warnings=len(after.warnings))
    if after.done and not before.done and after.finished_at is not None:
        images, error = after.progress.images, after.error
        event = log.warning if after.state is JobState.FAILED else log.info
        event(
            "job_finished",
            **keys,
            state=after.state,
            seconds=round((after.finished_at - after.created_at).total_seconds(), 3),
            copied=images.copied,
            planned=images.planned,
            up_to_date=images.up_to_date,
            failed=images.failed,
            cancelled=images.cancelled,
            bytes=after.progress.bytes.transferred,
            **(_error_keys(error) if error else {}),
        )


def _image_keys(job_id: str, policy: str | None, image: Image) -> dict[str, Any]:
    seconds = None
    if image.started_at and image.finished_at:
        seconds = round((image.finished_at - image.started_at).total_seconds(), 3)
    return {
        "job": job_id,
        "policy": policy,
        "image": image.id,
        "source": image.source,
        "destination": image.destination,
        "digest": image.digest,
        "attempts": image.attempts,
        "seconds": seconds,
    }


def _error_keys(error: ExecutionError | None) -> dict[str, Any]:
    if error is None:
        return {}
    return {"code": error.code, "side": error.side, "registry": error.registry, "error": error.message}


def _failure_key(failure: FailureCount) -> tuple[str, str, str | None]:
    return failure.kind, failure.code, failure.side


def _grow(counter: Counter, before: int, after: int) -> None:
    if after > before:
        counter.inc(after - before)
