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
from app.importers.document import Node, read_document, unreadable
from app.importers.patterns import doublestar_glob
from app.importers.result import HALF_A_LOGIN, Draft, Group, ImportResult
from app.importers.shape import ANYTHING, FLAG, NUMBER, TEXT, fitted, list_of, named, with_fields

_FILE, _REGISTRIES = "harbor", "registries"
_REGISTRY = with_fields(
    {
        **named(("id", "name", "type", "url"), TEXT),
        "insecure": FLAG,
        "credential": with_fields(named(("access_key", "access_secret"), TEXT), is_open=True),
    },
    is_open=True,
)
_FILTER = with_fields({"type": TEXT.deciding, "value": ANYTHING, "decoration": TEXT.deciding}, is_open=True)
_POLICY = with_fields(
    {
        "name": TEXT,
        **named(("id", "description", "creator", "creation_time", "update_time"), ANYTHING),
        **named(("copy_by_chunk", "single_active_replication"), ANYTHING),
        **named(("src_registry", "dest_registry"), _REGISTRY.deciding),
        "dest_namespace": TEXT.deciding,
        "dest_namespace_replace_count": NUMBER.deciding,
        "filters": list_of(_FILTER.deciding).deciding,
        "trigger": with_fields({"type": TEXT, "trigger_settings": with_fields({"cron": TEXT}, is_open=True)}),
        **named(("deletion", "replicate_deletion", "override", "enabled"), FLAG),
        "speed": NUMBER,
    }
)
_TRIGGERS = frozenset({"", "manual", "scheduled", "event_based"})
_HIDDEN = re.compile(r"\*+")
_MATCHES, _EXCLUDES = "matches", "excludes"
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

    Raise `InvalidRequestError` where one of them is none of these answers.
    """
    draft = Draft(name)
    answer = read_document(text, name=_FILE)
    if answer.fields is not None:
        _check_policy(answer)
    policies = fitted(
        answer if answer.fields is None else Node("", items=(answer,)),
        list_of(_POLICY),
        draft,
        file=_FILE,
        expected="the list of replication policies, as `GET /api/v2.0/replication/policies` answers it,",
    )
    known = fitted(
        read_document(registries, name=_REGISTRIES),
        list_of(_REGISTRY),
        draft,
        file=_REGISTRIES,
        expected="the list of registries, as `GET /api/v2.0/registries` answers it,",
    )
    entries = {entry.get("id").text or "": entry for entry in known.items or ()}
    reader = _Reader(draft, host, entries)
    for policy in policies.items or ():
        reader.read(policy)
    return draft.result()


def _check_policy(answer: Node) -> None:
    """Raise `InvalidRequestError` for an answer that is one object and no policy, such as a refused login."""
    if not answer.fields or not _POLICY.fields.keys() & answer.fields.keys():
        keys = ", ".join(list(answer.fields or {})[:5])[:200] or "nothing"
        raise unreadable(_FILE, f"it is no replication policy, nor a list of them: it holds {keys}")


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft
    host: str
    registries: dict[str, Node]
    _entered: set[str] = field(default_factory=set)

    def read(self, policy: Node) -> None:
        try:
            source, target = self._sides(policy)
            fields = self._selection(source, policy.get("filters")) | _destination(target, policy)
            group = self._group(policy)
        except _LeftOutError as error:
            self.draft.left_out(error.code, error.node, str(error), file=_FILE)
            return
        self.draft.add_rule(fields, policy, group=group, file=_FILE)

    def _sides(self, policy: Node) -> tuple[str, str]:
        source, target = policy.get("src_registry"), policy.get("dest_registry")
        if _is_local(source) and _is_local(target):
            reason = "it names no registry beside the Harbor it is of, so nothing goes from one to another"
            raise _LeftOutError("no_registry", policy, reason)
        return self._registry(source), self._registry(target)

    def _registry(self, node: Node) -> str:
        if _is_local(node):
            return self.host
        number = node.get("id").text or ""
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
        elif secret:
            self.draft.left_out("half_a_login", login, HALF_A_LOGIN, file=_FILE)
        self.draft.add_registry(host, known, fields=fields, file=_FILE)

    def _selection(self, source: str, filters: Node) -> dict[str, Any]:
        """Write filters as Harbor applies them, one after the other: what is copied has passed them all."""
        names: list[str] = []
        tags: dict[str, list[str]] = {_MATCHES: [], _EXCLUDES: []}
        fields: dict[str, Any] = {}
        for one in filters.items or ():
            kind, value = one.get("type").text or "none", one.get("value").text
            if value is None and kind in {"name", "tag", "resource"}:
                raise _LeftOutError("filter", one, f"the value of a filter by {kind} is a text")
            match kind:
                case "name":
                    names.append(_glob(one))
                case "tag":
                    tags[_decoration(one)].append(_glob(one))
                case "resource":
                    fields |= self._resource(value or "", one)
                case _:
                    reason = f"a filter by {kind} has no counterpart here, and without it more would be copied"
                    raise _LeftOutError("filter", one, reason)
        selection = {"include": _all_of(tags[_MATCHES]), "exclude": list(filter(None, tags[_EXCLUDES]))}
        return _named(source, names) | {"tags": selection} | fields

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
        kind = trigger.get("type").text or ""
        if kind not in _TRIGGERS:
            self.draft.left_out("trigger", trigger, f"a trigger {kind[:64]!r} is not known here", file=_FILE)
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


def _is_local(node: Node) -> bool:
    return node.is_null or node.get("id").text in {None, "", _LOCAL}


def _glob(node: Node) -> str:
    try:
        return doublestar_glob(node.get("value").text or "")
    except ValueError as error:
        raise _LeftOutError("filter", node, f"{error}, so Harbor takes nothing by this filter") from error


def _decoration(node: Node) -> str:
    word = node.get("decoration").text or _MATCHES
    if word not in {_MATCHES, _EXCLUDES}:
        raise _LeftOutError("filter", node, f"a filter matches or excludes; {word[:64]!r} is neither")
    return word


def _all_of(patterns: list[str]) -> list[Any]:
    """Write patterns that have all to match; those that are empty match everything."""
    found = list(dict.fromkeys(filter(None, patterns)))
    return [{"all": found}] if len(found) > 1 else list(found)


def _named(source: str, patterns: list[str]) -> dict[str, Any]:
    """Write filters of names: what is below one namespace, one repository, or globs over all."""
    include = _all_of([pattern for pattern in patterns if pattern != "**"])
    fields: dict[str, Any] = {"source": f"{source}/**"}
    if not include:
        return fields
    pattern = include[0]
    if isinstance(pattern, str) and not re.search(r"[*?\[{]", pattern):
        return {"source": f"{source}/{pattern}"}
    if isinstance(pattern, str) and re.fullmatch(r"[^*?\[{]+/\*\*", pattern):
        return {"source": f"{source}/{pattern}"}
    return fields | {"repositories": {"include": include}}


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
