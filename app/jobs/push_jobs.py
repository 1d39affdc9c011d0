"""Push jobs: each stored push event becomes a job of every policy that selects it, once, whatever is killed meanwhile.

A sender is answered when its event is stored; what is to be done about it is done here, by whichever process comes
first, in one transaction that settles the event and makes its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.concurrency import log_unavailable, wait_for_event
from app.domain.access import Caller, ScopePreset
from app.domain.errors import UnavailableError
from app.domain.hook_event import HookEvent, HookEventState
from app.domain.job import ImageState
from app.domain.policy import Policy
from app.domain.reference import Reference, Repository
from app.domain.registry import RegistryEntry
from app.jobs.policy_jobs import PolicyJobs, link
from app.net.http_headers import USER_AGENT
from app.observability import HOOK_EVENTS, get_logger
from app.process_channel import ProcessChannel, Topic
from app.security import Sealer
from app.store.db.database import Database, Session
from app.store.hook_events import HookEventStore
from app.store.policies import PolicyStore
from app.store.push_origins import PushOrigin, PushOriginStore
from app.store.registries import RegistryStore
from app.sync.push_rules import PushRule, rules_for_push

POLL_SECONDS = 1.0
"""How often events are looked for that another process stored, or died over; its own ones wake a process at once."""
ASIDE_SECONDS = 60.0
"""When an event is tried again that failed unexpectedly; the others do not wait for it."""
MAX_UNPROVEN_ROUNDS = 8
"""How often a push may go through one rule where its sender can't say who pushed, nor what."""
_DETAILS = {
    "no_tag": "only a digest was pushed; what hangs on an image (a signature) comes with the next run that takes it",
    "other_repository": "the entry is for another part of this registry",
}
_MAY_HAVE_WRITTEN = frozenset({ImageState.QUEUED, ImageState.RUNNING, ImageState.COPIED})
"""States of an image as the database has them: they are written there a moment after they were reached."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PolicyMatch:
    """A policy that selects what was pushed, with its rules narrowed to it."""

    policy: Policy
    rules: tuple[PushRule, ...]


class PushMatcher:
    """Makes jobs of stored push events, beside any number of other matchers; looks every `POLL_SECONDS` (1 s).

    - `policy_jobs`: submits a job in the transaction that settles the event
    - `sealer`: opens the entries of the registries the events came from
    - `channel`: the way to the other processes of this host, which hear of stored events through it
    """

    def __init__(
        self, database: Database, policy_jobs: PolicyJobs, sealer: Sealer, *, channel: ProcessChannel | None = None
    ) -> None:
        self._database = database
        self._policy_jobs = policy_jobs
        self._sealer = sealer
        self._channel = channel
        self._woken = asyncio.Event()
        if channel is not None:
            channel.on(Topic.PUSH_STORED, lambda _: self.wake())
        self._aside: set[str] = set()

    def wake(self) -> None:
        """Wake the loop: there may be an event, or it is time to stop."""
        self._woken.set()

    def announce(self) -> None:
        """Say that an event was stored, here and to the other processes of this host."""
        self.wake()
        if self._channel is not None:
            self._channel.send(Topic.PUSH_STORED)

    async def run(self, stop: asyncio.Event) -> None:
        """Make jobs of push events until `stop` is set (and `wake` called)."""
        retry_at = 0.0
        while not stop.is_set():
            if (now := asyncio.get_running_loop().time()) >= retry_at:
                self._aside.clear()
                retry_at = now + ASIDE_SECONDS
            self._woken.clear()
            try:
                found = await self.match_next()
            except UnavailableError as error:
                log_unavailable("push events", error)
                found = False
            if not found:
                await wait_for_event(self._woken, POLL_SECONDS)

    async def match_next(self) -> bool:
        """Make the jobs of the oldest event that waits; return whether there was one. Raise `UnavailableError`."""
        async with self._database.reading(is_short=True) as session:
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
        stored = await RegistryStore(session, self._sealer).find_stored(event.registry)
        if stored is None:
            return replace(event, state=HookEventState.IGNORED, reason="no_registry", detail="its entry was removed")
        entry = stored.entry
        pushed = pushed_reference(entry, event)
        if not isinstance(pushed, Reference):
            return sort_out(entry, event, ())
        policies = PolicyStore(session)
        matches = find_matches(await policies.list_on_push([pushed.repository]), pushed)
        if matches:
            locked = await policies.lock({match.policy.name for match in matches})
            matches = _as_locked(matches, locked, pushed)
        event = sort_out(entry, event, matches)
        if event.state is not HookEventState.RECEIVED:
            return event
        return await self._submit(session, event, pushed, matches=matches)

    async def _submit(
        self, session: Session, event: HookEvent, pushed: Reference, *, matches: Sequence[PolicyMatch]
    ) -> HookEvent:
        chain, limit = _before(await PushOriginStore(session).find(str(pushed)), event)
        caller = Caller(f"hook/{event.registry}", ScopePreset.SUBMIT.scopes)
        jobs = []
        for one in matches:
            rules = tuple(rule for rule in one.rules if chain.count(link(one.policy, rule)) < limit)
            if rules:
                accepted = await self._policy_jobs.submit_for_push(
                    session, one.policy, pushed, rules=rules, chain=chain, event_id=event.id, caller=caller
                )
                jobs.append(accepted.job.id)
        if not jobs:
            detail = f"our own copy, come round by {' '.join(chain)}"
            return replace(event, state=HookEventState.IGNORED, reason="loop", detail=detail)
        return replace(event, state=HookEventState.ACCEPTED, jobs=tuple(jobs))


def pushed_reference(entry: RegistryEntry, event: HookEvent) -> Reference | str:
    """Return what was pushed as a reference, or the reason why it is not for this entry."""
    if event.tag is None:
        return "no_tag"
    repository = Repository(entry.registry, event.repository or "")
    return Reference(repository, event.tag) if entry.covers(repository) else "other_repository"


def find_matches(policies: Sequence[Policy], pushed: Reference) -> tuple[PolicyMatch, ...]:
    """Return the policies that select what was pushed."""
    return tuple(PolicyMatch(policy, rules) for policy in policies if (rules := rules_for_push(policy, pushed)))


def _as_locked(matches: Sequence[PolicyMatch], locked: Sequence[Policy], pushed: Reference) -> tuple[PolicyMatch, ...]:
    """Return the matches as they are under the lock; only a policy that has changed meanwhile is asked anew."""
    known = {match.policy.name: match for match in matches}
    found: list[PolicyMatch] = []
    for policy in locked:
        match = known[policy.name]
        found += [match] if match.policy == policy else find_matches([policy], pushed)
    return tuple(found)


def sort_out(entry: RegistryEntry, event: HookEvent, matches: Sequence[PolicyMatch]) -> HookEvent:
    """Return an event as ignored, with the reason, when no policy selects it; else as it is."""
    pushed = pushed_reference(entry, event)
    if not isinstance(pushed, Reference):
        return replace(event, state=HookEventState.IGNORED, reason=pushed, detail=_DETAILS[pushed])
    if matches:
        return event
    detail = f"no policy that runs on push takes {pushed}"
    return replace(event, state=HookEventState.IGNORED, reason="no_policy", detail=detail)


def _before(origin: PushOrigin | None, event: HookEvent) -> tuple[tuple[str, ...], int]:
    """Return what led to a push, and how often it may go through one rule: a foreign push has no origin.

    What a job found in place it did not write, so that the plain pair of policies that point at each other ends there.
    """
    if origin is None or origin.image_state not in _MAY_HAVE_WRITTEN:
        return (), 1
    is_ours = None if event.user_agent is None else event.user_agent.startswith(USER_AGENT)
    is_known = origin.written is not None and event.digest is not None
    if is_ours is False or (is_known and origin.written != event.digest):
        return (), 1
    return origin.chain, 1 if is_ours or is_known else MAX_UNPROVEN_ROUNDS
