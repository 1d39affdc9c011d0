"""Manifests, indexes and descriptors: parsed from raw bytes, never written back.

The bytes a registry sent are the truth: their digest names them, and they are pushed as they came. What is parsed here
is only looked at. Rules come from the OCI image spec (manifest, index, descriptor) and docker's manifest v2 schema 2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from msgspec import Struct

from app.domain.errors import ContentError
from app.domain.reference import Digest, InvalidReferenceError

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""What registries are asked to take at least, and what Distribution takes at most (distribution spec, "Push").

It bounds the descriptors in one too; real images have more than a thousand layers, real indexes as many referrers."""
MAX_BLOB_BYTES = 2**40
_MAX_JSON_DEPTH = 64
_MAX_INT_DIGITS = 19
_MAX_PLATFORM_TEXT = 128
"""Of each text of a platform: they are shown, and stored with every image."""
_DEFAULT_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
"""What an entry means that names no variant (github.com/containerd/platforms, "Normalize")."""
_BASELINES = {"amd64": "v1", "arm64": "v8"}
"""What runs on every machine of an architecture; 32-bit arm has nothing of the kind."""
ATTESTED_DIGEST = "vnd.docker.reference.digest"
"""BuildKit's annotation of an attestation in an index: the digest of the image it is about."""


class MediaType(StrEnum):
    """The media types this service gives a meaning to; every other one is carried as it is."""

    OCI_INDEX = "application/vnd.oci.image.index.v1+json"
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    OCI_ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
    DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"


INDEX_TYPES = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_LIST})
MANIFEST_TYPES = frozenset({MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST, MediaType.OCI_ARTIFACT_MANIFEST})
SCHEMA1_TYPES = frozenset({MediaType.DOCKER_SCHEMA1, MediaType.DOCKER_SCHEMA1_SIGNED})
FOREIGN_LAYER_TYPES = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
EMPTY_DESCRIPTOR_DIGEST = Digest("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")


@dataclass(frozen=True, slots=True)
class Platform:
    """What an index entry runs on (image spec, "Image Index Property Descriptions")."""

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os/architecture[/variant][:os_version]`; raise `ValueError`."""
        if not re.fullmatch(r"[a-z0-9_.-]+(/[a-z0-9_.-]+){1,2}(:[0-9A-Za-z_.-]+)?", text):
            examples = "linux/amd64, linux/arm/v7 or windows/amd64:10.0.17763"
            message = f"{text!r} is not os/architecture[/variant][:os_version], such as {examples}"
            raise ValueError(message)
        name, _, os_version = text.partition(":")
        os, architecture, *variant = name.split("/")
        return cls(os, architecture, variant[0] if variant else None, os_version or None)

    def selects(self, other: Platform) -> bool:
        """Return whether asking for this platform selects `other`.

        Without a variant it selects the baseline of its architecture (`linux/amd64` not `linux/amd64/v3`), or every
        variant where there is none, as of `linux/arm`; with a version of the system it selects what begins with it.
        """
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        variant = self.variant or _BASELINES.get(self.architecture)
        if variant is not None and variant != (other.variant or _DEFAULT_VARIANTS.get(other.architecture)):
            return False
        return self.os_version is None or f"{other.os_version}.".startswith(f"{self.os_version}.")

    def __str__(self) -> str:
        name = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        return f"{name}:{self.os_version}" if self.os_version else name


class Descriptor(Struct, frozen=True, gc=False):
    """A pointer to content: what it is, how large, and its digest (image spec, "OCI Content Descriptors")."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    artifact_type: str | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    urls: tuple[str, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """Whether the content is to be fetched from `urls` elsewhere and not from the registry."""
        return self.media_type in FOREIGN_LAYER_TYPES


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest or index beside the exact bytes it came as."""

    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest
    children: tuple[Descriptor, ...] = ()
    """Manifests an index points at; empty for an image or artifact manifest."""
    blobs: tuple[Descriptor, ...] = ()
    """Config and layers, in the manifest's order; empty for an index."""
    subject: Descriptor | None = None
    artifact_type: str | None = None
    """`artifactType`, or the config's media type where that is empty: what a referrers list shows."""
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor that points at this manifest."""
        return Descriptor(
            media_type=self.media_type,
            digest=self.digest,
            size=len(self.raw),
            artifact_type=self.artifact_type,
            annotations=self.annotations,
        )


def digest_of(raw: bytes, algorithm: str = "sha256") -> Digest:
    """Compute the digest of bytes at hand."""
    return Digest(f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}")


def parse_manifest(raw: bytes, *, media_type: str | None, digest: Digest) -> Manifest:
    """Parse bytes whose digest was checked; raise `ContentError` where they are no manifest we may pass on.

    `media_type` is what the registry or the parent said; the document's own `mediaType` must agree with it, and a
    document that could be read as both an image and an index is refused (CVE-2021-41190).
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise _invalid(f"manifest has {len(raw)} bytes, more than {MAX_MANIFEST_BYTES}", code="limit_exceeded")
    document = load_json_object(raw)
    kind = _media_type(document, media_type)
    entries = _list(document, "manifests")
    layers = _list(document, "layers") or _list(document, "blobs")
    children: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    if kind in INDEX_TYPES:
        if "layers" in document or "config" in document:
            raise _invalid("document is both an index and an image manifest")
        children = tuple(parse_descriptor(entry) for entry in entries)
    else:
        if "manifests" in document:
            raise _invalid("document is both an image manifest and an index")
        config = document.get("config")
        if config is None and kind != MediaType.OCI_ARTIFACT_MANIFEST:
            raise _invalid("image manifest has no config")
        heads = [config] if config is not None else []
        blobs = tuple(parse_descriptor(entry) for entry in [*heads, *layers])
    subject = document.get("subject")
    return Manifest(
        raw=raw,
        media_type=kind,
        digest=digest,
        children=children,
        blobs=blobs,
        subject=parse_descriptor(subject) if subject is not None else None,
        artifact_type=_artifact_type(document),
        annotations=_annotations(document),
    )


def parse_descriptor(value: Any) -> Descriptor:
    """Read one descriptor from JSON; raise `ContentError` naming what is wrong with it."""
    if not isinstance(value, dict):
        raise _invalid("descriptor is not an object")
    size, media_type = value.get("size"), value.get("mediaType")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BLOB_BYTES:
        raise _invalid(f"descriptor size {size!r} is not a size", code="limit_exceeded" if size else None)
    if not isinstance(media_type, str) or not media_type:
        raise _invalid("descriptor has no mediaType")
    try:
        digest = Digest(str(value.get("digest")))
    except InvalidReferenceError as error:
        raise _invalid(f"descriptor: {error}") from error
    _check_data(value.get("data"), digest, size)
    artifact_type = value.get("artifactType")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        platform=_platform(value.get("platform")),
        artifact_type=artifact_type if isinstance(artifact_type, str) and artifact_type else None,
        annotations=_annotations(value),
        urls=tuple(url for url in _list(value, "urls") if isinstance(url, str)),
    )


def _check_data(data: Any, digest: Digest, size: int) -> None:
    """See that embedded content is what the descriptor says (image spec, "Embedded Content": it has to be verified)."""
    if data is None:
        return
    try:
        content = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except ValueError as error:
        raise _invalid("data of a descriptor is not base64") from error
    if len(content) != size or hashlib.new(digest.algorithm, content).hexdigest() != digest.encoded:
        raise _invalid(f"data of the descriptor of {digest} is other content than it says")


def load_json_object(raw: bytes) -> dict[str, Any]:
    """Parse untrusted JSON that must be an object; raise `ContentError`.

    Duplicate keys, NaN, integers beyond 64 bits and deep nesting are refused: two readers could understand them
    differently, or fail on them.
    """
    try:
        document = json.loads(raw, object_pairs_hook=_unique_pairs, parse_constant=_no_constant, parse_int=_bounded_int)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"not valid JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise _invalid("not a JSON object")
    if _depth(document) > _MAX_JSON_DEPTH:
        raise _invalid("JSON is nested too deeply", code="limit_exceeded")
    return document


def _media_type(document: dict[str, Any], given: str | None) -> str:
    named = document.get("mediaType")
    given = given.partition(";")[0].strip().lower() if given else None
    if named is not None and not isinstance(named, str):
        raise _invalid("mediaType is not a string")
    if document.get("schemaVersion") == 1 or given in SCHEMA1_TYPES or named in SCHEMA1_TYPES:
        raise _invalid("docker manifest schema 1 is not supported; push the image again with a current client")
    known = INDEX_TYPES | MANIFEST_TYPES
    if named and given in known and named != given:
        raise _invalid(f"mediaType {named!r} differs from the Content-Type {given!r}")
    kind = named or given or ""
    if kind in known:
        return kind
    if not named:
        # Static registries serve manifests without mediaType as text/plain or octet-stream: their shape decides.
        return MediaType.OCI_INDEX if "manifests" in document else MediaType.OCI_MANIFEST
    raise _invalid(f"media type {kind!r} is no manifest this service knows")


def _artifact_type(document: dict[str, Any]) -> str | None:
    named = document.get("artifactType")
    if isinstance(named, str) and named:
        return named
    config = document.get("config")
    kind = config.get("mediaType") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None


def _platform(value: Any) -> Platform | None:
    if not isinstance(value, dict):
        return None
    names = (value.get("os"), value.get("architecture"), value.get("variant"), value.get("os.version"))
    os, architecture, variant, os_version = (name if isinstance(name, str) and name else None for name in names)
    if os is None or architecture is None:
        return None
    if any(name is not None and len(name) > _MAX_PLATFORM_TEXT for name in (os, architecture, variant, os_version)):
        raise _invalid("a platform with texts that are too long", code="limit_exceeded")
    return Platform(os, architecture, variant, os_version)


def _annotations(document: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    value = document.get("annotations")
    if not isinstance(value, dict):
        return ()
    return tuple((key, text) for key, text in value.items() if isinstance(text, str))


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _invalid(f"{key} is not a list")
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        message = "an object repeats a key"
        raise ValueError(message)
    return document


def _no_constant(text: str) -> None:
    message = f"{text} is no JSON"
    raise ValueError(message)


def _bounded_int(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_INT_DIGITS:
        message = "an integer has too many digits"
        raise ValueError(message)
    return int(text)


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level and depth <= _MAX_JSON_DEPTH:
        depth += 1
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
    return depth


def _invalid(message: str, *, code: str | None = None) -> ContentError:
    return ContentError(message, code=code or "manifest_invalid")


def select_children(index: Manifest, platforms: Sequence[Platform]) -> tuple[Descriptor, ...]:
    """Choose an index's children; no platforms means all.

    What says that it is for another platform is left out, and nothing else: an entry without a platform stays (a
    nested index is looked into later), and an attestation stays with the image it is about.
    """
    if not platforms:
        return index.children
    chosen = {child.digest for child in index.children if _runs_on(child, platforms)}
    return tuple(
        child
        for child in index.children
        if child.digest in chosen or (is_attestation(child) and dict(child.annotations)[ATTESTED_DIGEST] in chosen)
    )


def leaves_out(index: Manifest, platforms: Sequence[Platform]) -> bool:
    """Return whether a choice of platforms leaves out children of an index."""
    return len(select_children(index, platforms)) < len(index.children)


def select_images(indexes: Sequence[Manifest], platforms: Sequence[Platform] = ()) -> list[Descriptor]:
    """Choose the images of an index at any depth, attestations left aside; no platforms means all.

    - `indexes`: the index, and those below it that were read: what they stand for are their own entries
    """
    read = {index.digest for index in indexes}
    chosen = (child for index in indexes for child in select_children(index, platforms))
    return [child for child in chosen if child.digest not in read and not is_attestation(child)]


def missing_platforms(indexes: Sequence[Manifest], platforms: Sequence[Platform]) -> tuple[Platform, ...]:
    """List the platforms asked for that an index has nothing for; none where an entry does not say what it is for.

    - `indexes`: as for `select_images`
    """
    there = [image.platform for image in select_images(indexes)]
    said = [platform for platform in there if platform is not None]
    if len(said) < len(there):
        return ()
    return tuple(wanted for wanted in platforms if there and not any(map(wanted.selects, said)))


def is_attestation(child: Descriptor) -> bool:
    """Whether an index's entry is BuildKit's attestation of another one."""
    return ATTESTED_DIGEST in dict(child.annotations)


def _runs_on(child: Descriptor, platforms: Sequence[Platform]) -> bool:
    if is_attestation(child):
        return False
    return child.platform is None or any(wanted.selects(child.platform) for wanted in platforms)
