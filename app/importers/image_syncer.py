"""Reads image-syncer's files: `images` (source to destination or destinations) and `auth` (prefix to login).

github.com/AliyunContainerService/image-syncer, README.md; also its old single file with both under `images` and `auth`.
Different on purpose, in every rule: an index goes over byte for byte, and the longest `auth` prefix wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.reference import is_bare_host, looks_like_host, split_reference
from app.domain.request import MAX_DESTINATIONS, Options
from app.importers.document import Node, read_document
from app.importers.patterns import regex_matcher
from app.importers.result import HALF_A_LOGIN, HALF_A_NAME, UNVERIFIED, Draft, Group, ImportResult, unverified
from app.importers.shape import FLAG, TEXT, TEXTS, fitted, mapping_to, named, with_fields

_IMAGES, _AUTH = "images", "auth"
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<name>[A-Za-z_][A-Za-z0-9_]*|[*#$@!?0-9-]))")
_RULES_SHAPE = mapping_to(TEXTS)
_LOGINS_SHAPE = mapping_to(with_fields({**named(("username", "password"), TEXT), "insecure": FLAG}))
_OPTIONS = Options(referrers=False, digest_tags=False, foreign_layers="copy")
"""What image-syncer does: no referrers, the tags that are asked for, foreign layers fetched and pushed."""


@dataclass(frozen=True, slots=True)
class ImageSyncerFlags:
    """The flags of its command line that decide what is copied: `--os` and `--arch`, each given as often as there."""

    os: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    tags: tuple[str, ...] = ()
    regex: str | None = None
    digest: str = ""
    dropped_tags: str = ""

    @property
    def takes_all_tags(self) -> bool:
        return not self.tags and not self.digest


def read_image_syncer(
    images: str,
    *,
    auth: str = "",
    environment: Mapping[str, str] | None = None,
    flags: ImageSyncerFlags | None = None,
    name: str = "image-syncer",
) -> ImportResult:
    """Read both files; `$NAME` and `${NAME}` are looked up in `environment` only. Raise `InvalidRequestError`."""
    reader = _Reader(Draft(name), environment or {})
    rules, logins = read_document(images, name=_IMAGES), read_document(auth, name=_AUTH)
    is_old_form = rules.fields is not None and set(rules.fields) <= {"images", "auth"} and "images" in rules.fields
    if is_old_form:
        reader.read_logins(rules.get("auth"), file=_IMAGES, is_expanded=False)
        rules = rules.get("images")
    reader.read_logins(logins, file=_AUTH, is_expanded=True)
    reader.read_rules(rules, flags or ImageSyncerFlags())
    return reader.draft.result()


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft
    environment: Mapping[str, str]

    def read_logins(self, logins: Node, *, file: str, is_expanded: bool) -> None:
        expected = "a mapping from registries to logins"
        logins = fitted(logins, _LOGINS_SHAPE, self.draft, file=file, expected=expected)
        for host, login in (logins.fields or {}).items():
            self._read_login(host, login, file=file, is_expanded=is_expanded)

    def _read_login(self, host: str, login: Node, *, file: str, is_expanded: bool) -> None:
        words = {key: login.get(key).text or "" for key in ("username", "password")}
        if is_expanded:
            words = {key: self._expanded(text, login, file=file) for key, text in words.items()}
        fields = {}
        if words["username"] and words["password"]:
            if words["username"] == "_oauth2_" and ".gcr.io" in f".{host}":
                words["username"] = "_json_key_base64"  # Google's own name for a login with such a key
            fields["auth"] = {"type": "basic", **words}
        elif words["username"] or words["password"]:
            self.draft.left_out("half_a_login", login, HALF_A_LOGIN, file=file)
        if login.get("insecure").is_true:
            fields |= unverified(host)
            self.draft.differs("insecure", login, UNVERIFIED, file=file)
        self.draft.add_registry(host, login, fields=fields, file=file)

    def read_rules(self, rules: Node, flags: ImageSyncerFlags) -> None:
        expected = "a mapping from sources to destinations"
        rules = fitted(rules, _RULES_SHAPE, self.draft, file=_IMAGES, expected=expected)
        platforms = self._platforms(rules, flags)
        for text, node in (rules.fields or {}).items():
            try:
                source = _read_source(text)
                fields = {"source": _source_text(source), **platforms}
                if source.regex:
                    fields["tags"] = {"include": [regex_matcher(source.regex)]}
            except ValueError as error:
                self.draft.left_out("invalid_source", node, f"{text}: {error}", file=_IMAGES)
                continue
            self._warn_of_short_name(source, node)
            if source.dropped_tags:
                reason = f"the digest says what is copied and {source.dropped_tags!r} is dropped, as in image-syncer"
                advice = "it gets the tag that its destination names, or none"
                self.draft.left_out("tag_beside_digest", node, f"{reason}; {advice}", file=_IMAGES)
            destinations = self._destinations(source, node)
            for start in range(0, len(destinations), MAX_DESTINATIONS):
                fields["destination"] = destinations[start : start + MAX_DESTINATIONS]
                self.draft.add_rule(fields, node, group=Group(_OPTIONS), file=_IMAGES)

    def _destinations(self, source: _Source, node: Node) -> list[str]:
        written = [text for text in node.texts if not self._is_half(text, node)]
        texts = [self._expanded(text, node, file=_IMAGES).strip() for text in written]
        if not any(texts) and len(written) == len(node.texts):
            self.draft.left_out("no_destination", node, "there is no destination", file=_IMAGES)
        found = []
        for text in dict.fromkeys(filter(None, texts)):
            try:
                found.append(_read_destination(text, source))
            except ValueError as error:
                self.draft.left_out("invalid_destination", node, f"{text}: {error}", file=_IMAGES)
        return list(dict.fromkeys(found))

    def _warn_of_short_name(self, source: _Source, node: Node) -> None:
        first, slash, _ = source.name.partition("/")
        if slash and not looks_like_host(first) and source.takes_all_tags:
            reason = f"image-syncer takes {first!r} for a registry; here this is docker.io/{source.name}"
            self.draft.differs("docker_hub_name", node, reason, file=_IMAGES)

    def _platforms(self, node: Node, flags: ImageSyncerFlags) -> dict[str, object]:
        if not flags.os and not flags.arch:
            return {}
        if not flags.arch:
            reason = "--os without --arch: here a platform is os/architecture; everything is copied"
            self.draft.left_out("os_without_arch", node, reason, file="flags")
            return {}
        if not flags.os:
            reason = "--arch without --os takes every system; here it takes linux"
            self.draft.differs("arch_without_os", node, reason, file="flags")
        for arch in flags.arch:
            if ":" not in arch and arch in {"amd64", "arm64"}:
                reason = f"--arch {arch} takes every variant; here {arch} is the one that runs everywhere"
                self.draft.differs("arch_variants", node, reason, file="flags")
        pairs = [
            f"{system}/{arch.replace(':', '/')}{colon}{version}"
            for system, colon, version in (text.partition(":") for text in dict.fromkeys(flags.os or ("linux",)))
            for arch in flags.arch
        ]
        return {"platforms": pairs, "platform_mode": "rewrite"}

    def _is_half(self, text: str, node: Node) -> bool:
        """Note a destination of which a variable that is not set leaves half a name, or another registry."""
        unset = [match for match in _VARIABLE.finditer(text) if _word(match) not in self.environment]
        left = _VARIABLE.sub(lambda match: self.environment.get(_word(match), ""), text).strip()
        is_host = bool(unset) and "/" not in text[: unset[0].start()]
        if not unset or not (is_host or HALF_A_NAME.search(left)):
            return False
        words = ", ".join(dict.fromkeys(match[0] for match in unset))
        reason = f"{words} is not set, which leaves {left!r} of {text!r}; give it in `environment`"
        self.draft.left_out("unset_variable", node, reason, file=_IMAGES)
        return True

    def _expanded(self, text: str, node: Node, *, file: str) -> str:
        # As Go's os.ExpandEnv does it: one pass, no way to escape, what is not set is empty.
        def value(match: re.Match[str]) -> str:
            word = _word(match)
            if word not in self.environment:
                self.draft.differs("unset_variable", node, f"${word} is not set and was taken as empty", file=file)
            return self.environment.get(word, "")

        return _VARIABLE.sub(value, text)


def _word(match: re.Match[str]) -> str:
    return match["name"] or match["braced"] or ""


def _read_source(text: str) -> _Source:
    start = text.find(":/")
    if start >= 0 and text.endswith("/") and len(text) > start + 2:
        return _Source(text[:start], regex=text[start + 2 : -1])
    name, tags, digest = split_reference(text)
    if is_bare_host(name) or text.endswith((":", "@", "/")):
        message = "there is no repository, or nothing behind it"
        raise ValueError(message)
    if digest:
        return _Source(name, digest=digest, dropped_tags=tags)
    return _Source(name, tags=tuple(tags.split(",")) if tags else ())


def _source_text(source: _Source) -> str:
    digest = f"@{source.digest}" if source.digest else ""
    tags = f":{','.join(dict.fromkeys(source.tags))}" if source.tags else ""
    return f"{source.name}{tags}{digest}"


def _read_destination(text: str, source: _Source) -> str:
    name, tags, digest = split_reference(text)
    if "/" not in name or "{" in text:
        message = "it names no repository"
        raise ValueError(message)
    if digest and digest != source.digest:
        message = "a destination can't have another digest than its source"
        raise ValueError(message)
    if not tags:
        return name
    wanted = 1 if source.digest else len(source.tags)
    if len(tags.split(",")) != wanted or len(set(source.tags)) != len(source.tags):
        message = "tags are renamed by position, so source and destination must list equally many, each once"
        raise ValueError(message)
    return f"{name}:{tags}"
