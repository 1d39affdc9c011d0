"""Content to copy, the same on every run: blobs, images, indexes, artifacts, and what refers to them.

Everything is a `Manifest` (of an image, an index or an artifact) that holds what it needs; `tests.support.plain_client`
pushes it and all below it.

    app = oci_index([oci_image("app", platform="linux/amd64"), oci_image("app", platform="linux/arm64")])
    client.push("team/app", app, tags=["1.0"])
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
COSIGN_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"

DEFAULT_LAYER_BYTES = (2048, 1024)
# `randbytes` makes one number of all its bits, and a C int bounds how many.
_PIECE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes under their digest; with `urls` it lies elsewhere (a foreign layer) and is not pushed."""

    data: bytes = field(repr=False)
    media_type: str = OCI_LAYER
    urls: tuple[str, ...] = ()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.data))

    @property
    def size(self) -> int:
        return len(self.data)

    def descriptor(self) -> dict[str, Any]:
        """Return how a manifest names it."""
        named = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**named, "urls": list(self.urls)} if self.urls else named


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's bytes with everything below it: its blobs, and an index's children."""

    raw: bytes = field(repr=False)
    media_type: str
    blobs: tuple[Blob, ...] = ()
    children: tuple["Manifest", ...] = ()
    platform: str | None = None
    artifact_type: str | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.raw))

    @property
    def size(self) -> int:
        return len(self.raw)

    def descriptor(self) -> dict[str, Any]:
        """Return how an index, or a subject field, names it."""
        named: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform:
            named["platform"] = _platform(self.platform)
        if self.artifact_type:
            named["artifactType"] = self.artifact_type
        return named

    def walk(self) -> Iterator["Manifest"]:
        """Yield every manifest of the graph once, children before parents."""
        seen: set[str] = set()
        for manifest in self._walk():
            if manifest.digest not in seen:
                seen.add(manifest.digest)
                yield manifest

    def all_blobs(self) -> dict[str, Blob]:
        """Return every blob of the graph that a registry has to have, by digest."""
        return {blob.digest: blob for manifest in self.walk() for blob in manifest.blobs if not blob.urls}

    def _walk(self) -> Iterator["Manifest"]:
        for child in self.children:
            yield from child._walk()
        yield self


def digest_of(data: bytes) -> str:
    """Return the sha256 digest as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob(seed: str, *, size: int = 1024, media_type: str = OCI_LAYER, urls: Sequence[str] = ()) -> Blob:
    """Make bytes that look like a compressed layer; the same seed and size give the same digest."""
    source = random.Random(f"{seed}/{size}")
    pieces = [source.randbytes(min(_PIECE_BYTES, size - start)) for start in range(0, size, _PIECE_BYTES)]
    return Blob(b"".join(pieces), media_type, tuple(urls))


def oci_image(
    seed: str,
    *,
    platform: str = "linux/amd64",
    layers: Sequence[Blob] | None = None,
    subject: Manifest | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Make an OCI image; layers given are shared with whatever else holds them, else two small ones are made."""
    layers = _layers(seed, platform, OCI_LAYER) if layers is None else layers
    config = _config(seed, platform, layers, media_type=OCI_CONFIG)
    body = _image_body(OCI_MANIFEST, config, layers)
    body.update(_optional(subject=subject, annotations=annotations))
    return Manifest(_encode(body), OCI_MANIFEST, (config, *layers), platform=platform)


def docker_image(seed: str, *, platform: str = "linux/amd64", layers: Sequence[Blob] | None = None) -> Manifest:
    """Make an image of Docker's version 2, schema 2."""
    layers = _layers(seed, platform, DOCKER_LAYER) if layers is None else layers
    layers = [replace(layer, media_type=DOCKER_LAYER) if layer.media_type == OCI_LAYER else layer for layer in layers]
    config = _config(seed, platform, layers, media_type=DOCKER_CONFIG)
    return Manifest(
        _encode(_image_body(DOCKER_MANIFEST, config, layers)), DOCKER_MANIFEST, (config, *layers), platform=platform
    )


def oci_index(
    children: Sequence[Manifest],
    *,
    subject: Manifest | None = None,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Make an OCI index; children may be indexes themselves."""
    body = _index_body(OCI_INDEX, children)
    body.update(_optional(subject=subject, annotations=annotations, artifact_type=artifact_type))
    return Manifest(_encode(body), OCI_INDEX, children=tuple(children), artifact_type=artifact_type)


def docker_list(children: Sequence[Manifest]) -> Manifest:
    """Make a Docker manifest list."""
    return Manifest(_encode(_index_body(DOCKER_LIST, children)), DOCKER_LIST, children=tuple(children))


def artifact(
    seed: str,
    *,
    artifact_type: str = "application/vnd.example.thing.v1",
    blobs: Sequence[Blob] | None = None,
    subject: Manifest | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Make an OCI artifact (image-spec, "Guidelines for Artifact Usage": empty config); with a subject, a referrer."""
    blobs = [blob(f"{seed}/artifact", size=512, media_type=artifact_type)] if blobs is None else blobs
    empty = Blob(b"{}", OCI_EMPTY)
    body = {**_image_body(OCI_MANIFEST, empty, blobs), "artifactType": artifact_type}
    body.update(_optional(subject=subject, annotations=annotations))
    return Manifest(_encode(body), OCI_MANIFEST, (empty, *blobs), artifact_type=artifact_type)


def cosign_signature(signed: Manifest, *, seed: str = "cosign") -> Manifest:
    """Make what cosign pushes under `cosign_tag(signed.digest)`: an image without a subject, found by its tag only."""
    payload = {
        "critical": {"image": {"docker-manifest-digest": signed.digest}, "type": "cosign container image signature"}
    }
    layer = Blob(_encode({**payload, "optional": {"seed": seed}}), COSIGN_PAYLOAD)
    return oci_image(f"{seed}/{signed.digest}", layers=[layer])


def fallback_index(referrers: Sequence[Manifest]) -> Manifest:
    """Make the index that stands in for a referrers API (distribution-spec, "Referrers Tag Schema")."""
    return Manifest(_encode(_index_body(OCI_INDEX, referrers)), OCI_INDEX, children=tuple(referrers))


def fallback_tag(digest: str) -> str:
    """Return the tag such an index lies under."""
    return digest.replace(":", "-")


def cosign_tag(digest: str, *, kind: str = "sig") -> str:
    """Return cosign's tag for a digest: `sig`, `att` or `sbom`."""
    return f"{fallback_tag(digest)}.{kind}"


def _layers(seed: str, platform: str, media_type: str) -> list[Blob]:
    return [
        blob(f"{seed}/{platform}/layer{number}", size=size, media_type=media_type)
        for number, size in enumerate(DEFAULT_LAYER_BYTES)
    ]


def _config(seed: str, platform: str, layers: Sequence[Blob], *, media_type: str) -> Blob:
    # Layers here are no archives, so their "unpacked" digest is simply their own.
    content = {
        **_platform(platform),
        "author": seed,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return Blob(_encode(content), media_type)


def _image_body(media_type: str, config: Blob, layers: Sequence[Blob]) -> dict[str, Any]:
    named = [layer.descriptor() for layer in layers]
    return {"schemaVersion": 2, "mediaType": media_type, "config": config.descriptor(), "layers": named}


def _index_body(media_type: str, children: Sequence[Manifest]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": [child.descriptor() for child in children]}


def _optional(
    *, subject: Manifest | None, annotations: Mapping[str, str] | None, artifact_type: str | None = None
) -> dict[str, Any]:
    """Return the fields that are left out rather than null."""
    found = {
        "artifactType": artifact_type,
        "subject": subject and {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
        "annotations": annotations and dict(annotations),
    }
    return {name: value for name, value in found.items() if value}


def _platform(platform: str) -> dict[str, str]:
    system, architecture, *variant = platform.split("/")
    return {"architecture": architecture, "os": system, **({"variant": variant[0]} if variant else {})}


def _encode(body: object) -> bytes:
    """Indent as Docker does: bytes that a parse and a re-encode would not reproduce, so that re-serialising shows."""
    return json.dumps(body, indent=3).encode()
