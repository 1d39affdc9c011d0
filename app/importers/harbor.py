"""Reads Harbor's replication policies as its API gives them; each becomes a policy.

`GET /api/v2.0/replication/policies` and, where the policies name their registries only, `GET /api/v2.0/registries`
(github.com/goharbor/harbor, api/v2.0/swagger.yaml; src/controller/replication/flow/stage.go for the names).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from app.domain.request import Options
from app.domain.schedule import Schedule
from app.importers.document import Node, read_document
from app.importers.patterns import doublestar_glob
from app.importers.result import Draft, Group, ImportResult

_FILE = "harbor"
_KNOWN = frozenset(
    {
        *("id", "name", "description", "creator", "src_registry", "dest_registry", "dest_namespace"),
        *("dest_namespace_replace_count", "filters", "trigger", "deletion", "replicate_deletion", "override"),
        *("enabled", "creation_time", "update_time", "speed", "copy_by_chunk", "single_active_replication"),
    }
)
_HIDDEN = re.compile(r"\*+")
_HUB_TYPE = "docker-hub"
_LOCAL = "0"
"""The id of the Harbor that has the policies."""
_CRON_FIELDS = 6
_CHART = "application/vnd.cncf.helm.config.v1+json"


class _LeftOutError(Exception):
    def __init__(self, code: str, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.node = node


def read_harbor(text: str, *, host: str, registries: str = "", name: str = "harbor") -> ImportResult:
    """Read the answer with the policies, and the one with the registries; `host` is the Harbor they come from.

    Raise `InvalidRequestError` where one of them is no JSON.
    """
    policies, known = read_document(text, name=_FILE), read_document(registries, name="registries")
    entries = {entry.get("id").text or "": entry for entry in known.items or ()}
    reader = _Reader(Draft(name), host, entries)
    for policy in policies.items if policies.items is not None else (policies,):
        if not policy.is_null:
            reader.read(policy)
    return reader.draft.result()


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft
    host: str
    registries: dict[str, Node]
    _entered: set[str] = field(default_factory=set)

    def read(self, policy: Node) -> None:
        self.draft.leave_out_all_but(_KNOWN, policy, file=_FILE)
        try:
            source, target = (self._registry(policy.get(side)) for side in ("src_registry", "dest_registry"))
            fields = self._selection(source, policy.get("filters")) | _destination(target, policy)
            group = self._group(policy)
        except _LeftOutError as error:
            self.draft.left_out(error.code, error.node, str(error), file=_FILE)
            return
        self.draft.add_rule(fields, policy, group=group, file=_FILE)

    def _registry(self, node: Node) -> str:
        number = node.get("id").text or ""
        if node.is_null or number in {"", _LOCAL}:
            return self.host
        known = node if node.get("url").text else self.registries.get(number, node)
        try:
            url = urlsplit(known.get("url").text or "")
        except ValueError as error:
            raise _LeftOutError("no_address", node, f"{known.get('url').text!r} is no address") from error
        host = "docker.io" if known.get("type").text == _HUB_TYPE else url.netloc.rpartition("@")[2]
        if not host:
            reason = f"the registry {known.get('name').text!r} has no address; give `registries` as the API lists them"
            raise _LeftOutError("no_address", node, reason)
        if host not in self._entered:
            self._entered.add(host)
            self._enter(host, known, is_plain=url.scheme == "http")
        return host

    def _enter(self, host: str, known: Node, *, is_plain: bool) -> None:
        fields: dict[str, Any] = {"insecure": True} if is_plain else {}
        if known.get("insecure").is_true and not is_plain:
            fields["tls"] = {"verify": False}
        login = known.get("credential")
        user, secret = login.get("access_key").text or "", login.get("access_secret").text or ""
        if user and secret and not _HIDDEN.fullmatch(secret):
            fields["auth"] = {"type": "basic", "username": user, "password": secret}
        elif user:
            reason = f"Harbor does not show secrets: enter that of {user} at the registry's entry for {host}"
            self.draft.left_out("hidden_secret", login, reason, file=_FILE)
        self.draft.add_registry(host, known, fields=fields, file=_FILE)

    def _selection(self, source: str, filters: Node) -> dict[str, Any]:
        fields: dict[str, Any] = {"source": f"{source}/**"}
        tags: dict[str, list[str]] = {"include": [], "exclude": []}
        for one in filters.items or ():
            value = one.get("value").text or ""
            if one.get("type").text in {"name", "tag"}:
                value = _glob(one, value)
            match one.get("type").text:
                case "name":
                    fields |= _named(source, value)
                case "tag":
                    tags["exclude" if one.get("decoration").text == "excludes" else "include"].append(value)
                case "resource":
                    fields |= self._resource(value, one)
                case kind:
                    reason = f"a filter by {kind} has no counterpart here, and without it more would be copied"
                    raise _LeftOutError("filter", one, reason)
        return fields | {"tags": {key: [value for value in values if value] for key, values in tags.items()}}

    def _resource(self, value: str, node: Node) -> dict[str, Any]:
        if value == "chart":
            return {"artifact_types": {"include": [_CHART]}}
        if value not in {"", "image", "artifact"}:
            raise _LeftOutError("filter", node, f"resources of the kind {value!r} are not known here")
        if value == "image":
            self.draft.differs("resource", node, "every kind of artifact is copied, not images alone", file=_FILE)
        return {}

    def _group(self, policy: Node) -> Group:
        if policy.get("deletion").is_true or policy.get("replicate_deletion").is_true:
            reason = "what is deleted at the source stays at the destination"
            self.draft.left_out("deletion", policy, reason, file=_FILE)
        speed = re.fullmatch("[0-9]{1,9}", policy.get("speed").text or "")
        options = Options(
            overwrite="always" if policy.get("override").is_true else "never",
            max_bytes_per_second=int(speed[0]) * 1024 or None if speed else None,
        )
        trigger = policy.get("trigger")
        kind = trigger.get("type").text
        return Group(
            options,
            self._schedule(trigger.get("trigger_settings").get("cron")) if kind == "scheduled" else None,
            name=policy.get("name").text or "",
            on_push=kind == "event_based",
            enabled=policy.get("enabled").is_true,
        )

    def _schedule(self, node: Node) -> Schedule | None:
        parts = (node.text or "").split()
        if len(parts) == _CRON_FIELDS and parts[0] != "0":
            self.draft.differs("schedule", node, f"second {parts[0]} is left out: runs begin with a minute", file=_FILE)
        try:
            return Schedule(cron=" ".join(parts[-5:]))
        except (ValidationError, ValueError):
            self.draft.left_out("invalid_schedule", node, f"{node.text!r} is not a schedule", file=_FILE)
            return None


def _glob(node: Node, pattern: str) -> str:
    try:
        return doublestar_glob(pattern)
    except ValueError as error:
        raise _LeftOutError("filter", node, f"{error}, so Harbor takes nothing by this filter") from error


def _named(source: str, pattern: str) -> dict[str, Any]:
    """Write a filter of names: what is below one namespace, one repository, or a glob over all."""
    if not pattern or pattern == "**":
        return {}
    if not re.search(r"[*?\[{]", pattern):
        return {"source": f"{source}/{pattern}"}
    below, _, rest = pattern.rpartition("/")
    if rest == "**" and not re.search(r"[*?\[{]", below):
        return {"source": f"{source}/{below}/**"}
    return {"repositories": {"include": [pattern]}}


def _destination(target: str, policy: Node) -> dict[str, Any]:
    namespace = (policy.get("dest_namespace").text or "").strip("/")
    count = policy.get("dest_namespace_replace_count").text or "-1"
    if not namespace:
        return {"destination": f"{target}/{{repository}}"}
    if count.startswith("-"):
        return {"destination": f"{target}/{namespace}/{{name}}"}
    fields: dict[str, Any] = {"destination": f"{target}/{namespace}/{{repository}}"}
    if count != "0":
        fields["mapping"] = {"substitute": [{"pattern": f"^(?:[^/]+/){{0,{count}}}", "replacement": ""}]}
    return fields
