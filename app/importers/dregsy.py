"""Reads dregsy's configuration: tasks with a source, a target, mappings of paths and filters of tags.

github.com/xelalexv/dregsy, README.md and doc/design-image-matching.md. Each task becomes a policy.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from app.domain.request import Options
from app.domain.schedule import Schedule
from app.importers.document import Node, read_document
from app.importers.dregsy_tags import anchored, read_tags
from app.importers.intervals import nearest_cron
from app.importers.patterns import regex_matcher
from app.importers.result import UNVERIFIED, Draft, Group, ImportResult, unverified
from app.importers.shape import ANYTHING, FLAG, TEXT, TEXTS, fitted, list_of, named, with_fields

_FILE = "dregsy"
_LOCATION = with_fields(
    {
        "registry": TEXT.deciding,
        **named(("auth", "auth-refresh"), TEXT),
        "skip-tls-verify": FLAG,
        "lister": ANYTHING,
    }
)
_TASK = with_fields(
    {
        **named(("name", "interval"), TEXT),
        "verbose": ANYTHING,
        **named(("source", "target"), _LOCATION.deciding),
        "mappings": list_of(with_fields({**named(("from", "to", "platform"), TEXT.deciding), "tags": TEXTS.deciding})),
    }
)
_SHAPE = with_fields(
    {
        **named(("relay", "skopeo", "docker", "dockerhost", "api-version", "lister", "watch"), ANYTHING),
        "tasks": list_of(_TASK),
    }
)
_REGEX = "regex:"
_GROUP_OF_GO = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_OPTIONS = Options(referrers=False, digest_tags=False)
"""What its relays do: no referrers, only the tags that are asked for."""


def read_dregsy(text: str, *, platform: str = "linux/amd64", name: str = "dregsy") -> ImportResult:
    """Read the file; `platform` is what dregsy runs on, which it copies. Raise `InvalidRequestError`."""
    reader = _Reader(Draft(name), platform)
    expected = "a mapping with `tasks`"
    document = fitted(read_document(text, name=_FILE), _SHAPE, reader.draft, file=_FILE, expected=expected)
    for task in document.get("tasks").items or ():
        reader.read_task(task)
    return reader.draft.result()


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft
    platform: str

    def read_task(self, task: Node) -> None:
        source, target = (self._location(task.get(side)) for side in ("source", "target"))
        group = Group(_OPTIONS, self._schedule(task.get("interval")), name=task.get("name").text or "")
        if not task.get("mappings").items:
            self.draft.left_out("no_mappings", task, "the task has no mappings, so it copies nothing", file=_FILE)
        for mapping in task.get("mappings").items or ():
            try:
                fields, chosen = self._rule(mapping, source, target), read_tags(mapping.get("tags").texts)
            except ValueError as error:
                self.draft.left_out("invalid_mapping", mapping, str(error), file=_FILE)
                continue
            for reason in chosen.differs:
                self.draft.differs("tags", mapping.get("tags"), reason, file=_FILE)
            for tags in chosen.rules(is_pattern="repositories" in fields):
                named = {"source": f"{fields['source']}{tags.suffix}"}
                self.draft.add_rule({**fields, **named, **tags.fields}, mapping, group=group, file=_FILE)

    def _location(self, node: Node) -> str:
        host = (node.get("registry").text or "").rpartition("@")[2]
        if not node.get("auth-refresh").is_null:
            reason = "tokens that renew themselves are a login of the registry's entry here: `auth.type: aws`"
            self.draft.left_out("auth_refresh", node.get("auth-refresh"), reason, file=_FILE)
        fields: dict[str, Any] = self._login(node.get("auth"))
        if node.get("skip-tls-verify").is_true:
            fields |= unverified(host)
            self.draft.differs_once("insecure", node, UNVERIFIED, file=_FILE)
        if fields:
            self.draft.add_registry(host, node, fields=fields, file=_FILE)
        return host

    def _login(self, node: Node) -> dict[str, Any]:
        if not node.text or node.text == "none":
            return {}
        try:
            login = json.loads(base64.b64decode(node.text, validate=True))
            return {"auth": {"type": "basic", "username": login["username"], "password": login["password"]}}
        except (ValueError, KeyError, TypeError):
            reason = "`auth` is no base64 of a JSON object with username and password"
            self.draft.left_out("invalid_login", node, reason, file=_FILE)
            return {}

    def _schedule(self, interval: Node) -> Schedule | None:
        if not interval.text or interval.text == "0":
            return None
        if not interval.text.isdecimal():
            self.draft.left_out("invalid_schedule", interval, f"{interval.text!r} are no seconds", file=_FILE)
            return None
        minutes = int(interval.text[:9]) / 60
        line, exact = nearest_cron(minutes)
        if minutes != exact:
            reason = f"an interval that the clock can't be divided by: every {exact} minutes instead"
            self.draft.differs("interval", interval, reason, file=_FILE)
        return Schedule(cron=line)

    def _rule(self, mapping: Node, source: str, target: str) -> dict[str, Any]:
        origin, place = mapping.get("from").text or "", mapping.get("to").text or ""
        for word, what in ((source, "the source"), (target, "the target"), (origin.strip("/"), "`from`")):
            if not word:
                raise ValueError(f"{what} is missing")
        fields: dict[str, Any] = self._platform(mapping)
        is_pattern = origin.startswith(_REGEX)
        if is_pattern:
            expression = anchored(origin.removeprefix(_REGEX))
            fields |= {"source": f"{source}/**", "repositories": {"include": [regex_matcher(expression)]}}
        else:
            fields["source"] = f"{source}/{origin.strip('/')}"
        if place.startswith(_REGEX):
            fields["mapping"] = {"substitute": [_substitution(place.removeprefix(_REGEX))]}
            place = "{repository}"
        elif is_pattern or not place:
            place = f"{place.strip('/')}/{{repository}}"
        return fields | {"destination": f"{target}/{place.strip('/')}"}

    def _platform(self, mapping: Node) -> dict[str, Any]:
        platform = mapping.get("platform").text or ""
        if platform == "all":
            return {}
        reason = "dregsy copies one image out of an index; here a new index with this platform alone is made"
        self.draft.differs_once("one_platform", mapping, reason, file=_FILE)
        return {"platforms": [platform or self.platform], "platform_mode": "rewrite"}


def _substitution(text: str) -> dict[str, str]:
    """Write `expression,replacement` as it works on a path that does not begin with a slash, as dregsy's do."""
    expression, comma, replacement = text.partition(",")
    if not comma:
        raise ValueError("`to` has no replacement behind its expression")

    def group(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not re.fullmatch("[1-9]", name):
            raise ValueError(f"{match[0]} in the replacement is no group by its number")
        return f"\\{name}"

    written = _GROUP_OF_GO.sub(group, replacement.replace("\\", "\\\\"))
    pattern = f"^{expression[2:]}" if expression.startswith("^/") else expression
    return {"pattern": pattern, "replacement": written.lstrip("/")}
