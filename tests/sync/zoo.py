"""One of every shape of content there is, to be copied and compared."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.images import (
    DOCKER_FOREIGN_LAYER,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Manifest,
    artifact,
    blob,
    cosign_signature,
    cosign_tag,
    docker_image,
    docker_list,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)

BUILDKIT_CACHE = "application/vnd.buildkit.cacheconfig.v0"
FOREIGN_URL = "https://example.com/layer"
SHARED = blob("shared by many", size=30_000)


@dataclass(frozen=True, slots=True)
class Animal:
    """Content under some tags of one repository."""

    repository: str
    manifest: Manifest
    tags: tuple[str, ...] = ()


def zoo() -> list[Animal]:
    """Return content of every shape that real registries hold and Distribution 2 takes."""
    image = oci_image("plain", layers=[SHARED, blob("plain")])
    index = oci_index([oci_image("multi", platform="linux/amd64"), oci_image("multi", platform="linux/arm64/v8")])
    signed = oci_image("signed", layers=[SHARED])
    sbom = artifact("sbom", subject=signed, annotations={"made": "by a test"})
    signature = artifact("signature of the sbom", subject=sbom)
    return [
        Animal("plain", image, ("1.0", "1", "latest")),
        Animal("other/deep/plain", image, ("same-elsewhere",)),
        Animal("docker", docker_image("docker", layers=[SHARED, blob("docker")]), ("v2",)),
        Animal("docker", docker_list([docker_image("a"), docker_image("b", platform="linux/arm/v7")]), ("list",)),
        Animal("multi", index, ("1.0",)),
        Animal("multi", oci_index([index, oci_image("beside")]), ("nested",)),
        Animal("multi", oci_index([index, oci_index([oci_index([image])])]), ("deeply",)),
        Animal("odd", without_platform(), ("no-platform",)),
        Animal("odd", without_media_type(image), ("no-media-type",)),
        Animal("odd", without_media_type(index), ("index-without-media-type",)),
        Animal("odd", unknown_kinds(), ("unknown-kinds",)),
        Animal("odd", embedded_data(), ("data",)),
        Animal("odd", oci_image("no layers", layers=[]), ("no-layers",)),
        Animal("odd", oci_image("twice", layers=[SHARED, SHARED]), ("layer-twice",)),
        Animal("odd", oci_image("empty layer", layers=[Blob(b"")]), ("empty-layer",)),
        Animal("odd", with_attestation(), ("attested",)),
        Animal("artifacts", artifact("chart", artifact_type="application/vnd.cncf.helm.config.v1+json"), ("chart",)),
        Animal("artifacts", artifact("nothing", blobs=[Blob(b"{}", OCI_EMPTY)]), ("empty",)),
        Animal("foreign", docker_image("windows", layers=[foreign_layer(), blob("own")]), ("windows",)),
        Animal("signed", signed, ("1.0",)),
        Animal("signed", sbom),
        Animal("signed", signature),
        Animal("signed", fallback_index([sbom]), (fallback_tag(signed.digest),)),
        Animal("signed", fallback_index([signature]), (fallback_tag(sbom.digest),)),
        Animal("signed", cosign_signature(signed), (cosign_tag(signed.digest),)),
        Animal("signed", cosign_signature(signed, seed="att"), (cosign_tag(signed.digest, kind="att"),)),
        Animal("signed", cosign_signature(image, seed="orphan"), (cosign_tag(image.digest),)),
    ]


def without_platform() -> Manifest:
    """Make an index whose entries do not say what they run on."""
    children = [oci_image("bare 1"), oci_image("bare 2")]
    entries = [{key: value for key, value in child.descriptor().items() if key != "platform"} for child in children]
    return index_of(entries, children)


def without_media_type(manifest: Manifest) -> Manifest:
    """Take the field `mediaType` out of a document."""
    body = json.loads(manifest.raw)
    del body["mediaType"]
    return Manifest(encode(body), manifest.media_type, manifest.blobs, manifest.children)


def unknown_kinds() -> Manifest:
    """Make an image of config and layers that nobody has heard of."""
    parts = [blob("strange config", media_type="application/vnd.example.config.v7+cbor")]
    parts += [blob(f"strange {number}", media_type=f"application/x-strange-{number}") for number in range(2)]
    return image_of(parts[0].descriptor(), [part.descriptor() for part in parts[1:]], parts)


def embedded_data() -> Manifest:
    """Make an artifact whose config is also in its descriptor."""
    empty, layer = Blob(b"{}", OCI_EMPTY), blob("with data")
    return image_of({**empty.descriptor(), "data": "e30="}, [layer.descriptor()], [empty, layer])


def with_attestation() -> Manifest:
    """Make an index as BuildKit does: images, and what attests each of them."""
    images = [oci_image("attested", platform=platform) for platform in ("linux/amd64", "linux/arm64")]
    statements = [artifact(f"statement about {image.digest}") for image in images]
    entries = [image.descriptor() for image in images]
    for image, statement in zip(images, statements, strict=True):
        notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.digest}
        unknown = {"platform": {"os": "unknown", "architecture": "unknown"}, "annotations": notes}
        named = {key: value for key, value in statement.descriptor().items() if key != "artifactType"}
        entries.append({**named, **unknown})
    return index_of(entries, [*images, *statements])


def buildkit_cache() -> Manifest:
    """Make BuildKit's cache as it was exported for years: layers and a config as entries of an index."""
    parts = [blob("cached layer", media_type=OCI_LAYER), blob("cache config", media_type=BUILDKIT_CACHE)]
    return index_of([part.descriptor() for part in parts], [], parts)


def foreign_layer() -> Blob:
    """Make a layer that lies elsewhere."""
    return blob("of windows", media_type=DOCKER_FOREIGN_LAYER, urls=[FOREIGN_URL])


def sha512_image() -> Manifest:
    """Make an image whose blobs go by sha512."""
    parts = [blob("config in sha512", media_type=OCI_CONFIG), blob("layer in sha512")]
    named = [part.descriptor() | {"digest": sha512(part.data)} for part in parts]
    return image_of(named[0], named[1:], [])


def sha512(data: bytes) -> str:
    """Return a digest."""
    return f"sha512:{hashlib.sha512(data).hexdigest()}"


def image_of(config: dict[str, Any], layers: Sequence[dict[str, Any]], blobs: Sequence[Blob]) -> Manifest:
    """Make an image manifest of descriptors."""
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list(layers)}
    return Manifest(encode(body), OCI_MANIFEST, tuple(blobs))


def index_of(entries: Sequence[dict[str, Any]], children: Sequence[Manifest], blobs: Sequence[Blob] = ()) -> Manifest:
    """Make an index of descriptors."""
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return Manifest(encode(body), OCI_INDEX, tuple(blobs), tuple(children))


def encode(body: object) -> bytes:
    """Write JSON as nothing that reads it again would."""
    return json.dumps(body, indent=7).encode()
