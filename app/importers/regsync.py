"""Reads regsync's configuration, version 1: `creds`, `defaults` and `sync`.

github.com/regclient/regclient, cmd/regsync. Entries that share schedule and options become one policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.domain.reference import split_reference
from app.domain.request import Options
from app.domain.schedule import Schedule
from app.importers.document import Node, read_document, unreadable
from app.importers.intervals import nearest_cron
from app.importers.patterns import REGSYNC_VERSIONS, Ranges, regex_matcher, regsync_ranges
from app.importers.result import HALF_A_LOGIN, HALF_A_NAME, Draft, Group, ImportResult
from app.importers.shape import FLAG, TEXT, TEXTS, fitted, list_of, named, with_fields

_FILE = "regsync"
_TEMPLATE = re.compile(r"\{\{-?([^{}]*)\}\}")
_ENV = re.compile(r"env\s+(?:\"([^\"]*)\"|`([^`]*)`)")
_CREDS = frozenset(
    {"registry", "user", "pass", "token", "tls", "regcert", "clientCert", "clientKey", "reqPerSec", "reqConcurrent"}
)
_SHARED = {**named(("interval", "schedule"), TEXT), **named(("digestTags", "referrers", "includeExternal"), FLAG)}
_NAMES = with_fields(named(("allow", "deny"), TEXTS.deciding))
_TAGS = with_fields(named(("allow", "deny", "semverRange"), TEXTS.deciding))
_ENTRY = with_fields(
    {
        **_SHARED,
        **named(("source", "target", "type", "platform"), TEXT.deciding),
        "repos": _NAMES.deciding,
        "tags": _TAGS.deciding,
        "tagSets": list_of(_TAGS.deciding).deciding,
        "platforms": list_of(TEXT.deciding).deciding,
    }
)
_SHAPE = with_fields(
    {
        "version": TEXT,
        "creds": list_of(with_fields(named((*_CREDS, "hostname"), TEXT))),
        "defaults": with_fields(_SHARED),
        "sync": list_of(_ENTRY),
    }
)
_TLS = frozenset({"", "enabled", "disabled", "insecure"})
_VERSIONS = frozenset({"", "0", "1"})
_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s)?")
_NOTHING = Node("")


class _LeftOutError(Exception):
    def __init__(self, code: str, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.node = node


def read_regsync(text: str, *, environment: Mapping[str, str] | None = None, name: str = "regsync") -> ImportResult:
    """Read the file; `{{env "NAME"}}` is looked up in `environment` only. Raise `InvalidRequestError`."""
    draft, expected = Draft(name), "a mapping with `version`, `creds` and `sync`"
    document = fitted(read_document(text, name=_FILE), _SHAPE, draft, file=_FILE, expected=expected)
    if (version := document.get("version")).text not in _VERSIONS:
        raise unreadable(_FILE, f"its `version` is {(version.text or '')[:64]!r}, and version 1 is read here")
    reader = _Reader(draft, environment or {}, document.get("defaults"))
    reader.read_each(document.get("creds"), reader.read_login)
    reader.read_each(document.get("sync"), reader.read_entry)
    return reader.draft.result()


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft
    environment: Mapping[str, str]
    defaults: Node

    def read_each(self, nodes: Node, read: Any) -> None:
        for node in nodes.items or ():
            try:
                read(node)
            except _LeftOutError as error:
                self.draft.left_out(error.code, error.node, str(error), file=_FILE)

    def read_login(self, node: Node) -> None:
        words = {key: self._filled(node.get(key)) for key in _CREDS}
        host = words["registry"]
        if (api_host := self._filled(node.get("hostname"))) not in {"", host}:
            reason = f"here a registry is asked at the host its references name, not at {api_host}"
            self.draft.left_out("other_api_host", node.get("hostname"), reason, file=_FILE)
        if words["tls"] not in _TLS:
            reason = f"tls is enabled, disabled or insecure, not {words['tls'][:64]!r}; here it is enabled"
            self.draft.left_out("wrong_type", node.get("tls"), reason, file=_FILE)
        fields: dict[str, Any] = {"tls": _tls(words), "insecure": words["tls"] == "disabled"}
        if words["token"] or words["user"] == "<token>":
            fields["auth"] = {"type": "identity_token", "token": words["token"] or words["pass"]}
        elif words["user"] and words["pass"]:
            fields["auth"] = {"type": "basic", "username": words["user"], "password": words["pass"]}
        elif words["user"] or words["pass"]:
            self.draft.left_out("half_a_login", node, HALF_A_LOGIN, file=_FILE)
        limits = {"requests_per_second": words["reqPerSec"], "connections": words["reqConcurrent"]}
        fields["limits"] = {key: value for key, value in limits.items() if value not in {"", "0"}}
        self.draft.add_registry(host, node, fields=fields, file=_FILE)

    def read_entry(self, node: Node) -> None:
        kind = self._filled(node.get("type"))
        source, target = (self._named(node.get(key)) for key in ("source", "target"))
        if source.startswith("ocidir://") or target.startswith("ocidir://"):
            raise _LeftOutError("oci_layout", node, "folders in OCI layout are no registries")
        fields: dict[str, Any] = {**self._platforms(node)}
        group = Group(self._options(node), self._schedule(node))
        match kind:
            case "image":
                fields |= {"source": _tagged(source), "destination": _tagged(target)}
            case "repository":
                fields |= {"source": source, "destination": target}
            case "registry":
                fields |= {"source": f"{source.rstrip('/')}/**", "destination": target.rstrip("/")}
                fields["repositories"] = self._anchored(node.get("repos"))
            case _:
                raise _LeftOutError("unknown_type", node.get("type"), f"type {kind!r} is not known")
        if kind == "image":
            self.draft.add_rule(fields, node, group=group, file=_FILE)
            return
        for tags in self._tag_sets(node):
            self.draft.add_rule({**fields, "tags": tags}, node, group=group, file=_FILE)

    def _tag_sets(self, node: Node) -> list[dict[str, Any]]:
        sets = [*(node.get("tagSets").items or ())]
        if node.get("tags").fields or not sets:
            sets.append(node.get("tags"))
        found = []
        for tags in sets:
            try:
                found.append(self._selection(tags))
            except _LeftOutError as error:
                self.draft.left_out(error.code, error.node, str(error), file=_FILE)
        return found

    def _selection(self, tags: Node) -> dict[str, Any]:
        selection: dict[str, list[Any]] = {**self._anchored(tags)}
        ranges = [self._ranges(text, tags.get("semverRange")) for text in tags.get("semverRange").texts if text]
        if not ranges:
            return selection
        include = [matcher for one in ranges for matcher in one.include]
        allowed = selection["include"]
        selection["include"] = [{"all": [one, other]} for one in include for other in allowed] or include
        selection["exclude"] += dict.fromkeys(matcher for one in ranges for matcher in one.exclude)
        return selection

    def _ranges(self, text: str, node: Node) -> Ranges:
        try:
            ranges = regsync_ranges(text)
        except ValueError as error:
            raise _LeftOutError("invalid_pattern", node, str(error)) from error
        for reason in filter(None, (REGSYNC_VERSIONS, ranges.differs)):
            self.draft.differs_once("version_range", node, reason, file=_FILE)
        return ranges

    def _anchored(self, node: Node) -> dict[str, list[str]]:
        # regsync sets ^ and $ around an expression without a group, so in `a|b` each anchors one side only.
        found: dict[str, list[str]] = {}
        for key, ours in (("allow", "include"), ("deny", "exclude")):
            patterns = node.get(key)
            if any("|" in text and "(" not in text for text in patterns.texts):
                reason = "as in regsync, `a|b` means `(^a)|(b$)`; write (a|b) if that is not meant"
                self.draft.differs("half_anchored", patterns, reason, file=_FILE)
            try:
                found[ours] = [regex_matcher(f"^{text}$") for text in patterns.texts]
            except ValueError as error:
                raise _LeftOutError("invalid_pattern", patterns, str(error)) from error
        return found

    def _platforms(self, node: Node) -> dict[str, Any]:
        one, several = node.get("platform"), node.get("platforms")
        if one.texts and one.text:
            reason = "regsync copies one image out of an index; here a new index with this platform alone is made"
            self.draft.differs("one_platform", one, reason, file=_FILE)
            return {"platforms": [one.text], "platform_mode": "rewrite"}
        named = [item.text for item in several.items or () if item.text]
        if len(named) < len(several.items or ()):
            reason = "children without a platform can't be chosen by an empty entry"
            self.draft.left_out("empty_platform", several, reason, file=_FILE)
        return {"platforms": named, "platform_mode": "sparse"} if named else {}

    def _options(self, node: Node) -> Options:
        return Options(
            referrers=self._set(node, "referrers").is_true,
            digest_tags=self._set(node, "digestTags").is_true,
            foreign_layers="copy" if self._set(node, "includeExternal").is_true else "skip",
        )

    def _schedule(self, node: Node) -> Schedule | None:
        places = (
            node.get("schedule"),
            node.get("interval"),
            self.defaults.get("schedule"),
            self.defaults.get("interval"),
        )
        found = next((place for place in places if place.texts and place.text), _NOTHING)
        if found.text is None:
            return None
        try:
            line = found.text if found.path.endswith("schedule") else self._cron_of_interval(found)
            return Schedule(cron=line)
        except (ValidationError, ValueError):
            self.draft.left_out("invalid_schedule", found, f"{found.text!r} is not a schedule", file=_FILE)
            return None

    def _cron_of_interval(self, node: Node) -> str:
        match = _DURATION.fullmatch(node.text or "")
        minutes = (
            sum(int(number or 0) * unit for number, unit in zip(match.groups(), (60, 1, 1 / 60), strict=True))
            if match
            else 0
        )
        if not minutes:
            message = "not an interval"
            raise ValueError(message)
        line, exact = nearest_cron(minutes)
        if minutes != exact:
            reason = f"an interval that the clock can't be divided by: every {exact} minutes instead"
            self.draft.differs("interval", node, reason, file=_FILE)
        return line

    def _set(self, node: Node, key: str) -> Node:
        return node.get(key) if key in (node.fields or {}) else self.defaults.get(key)

    def _named(self, node: Node) -> str:
        """Fill the name of an image; a variable that is not set must not leave half a name."""
        written, unset = "".join(node.texts[:1]), self._unset(node)
        left = _TEMPLATE.sub(lambda match: self._variable(match[1]), written)
        if unset and (not left or HALF_A_NAME.search(left)):
            reason = f"{unset} is not set, which leaves {left!r} of {written!r}; give it in `environment`"
            raise _LeftOutError("unset_variable", node, reason)
        return self._filled(node)

    def _variable(self, template: str) -> str:
        env = _ENV.fullmatch(_expression_of(template))
        return self.environment.get(env[1] or env[2] or "", "") if env else ""

    def _unset(self, node: Node) -> str:
        words = (match[1] or match[2] or "" for match in _ENV.finditer("".join(node.texts[:1])))
        return ", ".join(word for word in dict.fromkeys(words) if word not in self.environment)

    def _filled(self, node: Node) -> str:
        def value(match: re.Match[str]) -> str:
            env = _ENV.fullmatch(_expression_of(match[1]))
            if env is None:
                raise _LeftOutError("template", node, f"the template {match[0]} can't be filled here")
            word = env[1] or env[2] or ""
            if word not in self.environment:
                self.draft.differs("unset_variable", node, f"{word} is not set and was taken as empty", file=_FILE)
            return self.environment.get(word, "")

        return _TEMPLATE.sub(value, "".join(node.texts[:1]))


def _expression_of(template: str) -> str:
    """Return what is in a template, without the blanks and the `-` that trims beside it."""
    return template.strip().removesuffix("-").strip()


def _tls(words: Mapping[str, str]) -> dict[str, Any]:
    certificates = {"ca": "regcert", "client_certificate": "clientCert", "client_key": "clientKey"}
    texts = {ours: words[theirs] for ours, theirs in certificates.items() if words[theirs]}
    return {**texts, "verify": words["tls"] != "insecure"}


def _tagged(text: str) -> str:
    _, tags, digest = split_reference(text)
    return text if tags or digest else f"{text}:latest"
