"""Push events: verified on the bytes that came, recorded once, and answered.

No registry is asked here, and no job is made: a sender waits for the answer, some for no more than a second. Once
an event is stored, `app.jobs.push_jobs` makes its jobs. What can't go on is never answered with an error once the
sender is known, since senders repeat what was refused, some for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.access import Caller
from app.domain.errors import HookError, UnavailableError
from app.domain.hook_event import HookEvent, HookEventFilter, HookEventState
from app.domain.page import Page, PageRequest
from app.domain.policy import Policy
from app.domain.push_event import GoogleProof, HookSettings, IgnoredEvent, PushEvent, UrlTokenProof
from app.domain.reference import Reference
from app.domain.registry import RegistryEntry
from app.jobs.push_jobs import find_matches, pushed_reference, sort_out
from app.observability import HOOK_EVENTS, get_logger
from app.security import Sealer
from app.services.push_deduplication import Arrival, PushEventLog
from app.store.db.database import Database
from app.store.hook_events import HookEventStore
from app.store.policies import PolicyStore
from app.store.registries import RegistryStore
from app.webhooks.google_keys import GoogleKeys
from app.webhooks.inbound import RawDelivery, bearer_token, event_grid_answer, origin_answer, read, rejected, verify
from app.webhooks.payload import MAX_BODY_BYTES

_NOISE = frozenset({"pull", "mount"})
"""What Distribution tells of every layer and every reader: counted, but not written down."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery; `answer` is what a sender wants to hear that asked whether it may send."""

    events: tuple[str, ...] = ()
    is_accepted: bool = False
    """Whether some policy takes what was pushed, so that a job follows."""
    reason: str | None = None
    answer: Mapping[str, str] | None = None


class PushEventService:
    """Verify, record and answer what registries send.

    - `push_log`: stores events, by group commit
    - `sealer`: opens the hooks' secrets
    - `google_keys`: keys for the OpenID tokens of Pub/Sub
    - `now`: the clock, in UTC; `new_id`: creates an event's id
    """

    def __init__(
        self,
        database: Database,
        push_log: PushEventLog,
        *,
        sealer: Sealer,
        google_keys: GoogleKeys,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._log = push_log
        self._sealer = sealer
        self._google_keys = google_keys
        self._now = now
        self._new_id = new_id

    async def receive(self, registry: str, delivery: RawDelivery) -> Receipt:
        """Record a verified delivery; raise `HookError` (`hook_rejected`, `hook_too_large`) and `UnavailableError`."""
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
        noise = [one for one in said.ignored if _is_noise(one)]
        HOOK_EVENTS.labels(entry.name, HookEventState.IGNORED).inc(len(noise))
        reported = {one.reason: one for one in said.ignored if one not in noise}
        if not said.events and not reported and noise:
            return Receipt(reason=noise[0].reason)
        ignored = [self._ignored(entry, hook, reason=one.reason, detail=one.detail) for one in reported.values()]
        return await self._record(entry, said.events, ignored)

    async def answer_origin(self, registry: str, headers: Mapping[str, str], *, token: str) -> dict[str, str]:
        """Answer a sender that asks whether it may send from its origin; raise `HookError` where it may not."""
        _, hook = await self._entry(registry)
        if isinstance(hook.auth, UrlTokenProof):
            verify(hook, RawDelivery(b"", headers, token), now=self._now())
        answer = origin_answer(hook, headers)
        if answer is None:
            raise rejected()
        return answer

    async def list(self, wanted: HookEventFilter, page: PageRequest, *, caller: Caller) -> Page[HookEvent]:
        """Read a page of what arrived, newest first, at the hooks of registries that the caller may copy all of."""
        async with self._database.reading() as session:
            if not caller.grant.is_bound:
                return await HookEventStore(session).list(wanted, page)
            stored = await RegistryStore(session, self._sealer).list_stored()
            visible = [
                one.entry.name for one in stored if caller.grant.reads_registry(one.entry.registry, one.entry.prefix)
            ]
            return await HookEventStore(session).list(wanted, page, registries=visible)

    # --- below --------------------------------------------------------------------------------------------------------

    async def _entry(self, registry: str) -> tuple[RegistryEntry, HookSettings]:
        async with self._database.reading() as session:
            entry = await RegistryStore(session, self._sealer).find_for_hook(registry)
        if entry is None or entry.hook is None:
            raise rejected()
        return entry, entry.hook

    async def _verify(self, hook: HookSettings, delivery: RawDelivery) -> None:
        if len(delivery.body) > MAX_BODY_BYTES:
            raise HookError(f"a delivery has at most {MAX_BODY_BYTES} bytes", code="hook_too_large")
        keys = None
        if isinstance(hook.auth, GoogleProof):
            try:
                keys = await self._google_keys.find(bearer_token(delivery.headers), issuer=hook.auth.issuer, seconds=0)
            except UnavailableError as error:
                # As an unknown hook is, in status and time: Pub/Sub sends again whatever it is answered.
                log.info("issuer_keys_awaited", issuer=hook.auth.issuer)
                raise rejected() from error
        verify(hook, delivery, now=self._now(), google_keys=keys)

    async def _record(self, entry: RegistryEntry, pushes: Sequence[PushEvent], ignored: Sequence[HookEvent]) -> Receipt:
        reported = await self._sort(entry, [self._event(entry, push) for push in pushes])
        arrivals = [Arrival(event, push.dedupe_key) for push, event in zip(pushes, reported, strict=True)]
        stored = await self._log.add([*arrivals, *(Arrival(event) for event in ignored)])
        for event in stored:
            if event.state is not HookEventState.RECEIVED:
                HOOK_EVENTS.labels(entry.name, event.state).inc()
        log.info("push_events_received", registry=entry.name, events=len(reported), ignored=len(ignored))
        return _receipt(stored)

    async def _sort(self, entry: RegistryEntry, reported: Sequence[HookEvent]) -> Sequence[HookEvent]:
        """Return events with those ignored that no policy selects; nothing is locked for that."""
        pushed = [pushed_reference(entry, event) for event in reported]
        repositories = [one.repository for one in pushed if isinstance(one, Reference)]
        policies: tuple[Policy, ...] = ()
        if repositories:
            async with self._database.reading() as session:
                policies = await PolicyStore(session).list_on_push(repositories)
        return [
            sort_out(entry, event, find_matches(policies, reference) if isinstance(reference, Reference) else ())
            for event, reference in zip(reported, pushed, strict=True)
        ]

    def _event(self, entry: RegistryEntry, push: PushEvent) -> HookEvent:
        return HookEvent.of_push(push, event_id=self._new_id(), registry=entry.name, received_at=self._now())

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


def _receipt(events: Sequence[HookEvent]) -> Receipt:
    is_accepted = any(event.state is HookEventState.RECEIVED for event in events)
    reasons = [event.reason for event in events if event.reason]
    return Receipt(
        events=tuple(event.id for event in events),
        is_accepted=is_accepted,
        reason=None if is_accepted else (reasons[0] if reasons else "empty"),
    )
