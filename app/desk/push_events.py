"""Push events: proven, recorded once, and made jobs of every policy that takes what was pushed.

Nobody is asked anything here: a sender waits for the answer, some for no more than a second. What can't go on is never
answered with an error once the sender is known, since senders repeat what was refused, some for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.domain.access import Caller, Scope
from app.domain.errors import HookError
from app.domain.hook_event import HookEvent, HookEventFilter, HookEventState
from app.domain.job import ImageState
from app.domain.reference import Reference, Repository
from app.domain.registry import RegistryEntry
from app.domain.trigger import GoogleProof, HookSettings, IgnoredEvent, Policy, PushEvent, UrlTokenProof
from app.hooks.google_keys import GoogleKeys
from app.hooks.inbound import RawDelivery, bearer_token, event_grid_answer, origin_answer, read, rejected, verify
from app.hooks.payload import MAX_BODY_BYTES
from app.jobs.standing import StandingJobs, link
from app.observability import HOOK_EVENTS, get_logger
from app.security import Sealer
from app.store.database import Database, Session
from app.store.hook_events import HookEventStore
from app.store.paging import Page, PageRequest
from app.store.policies import PolicyStore
from app.store.push_trails import PushTrailStore, Trail
from app.store.registries import RegistryStore
from app.sync.narrowing import NarrowedRule, narrow

SAME_WITHIN = timedelta(minutes=1)
"""Senders that give events neither an id nor a time repeat them within this, if at all."""
MAX_UNPROVEN_ROUNDS = 8
"""How often a push may go through one rule where its sender can't say who pushed, nor what."""
OWN_AGENT = "registry-sync"
"""How our own requests to registries begin their `User-Agent`."""
_NOISE = frozenset({"pull", "mount"})
"""What Distribution tells of every layer and every reader: counted, but not written down."""
_MAY_HAVE_WRITTEN = frozenset({ImageState.QUEUED, ImageState.RUNNING, ImageState.COPIED})
"""States of an image as the database has them: they are written there a moment after they were reached."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery; `answer` is what a sender wants to hear that asked whether it may send."""

    events: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    reason: str | None = None
    answer: Mapping[str, str] | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether a job does what was asked for."""
        return bool(self.jobs)


@dataclass(frozen=True, slots=True)
class _Taken:
    policy: Policy
    rules: tuple[NarrowedRule, ...]


class PushEventService:
    """Takes in what registries send."""

    def __init__(
        self,
        database: Database,
        standing: StandingJobs,
        *,
        sealer: Sealer,
        google_keys: GoogleKeys,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._standing = standing
        self._sealer = sealer
        self._google_keys = google_keys
        self._now = now
        self._new_id = new_id

    async def receive(self, registry: str, delivery: RawDelivery) -> Receipt:
        """Take in a delivery; raise `HookError` (`hook_rejected`, `hook_too_large`) and `UnavailableError`."""
        entry, hook = await self._entry(registry)
        await self._verify(hook, delivery)
        try:
            if (answer := event_grid_answer(delivery)) is not None:
                return Receipt(answer=answer)
            said = read(hook, delivery)
        except HookError as error:
            if error.code != "hook_malformed":
                raise
            event = self._ignored(entry, hook, reason="malformed", detail=error.message)
            return await self._record(entry, (), [event])
        ignored = {one.reason: self._ignored(entry, hook, reason=one.reason, detail=one.detail) for one in said.ignored}
        return await self._record(entry, said.events, list(ignored.values()))

    async def answer_origin(self, registry: str, headers: Mapping[str, str], *, token: str) -> dict[str, str]:
        """Answer a sender that asks whether it may send from its origin; raise `HookError` where it may not."""
        _, hook = await self._entry(registry)
        if isinstance(hook.auth, UrlTokenProof):
            verify(hook, RawDelivery(b"", headers, token), now=self._now())
        answer = origin_answer(hook, headers)
        if answer is None:
            raise rejected()
        return answer

    async def list(self, wanted: HookEventFilter, page: PageRequest) -> Page[HookEvent]:
        """Read a page of what arrived, newest first."""
        async with self._database.reading() as session:
            return await HookEventStore(session).list(wanted, page)

    # --- below --------------------------------------------------------------------------------------------------------

    async def _entry(self, registry: str) -> tuple[RegistryEntry, HookSettings]:
        async with self._database.reading() as session:
            entry = await RegistryStore(session, self._sealer).find(registry)
        if entry is None or entry.hook is None:
            raise rejected()
        return entry, entry.hook

    async def _verify(self, hook: HookSettings, delivery: RawDelivery) -> None:
        if len(delivery.body) > MAX_BODY_BYTES:
            raise HookError(f"a delivery has at most {MAX_BODY_BYTES} bytes", code="hook_too_large")
        keys = None
        if isinstance(hook.auth, GoogleProof):
            keys = await self._google_keys.find(bearer_token(delivery.headers), issuer=hook.auth.issuer)
        verify(hook, delivery, now=self._now(), google_keys=keys)

    async def _record(self, entry: RegistryEntry, pushes: Sequence[PushEvent], ignored: Sequence[HookEvent]) -> Receipt:
        now = self._now()
        begun = [
            HookEvent.of_push(push, event_id=self._new_id(), registry=entry.name, received_at=now) for push in pushes
        ]
        async with self._database.transaction() as session:
            events = HookEventStore(session)
            for event in ignored:
                await events.add(event)
            fresh = [await self._claim(events, push, event) for push, event in zip(pushes, begun, strict=True)]
            settled = await self._settle_all(session, entry, fresh)
        for event in (*settled, *ignored):
            HOOK_EVENTS.labels(entry.name, event.state).inc()
        log.info("push_events_received", registry=entry.name, events=len(settled), ignored=len(ignored))
        return _receipt((*settled, *ignored))

    async def _claim(self, events: HookEventStore, push: PushEvent, event: HookEvent) -> HookEvent:
        """Record an event, as a duplicate where it came before."""
        first = event.id
        if push.dedupe_key is not None:
            first = await events.claim(event, dedupe_key=push.dedupe_key)
        elif push.tag and push.digest:
            # A tag that was moved away in between shows in the latest event, so only what changes nothing is dropped.
            last = await events.find_last_push(event, since=event.received_at - SAME_WITHIN)
            first = last.id if last is not None and last.digest == push.digest else event.id
        if first == event.id:
            if push.dedupe_key is None:
                await events.add(event)
            return event
        duplicate = replace(event, state=HookEventState.DUPLICATE, reason="duplicate", detail=f"the same as {first}")
        await events.add(duplicate)
        return duplicate

    async def _settle_all(
        self, session: Session, entry: RegistryEntry, fresh: Sequence[HookEvent]
    ) -> tuple[HookEvent, ...]:
        policies = PolicyStore(session)
        pushed = {event.id: _pushed(entry, event) for event in fresh if event.state is not HookEventState.DUPLICATE}
        wanted = [reference for reference in pushed.values() if isinstance(reference, Reference)]
        known = await policies.list_on_push([one.repository for one in wanted]) if wanted else ()
        names = {policy.name for policy in known if any(narrow(policy, reference) for reference in wanted)}
        held = await policies.hold(names) if names else ()
        settled = []
        for event in fresh:
            reference = pushed.get(event.id)
            if isinstance(reference, Reference):
                settled.append(await self._submit(session, event, reference, held=held))
            elif reference is not None:
                settled.append(replace(event, reason=reference))
            else:
                settled.append(event)
            await HookEventStore(session).settle(settled[-1])
        return tuple(settled)

    async def _submit(
        self, session: Session, event: HookEvent, pushed: Reference, *, held: Sequence[Policy]
    ) -> HookEvent:
        taken = [_Taken(policy, rules) for policy in held if (rules := narrow(policy, pushed))]
        if not taken:
            return replace(event, reason="no_policy", detail=f"no policy that runs on push takes {pushed}")
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
            return replace(event, reason="loop", detail=detail)
        return replace(event, state=HookEventState.ACCEPTED, jobs=tuple(jobs))

    def _ignored(self, entry: RegistryEntry, hook: HookSettings, *, reason: str, detail: str) -> HookEvent:
        return HookEvent(
            id=self._new_id(),
            registry=entry.name,
            format=hook.format,
            received_at=self._now(),
            state=HookEventState.IGNORED,
            reason=reason,
            detail=detail,
        )


def _is_noise(ignored: IgnoredEvent) -> bool:
    return ignored.reason == "not_a_manifest" or (ignored.reason == "not_a_push" and ignored.detail in _NOISE)


def _pushed(entry: RegistryEntry, event: HookEvent) -> Reference | str:
    """Name what was pushed as our requests name it; or say why it is not for us."""
    if event.tag is None:
        return "no_tag"
    repository = Repository(entry.registry, event.repository or "")
    return Reference(repository, event.tag) if entry.covers(repository) else "other_repository"


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


def _receipt(events: Sequence[HookEvent]) -> Receipt:
    jobs = tuple(dict.fromkeys(job for event in events for job in event.jobs))
    reasons = [event.reason for event in events if event.reason]
    return Receipt(
        events=tuple(event.id for event in events),
        jobs=jobs,
        reason=None if jobs else (reasons[0] if reasons else "empty"),
    )
