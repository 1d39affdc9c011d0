"""Reads the YAML file of `skopeo sync --src yaml`: per registry its images, by list, by expression or by version.

github.com/containers/skopeo, docs/skopeo-sync.1.md. What stands on skopeo's command line is given as flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.domain.reference import Digest, InvalidReferenceError, Repository
from app.domain.request import Options
from app.importers.document import Node, read_document
from app.importers.patterns import Ranges, masterminds_ranges, regex_matcher
from app.importers.result import HALF_A_LOGIN, UNVERIFIED, Draft, Group, ImportResult, unverified
from app.importers.shape import FLAG, TEXT, TEXTS, fitted, mapping_to, named, with_fields

_FILE = "skopeo"
_SELECTIONS = ("images", "images-by-tag-regex", "images-by-semver")
_SHAPE = mapping_to(
    with_fields(
        {
            "images": mapping_to(TEXTS),
            "images-by-tag-regex": mapping_to(TEXT),
            "images-by-semver": mapping_to(TEXT),
            "credentials": with_fields(named(("username", "password"), TEXT)),
            "tls-verify": FLAG,
            "cert-dir": TEXT,
        }
    )
)
_GROUP = Group(Options(referrers=False, digest_tags=False))
"""What skopeo does: no referrers, only the tags that are asked for."""


@dataclass(frozen=True, slots=True)
class SkopeoFlags:
    """The arguments that decide what is copied to where."""

    destination: str
    scoped: bool = False
    all_platforms: bool = False
    """`--all`; without it skopeo copies for the platform it runs on."""
    platform: str = "linux/amd64"
    append_suffix: str = ""


def read_skopeo(text: str, *, flags: SkopeoFlags, name: str = "skopeo") -> ImportResult:
    """Read the file; raise `InvalidRequestError` where it is none."""
    reader = _Reader(Draft(name), flags)
    expected = "a mapping from registries to images"
    document = fitted(read_document(text, name=_FILE), _SHAPE, reader.draft, file=_FILE, expected=expected)
    if not flags.all_platforms:
        reason = f"skopeo copies one image out of an index; here a new index with {flags.platform} alone is made"
        reader.draft.differs("one_platform", document, reason, file=_FILE)
    for host, node in (document.fields or {}).items():
        reader.read_registry(host, node)
    return reader.draft.result()


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft
    flags: SkopeoFlags

    def read_registry(self, host: str, node: Node) -> None:
        self._read_access(host, node)
        if not any(node.get(key).fields for key in _SELECTIONS):
            self.draft.left_out("no_images", node, f"of {host} no images are named", file=_FILE)
        for repository, tags in (node.get("images").fields or {}).items():
            self._read_listed(host, repository, tags)
        for key, read in (("images-by-tag-regex", _by_regex), ("images-by-semver", masterminds_ranges)):
            for repository, pattern in (node.get(key).fields or {}).items():
                try:
                    ranges = read(pattern.text or "")
                except ValueError as error:
                    self.draft.left_out("invalid_pattern", pattern, str(error), file=_FILE)
                    continue
                if ranges.differs:
                    self.draft.differs("version_range", pattern, ranges.differs, file=_FILE)
                selection = {"include": list(ranges.include), "exclude": list(ranges.exclude)}
                self._add(host, repository, pattern, selection={"tags": selection})

    def _read_access(self, host: str, node: Node) -> None:
        login = node.get("credentials")
        username, password = login.get("username").text or "", login.get("password").text or ""
        fields: dict[str, Any] = {}
        if username and password:
            fields["auth"] = {"type": "basic", "username": username, "password": password}
        elif not login.is_null:
            self.draft.left_out("half_a_login", login, HALF_A_LOGIN, file=_FILE)
        if not node.get("tls-verify").is_null and not node.get("tls-verify").is_true:
            fields |= unverified(host)
            self.draft.differs("insecure", node.get("tls-verify"), UNVERIFIED, file=_FILE)
        if not node.get("cert-dir").is_null:
            reason = "certificates are given to the registry as texts, not as a folder"
            self.draft.left_out("cert_dir", node.get("cert-dir"), reason, file=_FILE)
        if fields:
            self.draft.add_registry(host, node, fields=fields, file=_FILE)

    def _read_listed(self, host: str, repository: str, node: Node) -> None:
        if not node.texts:
            self._add(host, repository, node)
            return
        tags = [text for text in dict.fromkeys(node.texts) if not _is_digest(text)]
        if tags:
            self._add(host, repository, node, suffix=f":{','.join(tags)}")
        for digest in dict.fromkeys(text for text in node.texts if _is_digest(text)):
            if self.flags.append_suffix:
                self.draft.differs("digest_suffix", node, "what is copied by digest gets no tag", file=_FILE)
            self._add(host, repository, node, suffix=f"@{digest}")

    def _add(
        self, host: str, repository: str, node: Node, *, suffix: str = "", selection: dict[str, Any] | None = None
    ) -> None:
        try:
            source = Repository.parse(f"{host}/{repository}")
        except InvalidReferenceError as error:
            self.draft.left_out("invalid_source", node, str(error), file=_FILE)
            return
        base = self.flags.destination.rstrip("/")
        destination = f"{base}/{source if self.flags.scoped else source.name}"
        if self.flags.append_suffix and not suffix.startswith("@"):
            destination += f":{{tag}}{self.flags.append_suffix}"
        fields = {"source": f"{source}{suffix}", "destination": destination, **(selection or {})}
        if not self.flags.all_platforms:
            fields |= {"platforms": [self.flags.platform], "platform_mode": "rewrite"}
        self.draft.add_rule(fields, node, group=_GROUP, file=_FILE)


def _by_regex(pattern: str) -> Ranges:
    return Ranges((regex_matcher(pattern),) if pattern else ())


def _is_digest(text: str) -> bool:
    try:
        Digest(text)
    except InvalidReferenceError:
        return False
    return True
