"""Policies: create, change, delete, run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from app.domain.access import Caller
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError
from app.domain.job import IdempotencyKey, Submission, Trigger
from app.domain.page import Page, PageRequest
from app.domain.policy import Policy, StoredPolicy, next_run
from app.jobs.policy_jobs import PolicyJobs
from app.observability import get_logger
from app.services.admission import Admission, check_sees_policy
from app.services.versions import check_version
from app.store.audit import AuditStore
from app.store.db.database import Database, Session
from app.store.idempotency import IdempotencyStore
from app.store.jobs import JobStore
from app.store.policies import PolicyStore

log = get_logger(__name__)


class PolicyService:
    """Create, change, delete and run policies. A job has a copy of its policy's request, so changes are for later jobs.

    - `policy_jobs`: submits runs, one at a time per concurrency group
    - `now`: the clock, in UTC
    - `new_id`: creates an id
    """

    def __init__(
        self,
        database: Database,
        policy_jobs: PolicyJobs,
        *,
        admission: Admission,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._policy_jobs = policy_jobs
        self._admission = admission
        self._now = now
        self._new_id = new_id

    async def list(self, page: PageRequest, *, caller: Caller) -> Page[StoredPolicy]:
        """Read a page of the policies that the caller may see, by name."""
        async with self._database.reading() as session:
            return await PolicyStore(session).list(page, visible=caller.grant.policy_patterns)

    async def get(self, name: str, *, caller: Caller) -> StoredPolicy:
        """Read a policy; raise `NotFoundError`, here and below also for one that the caller may not see."""
        check_sees_policy(name, caller)
        async with self._database.reading() as session:
            return await PolicyStore(session).get(name)

    async def put(
        self, policy: Policy, *, expected_version: int | None, caller: Caller, has_to_be_new: bool = False
    ) -> tuple[StoredPolicy, bool]:
        """Create or replace a policy. Return it, and whether it is new.

        Raise `InvalidRequestError` (`not_granted`, `host_not_allowed`), `ConflictError` (`precondition_failed`).
        """
        await self._admission.check_policy(policy, caller=caller)
        async with self._database.transaction() as session:
            store = PolicyStore(session)
            existing = await store.find(policy.name, for_update=True)
            check_version(existing, expected_version)
            if has_to_be_new and existing is not None:
                raise ConflictError("there is such a policy", code="precondition_failed")
            await keep(session, policy, existing, now=self._now(), caller=caller)
            stored = await store.get(policy.name)
        log.info("policy_stored", policy=policy.name, is_new=existing is None, by=caller.name)
        return stored, existing is None

    async def check_put(self, policy: Policy, *, expected_version: int | None, caller: Caller) -> StoredPolicy:
        """Return what `put` would store, and store nothing; raise as `put`."""
        await self._admission.check_policy(policy, caller=caller)
        async with self._database.reading() as session:
            existing = await PolicyStore(session).find(policy.name)
        check_version(existing, expected_version)
        now = self._now()
        due_at = _due_at(policy, existing, now=now)
        if existing is None:
            return StoredPolicy(policy, version=1, created_at=now, updated_at=now, next_run_at=due_at)
        return replace(existing, policy=policy, version=existing.version + 1, updated_at=now, next_run_at=due_at)

    async def delete(self, name: str, *, expected_version: int | None, caller: Caller) -> None:
        """Delete a policy; raise `NotFoundError`, `ConflictError` (`precondition_failed`). Its jobs go on."""
        check_sees_policy(name, caller)
        async with self._database.transaction() as session:
            store = PolicyStore(session)
            existing = await store.get(name, for_update=True)
            check_version(existing, expected_version)
            await store.delete(name)
            details = changes(existing.policy, None)
            await AuditStore(session).add(
                AuditEntry(self._now(), caller.name, AuditAction.POLICY_DELETED, name, details)
            )
        log.info("policy_removed", policy=name, by=caller.name)

    async def run(self, name: str, *, caller: Caller, idempotency: IdempotencyKey | None = None) -> Submission:
        """Submit a job of a whole run, or return the one that waits to begin.

        While a run is at work the job is the one that follows it. A paused policy runs when asked, too. Who may see a
        policy may run it, whatever it copies: that was checked for the one who stored it. Raise `NotFoundError`,
        `InvalidRequestError` (`idempotency_key_reused`).
        """
        check_sees_policy(name, caller)
        asked_at = self._now()
        async with self._database.transaction() as session:
            keys, unnamed = IdempotencyStore(session), self._new_id()
            if idempotency is not None:
                known = await keys.claim(idempotency, job_id=unnamed, now=asked_at)
                if known != unnamed:
                    return Submission(await JobStore(session).get(known), replayed=True)
            existing = await PolicyStore(session).get(name, for_update=True)
            accepted = await self._policy_jobs.submit_run(
                session, existing.policy, caller=caller, trigger=Trigger("api")
            )
            if idempotency is not None:
                await keys.point(idempotency, job_id=accepted.job.id)
            details = {"job": accepted.job.id, "is_new": accepted.is_new}
            await AuditStore(session).add(AuditEntry(asked_at, caller.name, AuditAction.POLICY_RUN, name, details))
        log.info("policy_run_asked", policy=name, job=accepted.job.id, is_new=accepted.is_new, by=caller.name)
        return Submission(accepted.job)


async def keep(
    session: Session, policy: Policy, existing: StoredPolicy | None, *, now: datetime, caller: Caller
) -> None:
    """Store a policy in the place of what is kept; a schedule that did not change stays where it was."""
    due_at = _due_at(policy, existing, now=now)
    await PolicyStore(session).put(policy, next_run_at=due_at, now=now)
    action = AuditAction.POLICY_CREATED if existing is None else AuditAction.POLICY_CHANGED
    details = changes(existing.policy if existing else None, policy)
    await AuditStore(session).add(AuditEntry(now, caller.name, action, policy.name, details))


def _due_at(policy: Policy, existing: StoredPolicy | None, *, now: datetime) -> datetime | None:
    if existing is None:
        return next_run(policy, now)
    is_as_due = (policy.schedule, policy.enabled) == (existing.policy.schedule, existing.policy.enabled)
    return existing.next_run_at if is_as_due else next_run(policy, now)
