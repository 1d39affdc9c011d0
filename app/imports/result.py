"""What an import comes to, and how the readers put it together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from app.domain.reference import InvalidReferenceError, Registry, Repository, looks_like_host, split_host_prefix
from app.domain.registry import RegistryEntry
from app.domain.request import MAX_RULES, Options, Rule, fixed_destinations
from app.domain.trigger import Policy, Schedule
from app.imports.document import Node


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


@dataclass(frozen=True, slots=True)
class Group:
    """What all rules of one policy share."""

    options: Options
    schedule: Schedule | None = None


class Draft:
    """Collects rules, registries and notes while files are read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rules: dict[Group, list[Rule]] = {}
        self._destinations: dict[str, str] = {}
        self._registries: dict[str, RegistryEntry] = {}
        self._names: set[str] = set()
        self._spellings: Counter[str] = Counter()
        self._notes: list[Note] = []

    def left_out(self, code: str, node: Node, reason: str, *, file: str) -> None:
        """Note what could not be carried over."""
        self._notes.append(Note("left_out", code, file, node.path, node.line, reason))

    def differs(self, code: str, node: Node, reason: str, *, file: str) -> None:
        """Note what was carried over and behaves differently here."""
        self._notes.append(Note("differs", code, file, node.path, node.line, reason))

    def warn_of_repetitions(self, node: Node, *, file: str) -> None:
        """Note keys that stand more than once."""
        for key in node.repeated:
            self.left_out("repeated_key", node, f"{key!r} stands more than once; the last one counts", file=file)

    def add_rule(self, fields: Mapping[str, Any], node: Node, *, group: Group, file: str) -> None:
        """Take a rule over, or note why it is none."""
        try:
            rule = Rule.model_validate(dict(fields))
        except ValidationError as error:
            self.left_out("invalid_rule", node, _first_reason(error), file=file)
            return
        pairs = fixed_destinations(rule)
        for destination, source in pairs:
            if (first := self._destinations.get(destination, source)) != source:
                self.left_out("destination_conflict", node, f"{first} goes to {destination} already", file=file)
                return
        self._destinations.update(pairs)
        self._rules.setdefault(group, []).append(rule)

    def add_registry(self, host: str, node: Node, *, fields: Mapping[str, Any], file: str) -> None:
        """Take a registry over; two spellings of one host are one registry."""
        try:
            registry, prefix = _split_host(host.strip("/"))
            key = f"{registry}/{prefix}".rstrip("/")
            entry = RegistryEntry.model_validate({"name": self._registry_name(key), "host": key, **fields})
        except (InvalidReferenceError, ValidationError) as error:
            reason = _first_reason(error) if isinstance(error, ValidationError) else str(error)
            self.left_out("invalid_registry", node, reason, file=file)
            return
        if key in self._registries:
            self.left_out("repeated_registry", node, f"{key} was there before under another spelling", file=file)
            return
        self._registries[key] = entry

    def leave_out_all_but(self, known: frozenset[str], node: Node, *, file: str) -> None:
        """Note every field beside the known ones."""
        for key, value in (node.fields or {}).items():
            if key not in known:
                self.left_out("unknown_field", value, f"{key!r} has no counterpart here", file=file)

    def result(self) -> ImportResult:
        """Put it all together; every host that rules name gets an entry, since only entered ones may be private."""
        policies = self._policies()
        covered = {entry.registry for entry in self._registries.values() if not entry.prefix}
        for host in sorted({host for policy in policies for host in _hosts(policy)} - covered):
            self._registries[host] = RegistryEntry(name=self._registry_name(host), host=host)
        return ImportResult(policies, tuple(self._registries.values()), tuple(self._notes))

    def _policies(self) -> tuple[Policy, ...]:
        policies: list[Policy] = []
        for group, rules in self._rules.items():
            for start in range(0, len(rules), MAX_RULES):
                name = f"{self._name}-{len(policies) + 1}" if policies else self._name
                chosen = tuple(rules[start : start + MAX_RULES])
                policies.append(Policy(name=name, rules=chosen, options=group.options, schedule=group.schedule))
        return tuple(policies)

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
