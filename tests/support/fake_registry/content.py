"""What a fake registry holds, in memory: read it, put into it, and ask what is wrong with it."""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.images import OCI_MANIFEST, Manifest, digest_of


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was put: its bytes and the media type it came with."""

    raw: bytes = field(repr=False)
    media_type: str

    def body(self) -> dict[str, Any]:
        """Return the parsed document, empty when it is none."""
        try:
            body = json.loads(self.raw)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    def children(self) -> list[str]:
        """Return the digests an index names."""
        return [child["digest"] for child in self.body().get("manifests") or []]

    def blobs(self) -> list[str]:
        """Return the digests of config and layers the registry has to hold: those without `urls`."""
        body = self.body()
        parts = [*filter(None, [body.get("config")]), *(body.get("layers") or []), *(body.get("blobs") or [])]
        return [part["digest"] for part in parts if not part.get("urls")]

    def subject(self) -> str | None:
        """Return the digest this one refers to."""
        subject = self.body().get("subject")
        return subject["digest"] if subject else None


@dataclass(slots=True)
class Session:
    """An upload in work."""

    id: str
    repository: str
    data: bytearray = field(default_factory=bytearray, repr=False)
    chunks: int = 0
    last_chunk_bytes: int = 0
    step: int = 0
    """Grows with each change of state; a location names it when the registry keeps state in its URLs."""
    requests: int = 0


@dataclass(slots=True)
class RepositoryContent:
    """One repository."""

    manifests: dict[str, StoredManifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Violation:
    """A tag that was put while something below it was missing."""

    repository: str
    tag: str
    missing_blobs: tuple[str, ...]
    missing_children: tuple[str, ...]


class Content:
    """All repositories and upload sessions; writes from the wire and from tests go through the same methods."""

    def __init__(self) -> None:
        self.repositories: dict[str, RepositoryContent] = {}
        self.sessions: dict[str, Session] = {}
        self.violations: list[Violation] = []
        self._session_numbers = itertools.count(1)

    def repository(self, name: str) -> RepositoryContent:
        """Return a repository, made if need be."""
        return self.repositories.setdefault(name, RepositoryContent())

    def load(self, name: str, manifest: Manifest, *tags: str) -> str:
        """Put a manifest with everything below it and its tags; return its digest."""
        for blob in manifest.all_blobs().values():
            self.put_blob(name, blob.data, digest=blob.digest)
        for part in manifest.walk():
            self.put_manifest(name, part.raw, part.media_type)
        for tag in tags:
            self.repository(name).tags[tag] = manifest.digest
        return manifest.digest

    def put_blob(self, name: str, data: bytes, *, digest: str = "") -> str:
        """Put a blob; under another digest than its own when one is given."""
        digest = digest or digest_of(data)
        self.repository(name).blobs[digest] = data
        return digest

    def put_manifest(
        self, name: str, raw: bytes, media_type: str = OCI_MANIFEST, *, tag: str = "", digest: str = ""
    ) -> str:
        """Put a manifest as it is, nothing checked, and a tag if one is named."""
        digest = digest or digest_of(raw)
        self.repository(name).manifests[digest] = StoredManifest(raw, media_type)
        if tag:
            self.repository(name).tags[tag] = digest
        return digest

    def tags(self, name: str) -> dict[str, str]:
        """Return tag → digest."""
        return dict(self.repositories[name].tags) if name in self.repositories else {}

    def digest(self, name: str, reference: str) -> str | None:
        """Return the digest of a manifest that is there, by tag or digest."""
        found = self.repositories.get(name)
        if found is None:
            return None
        digest = reference if ":" in reference else found.tags.get(reference)
        return digest if digest in found.manifests else None

    def manifest(self, name: str, reference: str) -> StoredManifest | None:
        """Return a manifest by tag or digest."""
        digest = self.digest(name, reference)
        return None if digest is None else self.repositories[name].manifests[digest]

    def blob(self, name: str, digest: str) -> bytes | None:
        """Return a blob's bytes."""
        return self.repositories[name].blobs.get(digest) if name in self.repositories else None

    def find_blob(self, digest: str) -> bytes | None:
        """Return a blob of whatever repository has it."""
        return next((data for held in self.repositories.values() if (data := held.blobs.get(digest)) is not None), None)

    def referrers(self, name: str, subject: str) -> list[dict[str, Any]]:
        """Return descriptors of the manifests that refer to a digest (distribution-spec, "Listing Referrers")."""
        found = self.repositories.get(name)
        manifests = found.manifests.items() if found else ()
        return [_describe(digest, manifest) for digest, manifest in manifests if manifest.subject() == subject]

    def missing(self, name: str, manifest: StoredManifest) -> tuple[list[str], list[str]]:
        """Return the blobs and children a manifest names directly that are not there."""
        held = self.repository(name)
        blobs = [digest for digest in manifest.blobs() if digest not in held.blobs]
        return blobs, [digest for digest in manifest.children() if digest not in held.manifests]

    def tag(self, name: str, tag: str, digest: str) -> None:
        """Point a tag at a manifest and keep what is missing below it as a violation."""
        blobs, children = self._missing_below(name, digest, set())
        if blobs or children:
            self.violations.append(Violation(name, tag, tuple(blobs), tuple(children)))
        self.repository(name).tags[tag] = digest

    def open_session(self, name: str, *, named: str) -> Session:
        """Begin an upload, named by its number."""
        self.repository(name)
        session = Session(named.format(next(self._session_numbers)), name)
        self.sessions[session.id] = session
        return session

    def close_session(self, session: Session, *, digest: str) -> bool:
        """End an upload and keep its blob; False when the bytes are not the digest's."""
        del self.sessions[session.id]
        if not agrees(digest, bytes(session.data)):
            return False
        self.put_blob(session.repository, bytes(session.data), digest=digest)
        return True

    def _missing_below(self, name: str, digest: str, seen: set[str]) -> tuple[list[str], list[str]]:
        seen.add(digest)
        manifest = self.repository(name).manifests[digest]
        blobs, children = self.missing(name, manifest)
        for child in manifest.children():
            if child not in seen and child not in children:
                more_blobs, more_children = self._missing_below(name, child, seen)
                blobs += more_blobs
                children += more_children
        return blobs, children


def agrees(digest: str, data: bytes) -> bool:
    """Say whether bytes are a digest's, of sha256 or sha512."""
    algorithm, _, _ = digest.partition(":")
    hashers: dict[str, Callable[[bytes], Any]] = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
    return algorithm in hashers and f"{algorithm}:{hashers[algorithm](data).hexdigest()}" == digest


def _describe(digest: str, manifest: StoredManifest) -> dict[str, Any]:
    body = manifest.body()
    config = body.get("config") or {}
    described: dict[str, Any] = {"mediaType": manifest.media_type, "digest": digest, "size": len(manifest.raw)}
    if artifact_type := body.get("artifactType") or config.get("mediaType"):
        described["artifactType"] = artifact_type
    if annotations := body.get("annotations"):
        described["annotations"] = annotations
    return described
