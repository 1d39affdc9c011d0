"""Policies: kept, changed, removed, and run when asked to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.domain.access import Caller
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError
from app.domain.job import IdempotencyKey, Submission, Trigger
from app.domain.policy import KeptPolicy, next_run
from app.domain.trigger import Policy
from app.jobs.standing import StandingJobs
from app.observability import get_logger
from app.store.audit import AuditStore
from app.store.database import Database, Session
from app.store.idempotency import IdempotencyStore
from app.store.jobs import JobStore
from app.store.paging import Page, PageRequest
from app.store.policies import PolicyStore

log = get_logger(__name__)


class PolicyService:
    """Policies, for every door. A job has a copy of its policy's request, so changes are for the jobs to come."""

    def __init__(
        self,
        database: Database,
        standing: StandingJobs,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._standing = standing
        self._now = now
        self._new_id = new_id

    async def list(self, page: PageRequest) -> Page[KeptPolicy]:
        """Read a page of policies, by name."""
        async with self._database.reading() as session:
            return await PolicyStore(session).list(page)

    async def get(self, name: str) -> KeptPolicy:
        """Read a policy; raise `NotFoundError`."""
        async with self._database.reading() as session:
            return await PolicyStore(session).get(name)

    async def put(self, policy: Policy, *, expected_version: int | None, caller: Caller) -> tuple[KeptPolicy, bool]:
        """Keep a policy, new or in the place of the one before. Return it, and whether it is new.

        Raise `ConflictError` (`precondition_failed`).
        """
        async with self._database.transaction() as session:
            store = PolicyStore(session)
            kept = await store.find(policy.name, is_held=True)
            _check_version(kept, expected_version)
            await keep(session, policy, kept, now=self._now(), caller=caller)
            stored = await store.get(policy.name)
        log.info("policy_kept", policy=policy.name, is_new=kept is None, by=caller.name)
        return stored, kept is None

    async def delete(self, name: str, *, expected_version: int | None, caller: Caller) -> None:
        """Remove a policy; raise `NotFoundError`, `ConflictError` (`precondition_failed`). Its jobs go on."""
        async with self._database.transaction() as session:
            store = PolicyStore(session)
            kept = await store.get(name, is_held=True)
            _check_version(kept, expected_version)
            await store.delete(name)
            details = changes(kept.policy, None)
            await AuditStore(session).add(
                AuditEntry(self._now(), caller.name, AuditAction.POLICY_DELETED, name, details)
            )
        log.info("policy_removed", policy=name, by=caller.name)

    async def run(self, name: str, *, caller: Caller, idempotency: IdempotencyKey | None = None) -> Submission:
        """Make a job of a whole run, or find the one that waits to begin.

        While a run is at work the job is the one that follows it. A paused policy runs when asked, too. Raise
        `NotFoundError`, `InvalidRequestError` (`idempotency_key_reused`).
        """
        asked_at = self._now()
        async with self._database.transaction() as session:
            keys, unnamed = IdempotencyStore(session), self._new_id()
            if idempotency is not None:
                known = await keys.claim(idempotency, job_id=unnamed, now=asked_at)
                if known != unnamed:
                    return Submission(await JobStore(session).get(known), replayed=True)
            kept = await PolicyStore(session).get(name, is_held=True)
            accepted = await self._standing.submit_run(session, kept.policy, caller=caller, trigger=Trigger("api"))
            if idempotency is not None:
                await keys.point(idempotency, job_id=accepted.job.id)
            details = {"job": accepted.job.id, "is_new": accepted.is_new}
            await AuditStore(session).add(AuditEntry(asked_at, caller.name, AuditAction.POLICY_RUN, name, details))
        log.info("policy_run_asked", policy=name, job=accepted.job.id, is_new=accepted.is_new, by=caller.name)
        return Submission(accepted.job)


async def keep(session: Session, policy: Policy, kept: KeptPolicy | None, *, now: datetime, caller: Caller) -> None:
    """Store a policy in the place of what is kept; a schedule that did not change stays where it was."""
    due_at = kept.next_run_at if kept is not None and _is_as_due(policy, kept.policy) else next_run(policy, now)
    await PolicyStore(session).put(policy, next_run_at=due_at, now=now)
    action = AuditAction.POLICY_CREATED if kept is None else AuditAction.POLICY_CHANGED
    details = changes(kept.policy if kept else None, policy)
    await AuditStore(session).add(AuditEntry(now, caller.name, action, policy.name, details))


def _is_as_due(new: Policy, kept: Policy) -> bool:
    return (new.schedule, new.enabled) == (kept.schedule, kept.enabled)


def _check_version(kept: KeptPolicy | None, expected: int | None) -> None:
    if expected is not None and (kept is None or kept.version != expected):
        state = f"it is at version {kept.version} now" if kept else "there is none now"
        raise ConflictError(f"{state}; read it again", code="precondition_failed")
