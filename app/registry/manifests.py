"""Reading and putting manifests (distribution spec, "Pulling manifests", "Pushing manifests")."""

from __future__ import annotations

from dataclasses import dataclass, replace

import httpx

from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_BLOB_BYTES,
    MAX_MANIFEST_BYTES,
    SCHEMA1_TYPES,
    Descriptor,
    Manifest,
    MediaType,
    digest_of,
    parse_manifest,
)
from app.domain.reference import Digest, InvalidReferenceError, Tag
from app.registry.blobs import has_blob
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange
from app.registry.failures import Answer, is_missing, make_failure
from app.registry.url import Url

ACCEPT = ", ".join(
    (
        MediaType.OCI_INDEX,
        MediaType.DOCKER_LIST,
        MediaType.OCI_MANIFEST,
        MediaType.DOCKER_MANIFEST,
        MediaType.OCI_ARTIFACT_MANIFEST,
        f"{MediaType.DOCKER_SCHEMA1_SIGNED};q=0.1",
        f"{MediaType.DOCKER_SCHEMA1};q=0.1",
    )
)
"""In one header, since some proxies lose repeated ones; schema 1 to be recognised, and refused by name."""
_HEAD_UNSUPPORTED = frozenset({400, 403, 405, 500, 501})
_LATE_CODES = frozenset({"MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
_PUT_STATUSES = frozenset({200, 201, 202, 204})


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """What a registry made of a manifest; see "Pushing Manifests with Subject" for the second."""

    digest: Digest
    subject_acknowledged: bool = False
    """The registry lists it as a referrer itself; otherwise the fallback tag is ours to keep."""


async def head_manifest(
    exchange: Exchange, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> Descriptor | None:
    """Ask what a tag or digest is; None when it is not there. Costs no pull on Docker Hub.

    A registry that does not answer HEAD, or without digest, length or type, is asked with GET.
    """
    call = _call(exchange, repository, target, method="HEAD", scopes=scopes)
    answer = await exchange.fetch(replace(call, expects=frozenset({200, 404}) | _HEAD_UNSUPPORTED))
    if answer.status == httpx.codes.NOT_FOUND:
        return None
    descriptor = _described(answer, target) if answer.status == httpx.codes.OK else None
    if descriptor is not None:
        return descriptor
    try:
        return (await get_manifest(exchange, repository, target, scopes=scopes)).descriptor
    except RegistryError as error:
        if is_missing(error):
            return None
        raise


async def get_manifest(exchange: Exchange, repository: str, target: Tag | Digest, *, scopes: Scopes) -> Manifest:
    """Fetch a manifest, check its digest, parse it; raise `RegistryError` (`reference_not_found`) or `ContentError`."""
    raw, answer, digest = await _get_verified(exchange, repository, target, scopes=scopes)
    return parse_manifest(raw, media_type=answer.headers.get("content-type"), digest=digest)


async def get_manifest_with_etag(
    exchange: Exchange, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> tuple[Manifest, str | None]:
    """As `get_manifest`, with what an update may be made conditional on."""
    raw, answer, digest = await _get_verified(exchange, repository, target, scopes=scopes)
    manifest = parse_manifest(raw, media_type=answer.headers.get("content-type"), digest=digest)
    return manifest, answer.headers.get("etag")


async def put_manifest(
    exchange: Exchange,
    repository: str,
    target: Tag | Digest,
    *,
    manifest: Manifest,
    scopes: Scopes,
    if_match: str | None = None,
) -> PutOutcome:
    """Push a manifest's bytes as they are; raise `RegistryError` (`tag_immutable`, `manifest_rejected` …)."""
    headers = {"Content-Type": manifest.media_type, **({"If-Match": if_match} if if_match else {})}
    call = replace(
        _call(exchange, repository, target, method="PUT", scopes=scopes),
        headers=headers,
        content=manifest.raw,
        expects=_PUT_STATUSES,
        moves_tag=isinstance(target, Tag) and if_match is None,
    )
    try:
        answer = await _put(exchange, repository, call, manifest=manifest, scopes=scopes)
    except RegistryError as error:
        # ECR refuses even the manifest that the tag has already (containers-roadmap #2179).
        if error.code != "tag_immutable" or not await _is_there(
            exchange, repository, target, digest=manifest.digest, scopes=scopes
        ):
            raise
        return PutOutcome(manifest.digest)
    said = _digest_header(answer)
    if said != manifest.digest and not await _is_there(
        exchange, repository, target, digest=manifest.digest, scopes=scopes
    ):
        # A site that answers 200 to everything, or a registry that converts what it is given.
        asked = exchange.asked("put_manifest")
        message = f"{asked.registry} took {manifest.digest} but does not have it under {target}"
        raise make_failure(message, asked, code="manifest_rejected")
    subject = answer.headers.get("oci-subject")
    return PutOutcome(manifest.digest, manifest.subject is not None and subject == manifest.subject.digest)


async def _put(exchange: Exchange, repository: str, call: Call, *, manifest: Manifest, scopes: Scopes) -> Answer:
    """Put, and once more when a part is said to be missing that is there: Artifactory sees blobs late (jib #534)."""
    try:
        return await exchange.fetch(call)
    except RegistryError as error:
        if error.code != "manifest_rejected" or not _LATE_CODES.intersection(error.spec_codes):
            raise
        for blob in manifest.blobs:
            if not blob.is_foreign and not await has_blob(exchange, repository, blob.digest, scopes=scopes):
                raise
        for child in manifest.children:
            if await head_manifest(exchange, repository, child.digest, scopes=scopes) is None:
                raise
    return await exchange.fetch(call)


async def _is_there(
    exchange: Exchange, repository: str, target: Tag | Digest, *, digest: Digest, scopes: Scopes
) -> bool:
    try:
        found = await head_manifest(exchange, repository, target, scopes=scopes)
    except (RegistryError, ContentError):
        return False
    return found is not None and found.digest == digest


async def _get_verified(
    exchange: Exchange, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> tuple[bytes, Answer, Digest]:
    call = replace(_call(exchange, repository, target, method="GET", scopes=scopes), is_pull=True)
    answer = await exchange.fetch(call)
    said = _digest_header(answer)
    wanted = target if isinstance(target, Digest) else said
    digest = digest_of(answer.body, wanted.algorithm if wanted else "sha256")
    if wanted is not None and digest != wanted:
        raise ContentError(f"{exchange.entry.registry} sent {digest} for {wanted}", code="digest_mismatch")
    if said is not None and said.algorithm == digest.algorithm and said != digest:
        raise ContentError(f"{exchange.entry.registry} calls {digest} {said}", code="digest_mismatch")
    return answer.body, answer, digest


def _call(exchange: Exchange, repository: str, target: Tag | Digest, *, method: str, scopes: Scopes) -> Call:
    return Call(
        operation={"PUT": "put_manifest", "HEAD": "head_manifest"}.get(method, "get_manifest"),
        method=method,
        url=_manifest_url(exchange, repository, target),
        scopes=scopes,
        headers={"Accept": ACCEPT},
        expects=frozenset({200}),
        body_limit=MAX_MANIFEST_BYTES,
    )


def _manifest_url(exchange: Exchange, repository: str, target: Tag | Digest) -> Url:
    return exchange.home.with_target(f"/v2/{repository}/manifests/{target}")


def _digest_header(answer: Answer) -> Digest | None:
    try:
        return Digest(answer.headers.get("docker-content-digest", "").strip())
    except InvalidReferenceError:
        return None  # absent, or an algorithm we don't know: the body is hashed with sha256


def _described(answer: Answer, target: Tag | Digest) -> Descriptor | None:
    """Make a descriptor of a HEAD's answer, if it says enough and nothing that contradicts the question."""
    digest = _digest_header(answer)
    length = answer.headers.get("content-length", "")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if digest is None or not length.isdigit() or int(length) > MAX_BLOB_BYTES:
        return None
    if kind not in INDEX_TYPES | MANIFEST_TYPES | SCHEMA1_TYPES:
        return None
    if isinstance(target, Digest) and digest != target:
        return None
    return Descriptor(media_type=kind, digest=digest, size=int(length))
