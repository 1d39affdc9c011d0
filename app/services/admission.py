"""Admission: what a caller's grant and quota hold, and which hosts and notify URL a request may name (SSRF).

All of it is known before anything is connected to. What a caller may not see is not found by it.

Names are not resolved here: what they resolve to is checked before each connection, by `app.net`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cache

from cachetools import TTLCache

from app.domain.access import Caller
from app.domain.errors import FieldError, InvalidRequestError, NotFoundError
from app.domain.grants import MAX_SHOWN, UNBOUND
from app.domain.notify_url import Notify
from app.domain.policy import Policy
from app.domain.reference import Registry
from app.domain.registry import RegistryEntry
from app.domain.request import Rule, SyncRequest, destinations_that_are_sources
from app.net.address_guard import AUTO, AddressRules, EgressRule, is_address
from app.security import Sealer
from app.services.job_quota import MOST_JOBS, JobQuota
from app.store.api_keys import ApiKeyStore
from app.store.db.database import Database
from app.store.registries import RegistryStore
from app.store.subscriptions import SubscriptionStore, seal_url
from app.webhooks.outbound import Outbound

RECENT_SECONDS = 1.0
"""Registered hosts, and whether there is an API key, are read once in this time, not for every request; what changed
elsewhere is believed this much later."""
_HOSTS, _EGRESS = "hosts", "egress"
MANY_RULES = 200
"""What has more is checked in a thread."""
RESERVED_NAMES = frozenset({"import"})
"""No policy and no registry is called that: `/v1/policies/import` is another thing."""
_ENTER_IT = "PUT /v1/registries/{name} with this host"


class Admission:
    """Refuses hosts and URLs that can be known to be forbidden without resolving them.

    - `sealer`: seals notify URLs; it opens nothing here
    - `rules`: which addresses may be connected to (the SSRF guard)
    - `outbound`: which URLs notifications may go to
    - `unregistered_hosts`: which hosts without an entry may be copied from and to: `allow`, `sources`, `deny`, `auto`
      (`allow` until there is an API key, then `deny`), or patterns of host names
    - `job_quota`: jobs of one key that are not done
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        rules: AddressRules,
        outbound: Outbound,
        unregistered_hosts: Sequence[str] = AUTO,
        job_quota: int = MOST_JOBS,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._rules = rules
        self._outbound = outbound
        self._unregistered_hosts = tuple(unregistered_hosts)
        self.quota = JobQuota(database, most=job_quota)
        self._recent_egress: TTLCache[str, EgressRule] = TTLCache(1, RECENT_SECONDS)
        self._recent: TTLCache[str, frozenset[Registry]] = TTLCache(1, RECENT_SECONDS)

    async def check(
        self,
        request: SyncRequest,
        *,
        caller: Caller,
        notify: Notify | None = None,
        entered: AbstractSet[Registry] = frozenset(),
    ) -> None:
        """Check the places that a request's rules name, for its caller, and its notify URL.

        Hosts in `entered` are being registered with the request. Raise `InvalidRequestError` (`not_granted`,
        `host_not_allowed`, `unknown_subscription`).
        """
        if len(request.rules) > MANY_RULES:
            await asyncio.to_thread(_check_rules, request, caller)
        else:
            _check_rules(request, caller)
        await self._check_hosts(request, entered)
        if notify is not None:
            await self._check_notify(notify)

    async def check_policy(
        self, policy: Policy, *, caller: Caller, entered: AbstractSet[Registry] = frozenset()
    ) -> None:
        """Check a policy that is to be stored: its name and its request; raise `InvalidRequestError`."""
        _check_name(policy.name)
        if not caller.grant.sees_policy(policy.name):
            raise _not_granted("/name", f"this key may not have a policy {policy.name!r}")
        await self.check(policy.request, caller=caller, entered=entered)

    def check_entry(self, entry: RegistryEntry, *, caller: Caller) -> None:
        """Check a registry that is to be entered; raise `InvalidRequestError` (`not_granted`, `host_not_allowed`)."""
        _check_name(entry.name)
        if not caller.grant.holds_registry(entry.registry, entry.prefix):
            detail = f"this key may not copy from and to all of {entry.host}, so it may not enter it"
            raise _not_granted("/host", detail)
        if refusal := self.refusal(entry.registry, is_registered=True):
            raise host_refused("/host", refusal)

    def check_notify_url(self, pointer: str, url: str) -> None:
        """Check where notifications are to go; raise `InvalidRequestError` (`host_not_allowed`) at that field."""
        if refusal := self._outbound.refusal(url):
            raise host_refused(pointer, refusal)

    def sealed(self, notify: Notify | None) -> Notify | None:
        """Return a notify URL as it is stored: sealed, for its subscription."""
        if notify is None:
            return None
        return notify.model_copy(update={"url": seal_url(self._sealer, notify.subscription, notify.url)})

    def refusal(self, registry: Registry, *, is_registered: bool) -> str | None:
        """Return why a host can be known to be forbidden without resolving it; None when it can't."""
        host = registry.hostname
        refusal = self._rules.refusal(host, host if is_address(host) else None, is_registered=is_registered)
        if refusal is not None:
            return f"{refusal.text}; {_ENTER_IT} to allow it" if refusal.is_private else refusal.text
        if not is_registered and (host == "localhost" or host.endswith(".localhost")):
            return f"{host} is not a public address; {_ENTER_IT} to allow it"
        return None

    def forget_hosts(self) -> None:
        """Have the registered hosts read anew: one was removed."""
        self._recent.clear()

    async def _check_hosts(self, request: SyncRequest, entered: AbstractSet[Registry]) -> None:
        wanted = _hosts(request)
        egress = await self._egress()
        refuse = cache(self.refusal)  # ten thousand rules name few hosts
        doubtful = {
            registry
            for pointer, registry in wanted
            if refuse(registry, is_registered=False) or _egress_refusal(egress, pointer, registry)
        }
        registered = await self._registered(doubtful) if doubtful else frozenset()
        problems = []
        for pointer, registry in wanted:
            is_registered = registry in registered or registry in entered
            refusal = refuse(registry, is_registered=is_registered)
            if refusal is None and not is_registered:
                refusal = _egress_refusal(egress, pointer, registry)
            if refusal is not None:
                problems.append(FieldError(pointer, "host_not_allowed", refusal))
        if problems:
            detail = problems[0].detail
            raise InvalidRequestError(detail, errors=tuple(problems[:MAX_SHOWN]), code="host_not_allowed")

    async def _check_notify(self, notify: Notify) -> None:
        self.check_notify_url("/notify/url", notify.url)
        async with self._database.reading() as session:
            existing = await SubscriptionStore(session).find(notify.subscription)
        if existing is None or existing.subscription.is_email:
            reason = "sends e-mail, which is not signed" if existing else "does not exist"
            detail = f"there is no subscription {notify.subscription!r} to sign with: it {reason}"
            raise InvalidRequestError(
                detail, errors=(FieldError("/notify/subscription", "unknown_subscription", detail),)
            )

    async def _egress(self) -> EgressRule:
        """Return which unregistered hosts may be reached just now."""
        if self._unregistered_hosts != AUTO:
            return EgressRule(self._unregistered_hosts)
        if _EGRESS not in self._recent_egress:
            async with self._database.reading() as session:
                has_key = await ApiKeyStore(session).has_any()
            self._recent_egress[_EGRESS] = EgressRule.of(AUTO, has_key=has_key)
        return self._recent_egress[_EGRESS]

    async def _registered(self, wanted: AbstractSet[Registry]) -> AbstractSet[Registry]:
        """Read which hosts are registered, anew where the wanted ones were not a moment ago."""
        known = self._recent.get(_HOSTS)
        if known is None or not wanted <= known:
            async with self._database.reading() as session:
                stored = await RegistryStore(session, self._sealer).list_stored()
            known = self._recent[_HOSTS] = frozenset(one.entry.registry for one in stored)
        return known


def check_sees_policy(name: str, caller: Caller) -> None:
    """Raise `NotFoundError` for a policy that the caller may not see, whether there is one or not."""
    if not caller.grant.sees_policy(name):
        raise NotFoundError(f"there is no policy {name[:64]!r}")


def check_sees_registry(entry: RegistryEntry, caller: Caller) -> None:
    """Raise `NotFoundError` for an entry of which the caller may copy from and to nothing."""
    if not caller.grant.sees_registry(entry.registry, entry.prefix):
        raise NotFoundError(f"there is no registry {entry.name[:64]!r}")


def check_holds_registry(entry: RegistryEntry, caller: Caller) -> None:
    """Raise `NotFoundError`, or `InvalidRequestError` for an entry that the caller sees and may not change or check."""
    check_sees_registry(entry, caller)
    if not caller.grant.holds_registry(entry.registry, entry.prefix):
        raise _not_granted("/host", f"this key may not copy from and to all of {entry.host}")


def _check_name(name: str) -> None:
    if name in RESERVED_NAMES:
        detail = f"{name!r} is a part of addresses of this API; choose another name"
        raise InvalidRequestError(detail, errors=(FieldError("/name", "reserved_name", detail),))


def _not_granted(pointer: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(detail, errors=(FieldError(pointer, "not_granted", detail),), code="not_granted")


def host_refused(pointer: str, refusal: str) -> InvalidRequestError:
    """Make the error for one field that names a forbidden host."""
    error = FieldError(pointer, "host_not_allowed", refusal)
    return InvalidRequestError(refusal, errors=(error,), code="host_not_allowed")


def _egress_refusal(egress: EgressRule, pointer: str, registry: Registry) -> str | None:
    """Return why a host without an entry may not be reached; None where it may."""
    if egress.admits(registry, is_source=pointer.endswith("/source")):
        return None
    return f"{registry} is not registered, and only registered hosts are reached: {_ENTER_IT}"


def _check_rules(request: SyncRequest, caller: Caller) -> None:
    """Raise `InvalidRequestError` for rules that their caller may not have, and for those that can do nothing.

    Stored requests are not refused for the latter.
    """
    if caller.grant is not UNBOUND and (refusals := caller.grant.refusals(request)):
        raise InvalidRequestError(refusals[0].detail, errors=refusals, code="not_granted")
    problems = [problem for index, rule in enumerate(request.rules) for problem in _problems_of(rule, index)]
    if problems:
        raise InvalidRequestError(problems[0].detail, errors=tuple(problems))


def _problems_of(rule: Rule, index: int) -> Iterator[FieldError]:
    """Yield the destinations of a rule that are its source, and a number of tags that it can't come to."""
    for place in destinations_that_are_sources(rule):
        detail = "this is the source itself: name another repository, tag or registry"
        yield FieldError(f"/rules/{index}/destination/{place}", "same_as_source", detail)
    newest, wanted = rule.tags.newest, rule.tags.min_matches
    if newest is not None and wanted is not None and wanted > newest and not rule.tags.always:
        detail = f"`newest` takes {newest} tags at the most, so nothing would ever be copied"
        yield FieldError(f"/rules/{index}/tags/min_matches", "more_than_newest", detail)


def _hosts(request: SyncRequest) -> list[tuple[str, Registry]]:
    found = []
    for index, rule in enumerate(request.rules):
        found.append((f"/rules/{index}/source", rule.source_pattern.registry))
        for place, template in enumerate(rule.destination_templates):
            found.append((f"/rules/{index}/destination/{place}", template.registry))
    return found
