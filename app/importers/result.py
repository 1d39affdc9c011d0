"""The result of an import, and the draft that the readers put together."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from app.domain.policy import Policy
from app.domain.reference import (
    InvalidReferenceError,
    Reference,
    Registry,
    Repository,
    Tag,
    looks_like_host,
    split_host_prefix,
)
from app.domain.registry import RegistryEntry
from app.domain.request import (
    MAX_RULES,
    Options,
    Rule,
    SyncRequest,
    destinations_that_are_sources,
    fixed_destinations,
)
from app.domain.schedule import Schedule
from app.importers.document import Node, unreadable

POLICY_RULES = 1_000
"""Rules of one policy: what can still be read, edited and put back as one body of a request."""
MAX_IMPORTED = 50_000
MAX_POLICIES = 1_000
"""All of them are made in one transaction, for which other writers wait on SQLite: 3 ms each."""
"""Rules that one file may become, and notes of it: what one answer can show, and a process hold."""
MAX_POLICY_NAME = 57
"""Room for the number behind a name that several policies would have."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something an operator should know: left out, or carried over but different here on purpose."""

    kind: Literal["left_out", "differs"]
    code: str
    file: str
    path: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The policies and registries that files come to; nothing of it is stored yet."""

    policies: tuple[Policy, ...] = ()
    registries: tuple[RegistryEntry, ...] = ()
    notes: tuple[Note, ...] = ()
    job_notes: tuple[Note, ...] = ()
    """What is left out besides where the rules become jobs."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found that could have been taken over."""
        return not (self.policies or self.registries or any(note.kind == "left_out" for note in self.notes))

    def requests(self) -> tuple[SyncRequest, ...]:
        """Return the rules as requests of jobs, one for all that have the same options; without paused policies."""
        rules: dict[Options, list[Rule]] = {}
        for policy in (one for one in self.policies if one.enabled):
            rules.setdefault(policy.options, []).extend(policy.rules)
        return tuple(
            SyncRequest(rules=tuple(chosen[start : start + MAX_RULES]), options=options)
            for options, chosen in rules.items()
            for start in range(0, len(chosen), MAX_RULES)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """What all rules of one policy share."""

    options: Options
    schedule: Schedule | None = None
    name: str = ""
    """How the tool calls it, where it has names for what becomes a policy."""
    on_push: bool = False
    enabled: bool = True


class Draft:
    """Collects rules, registries and notes while files are read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rules: dict[Group, list[Rule]] = {}
        self._destinations: dict[str, str] = {}
        self._registries: dict[str, RegistryEntry] = {}
        self._count = 0
        self._names: set[str] = set()
        self._spellings: Counter[str] = Counter()
        self._sources: dict[Repository, tuple[str, bool]] = {}
        self._notes: list[Note] = []
        self._job_notes: list[Note] = []
        self._noted: set[tuple[str, str, str]] = set()

    def left_out(self, code: str, node: Node, reason: str, *, file: str) -> None:
        """Note what could not be carried over."""
        if len(self._notes) >= MAX_IMPORTED:
            raise unreadable(file, f"more than {MAX_IMPORTED} places of it can't be carried over; is it another file?")
        self._notes.append(Note("left_out", code, file, node.path, node.line, reason))

    def differs(self, code: str, node: Node, reason: str, *, file: str) -> None:
        """Note what was carried over and behaves differently here."""
        self._notes.append(Note("differs", code, file, node.path, node.line, reason))

    def differs_once(self, code: str, node: Node, reason: str, *, file: str) -> None:
        """Note what holds for every place of its kind in a file, at the first."""
        if (code, file, reason) not in self._noted:
            self._noted.add((code, file, reason))
            self.differs(code, node, reason, file=file)

    def warn_of_repetitions(self, node: Node, *, file: str) -> None:
        """Note keys that stand more than once."""
        for key in node.repeated:
            self.left_out("repeated_key", node, f"{key!r} stands more than once; the last one counts", file=file)

    def add_rule(self, fields: Mapping[str, Any], node: Node, *, group: Group, file: str) -> None:
        """Add a rule, or note why it, or a destination of it, is left out."""
        self._count += 1
        if self._count > MAX_IMPORTED:
            raise unreadable(file, f"it comes to more than {MAX_IMPORTED} rules; divide it")
        try:
            rule = Rule.model_validate(dict(fields))
        except ValidationError as error:
            self.left_out("invalid_rule", node, _first_reason(error), file=file)
            return
        if same := destinations_that_are_sources(rule):
            for place in same:
                reason = f"{rule.source} goes to {rule.destination[place]}, which is where it is already"
                self.left_out("same_as_source", node, reason, file=file)
            others = [one for place, one in enumerate(rule.destination) if place not in same]
            if others:
                self.add_rule({**fields, "destination": others}, node, group=group, file=file)
            return
        pairs = fixed_destinations(rule)
        for destination, source in pairs:
            if (first := self._destinations.get(destination, source)) != source:
                self.left_out("destination_conflict", node, f"{first} goes to {destination} already", file=file)
                return
        self._destinations.update(pairs)
        self._note_shared_destinations(rule, node, file=file)
        if not group.enabled:
            reason = f"{group.name or self._name} is not enabled, so no job is made of it"
            self._job_notes.append(Note("left_out", "not_enabled", file, node.path, node.line, reason))
        self._rules.setdefault(group, []).append(rule)

    def _note_shared_destinations(self, rule: Rule, node: Node, *, file: str) -> None:
        """Note where two repositories go to one and not all tags are listed: a tag that both have is a conflict."""
        source = rule.source_pattern.repository
        if source is None:
            return
        is_listed = bool(rule.source_pattern.tags or rule.source_pattern.digest)
        for template in rule.destination_templates:
            with contextlib.suppress(InvalidReferenceError):  # where it goes depends on the tag
                place = template.fill(Reference(source, Tag("latest")), mapping=rule.mapping).repository
                self._note_shared(source, place, node, is_listed=is_listed, file=file)

    def _note_shared(self, source: Repository, place: Repository, node: Node, *, is_listed: bool, file: str) -> None:
        first, was_listed = self._sources.setdefault(place, (str(source), is_listed))
        if first != str(source) and not (was_listed and is_listed):
            reason = f"{first} and {source} both go to {place}; of a tag that both have, the second is refused"
            self.differs("shared_destination", node, reason, file=file)

    def add_registry(self, host: str, node: Node, *, fields: Mapping[str, Any], file: str) -> None:
        """Add a registry; two spellings of one host are one registry."""
        try:
            registry, prefix = _split_host(host.strip("/"))
            key = f"{registry}/{prefix}".rstrip("/")
            entry = RegistryEntry.model_validate({"name": self._registry_name(key), "host": key, **fields})
        except (InvalidReferenceError, ValidationError) as error:
            reason = _first_reason(error) if isinstance(error, ValidationError) else str(error)
            self.left_out("invalid_registry", node, reason, file=file)
            return
        if key in self._registries:
            if self._registries[key] == entry.model_copy(update={"name": self._registries[key].name}):
                return
            self.left_out(
                "repeated_registry", node, f"{key} was there before, spelled or entered in another way", file=file
            )
            return
        self._registries[key] = entry

    def result(self) -> ImportResult:
        """Return the result; every host that rules name gets an entry, since only entered ones may be private."""
        policies = self._policies()
        covered = {entry.registry for entry in self._registries.values() if not entry.prefix}
        for host in sorted({host for policy in policies for host in _hosts(policy)} - covered):
            self._registries[host] = RegistryEntry(name=self._registry_name(host), host=host)
        return ImportResult(policies, tuple(self._registries.values()), tuple(self._notes), tuple(self._job_notes))

    def _policies(self) -> tuple[Policy, ...]:
        policies: dict[str, Policy] = {}
        for group, rules in self._rules.items():
            for start in range(0, len(rules), POLICY_RULES):
                if len(policies) >= MAX_POLICIES:
                    raise unreadable(self._name, f"it comes to more than {MAX_POLICIES} policies; divide it")
                name = self._policy_name(group, policies)
                policies[name] = Policy(
                    name=name,
                    enabled=group.enabled,
                    rules=tuple(rules[start : start + POLICY_RULES]),
                    options=group.options,
                    schedule=group.schedule,
                    on_push=group.on_push,
                )
        return tuple(policies.values())

    def _policy_name(self, group: Group, taken: Collection[str]) -> str:
        word = re.sub(r"[^a-z0-9]+", "-", group.name.lower()).strip("-")
        name = f"{self._name}-{word}"[:MAX_POLICY_NAME].strip("-") if word else self._name
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(free for free in names if free not in taken)

    def _registry_name(self, host: str) -> str:
        word = re.sub(r"[^a-z0-9]+", "-", host).strip("-") or "registry"
        while True:
            self._spellings[word] += 1
            name = word if self._spellings[word] == 1 else f"{word}-{self._spellings[word]}"
            if name not in self._names:
                self._names.add(name)
                return name


def unverified(host: str) -> dict[str, Any]:
    """Choose what `insecure` is to mean for a host: plain http on a port of its own, else an unchecked certificate.

    The tools read here try both, https first; here a registry is spoken to in one way.
    """
    has_port = bool(re.search(r":[0-9]+$", host.partition("/")[0])) and not host.partition("/")[0].endswith(":443")
    return {"insecure": True} if has_port else {"tls": {"verify": False}}


HALF_A_NAME = re.compile(r"[:@/]$|^[:@/]|//|/[:@]|:@")
"""What a variable that is not set leaves of an image's name."""
HALF_A_LOGIN = "a login without user or password is none"
UNVERIFIED = (
    "other tools try https unverified, then http; here it is http for a host with a port, else https unverified"
)


def _split_host(host: str) -> tuple[Registry, str]:
    registry, prefix = split_host_prefix(host)
    if not looks_like_host(host.partition("/")[0]):
        message = f"{host!r} does not begin with a registry's host"
        raise InvalidReferenceError(message, code="invalid_host")
    if prefix:
        Repository(registry, prefix)
    return registry, prefix


def _hosts(policy: Policy) -> set[Registry]:
    sources = {rule.source_pattern.registry for rule in policy.rules}
    return sources | {template.registry for rule in policy.rules for template in rule.destination_templates}


def _first_reason(error: ValidationError) -> str:
    return str(error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"])
