"""Stored push events → jobs: each event becomes a job of every policy that takes it, once, whatever dies in between.

A sender is answered when its event is stored; what is to be done about it is done here, by whichever process comes
first, in one transaction that settles the event and makes its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.access import Caller, Scope
from app.domain.errors import UnavailableError
from app.domain.hook_event import HookEvent, HookEventState
from app.domain.job import ImageState
from app.domain.reference import Reference, Repository
from app.domain.registry import RegistryEntry
from app.domain.trigger import Policy
from app.jobs.patience import wait_for
from app.jobs.standing import StandingJobs, link
from app.observability import HOOK_EVENTS, get_logger
from app.security import Sealer
from app.store.database import Database, Session
from app.store.hook_events import HookEventStore
from app.store.policies import PolicyStore
from app.store.push_trails import PushTrailStore, Trail
from app.store.registries import RegistryStore
from app.sync.narrowing import NarrowedRule, narrow

POLL_SECONDS = 1.0
"""How often events are looked for that another process took in, or died over; of its own a process is told at once."""
ASIDE_SECONDS = 60.0
"""When an event is tried again that failed for a reason nobody thought of; the others do not wait for it."""
MAX_UNPROVEN_ROUNDS = 8
"""How often a push may go through one rule where its sender can't say who pushed, nor what."""
_DETAILS = {
    "no_tag": "only a digest was pushed; what belongs to a tag, a signature say, goes along when that tag moves next",
    "other_repository": "the entry is for another part of this registry",
}
OWN_AGENT = "registry-sync"
"""How our own requests to registries begin their `User-Agent`."""
_MAY_HAVE_WRITTEN = frozenset({ImageState.QUEUED, ImageState.RUNNING, ImageState.COPIED})
"""States of an image as the database has them: they are written there a moment after they were reached."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Taken:
    policy: Policy
    rules: tuple[NarrowedRule, ...]


class PushMatcher:
    """Makes jobs of the events that wait, beside as many others as one likes."""

    def __init__(self, database: Database, standing: StandingJobs, sealer: Sealer) -> None:
        self._database = database
        self._standing = standing
        self._sealer = sealer
        self._woken = asyncio.Event()
        self._aside: set[str] = set()

    def wake(self) -> None:
        """Say that there may be an event, or that it is time to stop."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Make jobs of what was pushed until told to stop (and woken)."""
        tidy_at = 0.0
        while not stop.is_set():
            if (now := asyncio.get_running_loop().time()) >= tidy_at:
                self._aside.clear()
                tidy_at = now + ASIDE_SECONDS
            self._woken.clear()
            try:
                found = await self.match_next()
            except UnavailableError as error:
                log.warning("database_unreachable", chore="push events", error=error.message)
                found = False
            if not found:
                await wait_for(self._woken, POLL_SECONDS)

    async def match_next(self) -> bool:
        """Make the jobs of the oldest event that waits; return whether there was one. Raise `UnavailableError`."""
        async with self._database.reading() as session:
            if not await HookEventStore(session).has_received(without=self._aside):
                return False
        event: HookEvent | None = None
        try:
            async with self._database.transaction() as session:
                event = await HookEventStore(session).claim_received(without=self._aside)
                if event is None:
                    return False
                settled = await self._settle(session, event)
                await HookEventStore(session).settle(settled)
        except UnavailableError:
            raise
        except Exception:  # one event failing doesn't stop the others
            if event is None:
                raise
            log.exception("push_event_failed", push_event=event.id)
            self._aside.add(event.id)
            return True
        HOOK_EVENTS.labels(settled.registry, settled.state).inc()
        log.info("push_event_matched", push_event=settled.id, state=settled.state, jobs=settled.jobs)
        return True

    # --- below --------------------------------------------------------------------------------------------------------

    async def _settle(self, session: Session, event: HookEvent) -> HookEvent:
        entry = await RegistryStore(session, self._sealer).find(event.registry)
        if entry is None:
            return replace(event, state=HookEventState.IGNORED, reason="no_registry", detail="its entry was removed")
        pushed = pushed_reference(entry, event)
        if not isinstance(pushed, Reference):
            return sort_out(entry, event, ())
        policies = PolicyStore(session)
        names = {one.name for one in await policies.list_on_push([pushed.repository]) if narrow(one, pushed)}
        held = await policies.hold(names) if names else ()
        event = sort_out(entry, event, held)
        if event.state is not HookEventState.RECEIVED:
            return event
        return await self._submit(session, event, pushed, held=held)

    async def _submit(
        self, session: Session, event: HookEvent, pushed: Reference, *, held: Sequence[Policy]
    ) -> HookEvent:
        taken = [_Taken(policy, rules) for policy in held if (rules := narrow(policy, pushed))]
        chain, limit = _before(await PushTrailStore(session).find(str(pushed)), event)
        caller = Caller(f"hook/{event.registry}", Scope.SUBMIT.implied)
        jobs = []
        for one in taken:
            rules = tuple(rule for rule in one.rules if chain.count(link(one.policy, rule)) < limit)
            if rules:
                accepted = await self._standing.submit_for_push(
                    session, one.policy, pushed, rules=rules, chain=chain, event_id=event.id, caller=caller
                )
                jobs.append(accepted.job.id)
        if not jobs:
            detail = f"our own copy, come round by {' '.join(chain)}"
            return replace(event, state=HookEventState.IGNORED, reason="loop", detail=detail)
        return replace(event, state=HookEventState.ACCEPTED, jobs=tuple(jobs))


def pushed_reference(entry: RegistryEntry, event: HookEvent) -> Reference | str:
    """Name what was pushed as our requests name it; or say why it is not for us."""
    if event.tag is None:
        return "no_tag"
    repository = Repository(entry.registry, event.repository or "")
    return Reference(repository, event.tag) if entry.covers(repository) else "other_repository"


def sort_out(entry: RegistryEntry, event: HookEvent, policies: Sequence[Policy]) -> HookEvent:
    """Say of an event that it is no concern of any policy, and why; leave it as it is where it is."""
    pushed = pushed_reference(entry, event)
    if not isinstance(pushed, Reference):
        return replace(event, state=HookEventState.IGNORED, reason=pushed, detail=_DETAILS[pushed])
    if any(narrow(policy, pushed) for policy in policies):
        return event
    detail = f"no policy that runs on push takes {pushed}"
    return replace(event, state=HookEventState.IGNORED, reason="no_policy", detail=detail)


def _before(trail: Trail | None, event: HookEvent) -> tuple[tuple[str, ...], int]:
    """Tell what led to a push, and how often it may go through one rule: where we did not push it, nothing led to it.

    What a job found in place it did not write, so that the plain pair of policies that point at each other ends there.
    """
    if trail is None or trail.image_state not in _MAY_HAVE_WRITTEN:
        return (), 1
    is_ours = None if event.user_agent is None else event.user_agent.startswith(OWN_AGENT)
    is_known = trail.written is not None and event.digest is not None
    if is_ours is False or (is_known and trail.written != event.digest):
        return (), 1
    return trail.chain, 1 if is_ours or is_known else MAX_UNPROVEN_ROUNDS
