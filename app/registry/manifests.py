"""Reading and putting manifests (distribution spec, "Pulling manifests", "Pushing manifests")."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import structlog
from msgspec.structs import replace

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
from app.registry.auth.challenge import Scopes
from app.registry.blobs import has_blob
from app.registry.http.errors import Response, is_missing, make_error
from app.registry.http.message import Url, whole_number
from app.registry.requests import RegistryRequest, RequestExecutor

_log = structlog.get_logger(__name__)
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
_HEAD_REFUSED = frozenset({400, 403, 405, 500, 501})
"""HEAD does not work, or was refused without a word, as its answer has no body: GET works, or says why not."""
_HEAD_STATUSES = frozenset({200, 404}) | _HEAD_REFUSED
_FOUND = frozenset({200})
_FOUND_OR_NOT = frozenset({200, 404})
_ACCEPTING = {"Accept": ACCEPT}
_LATE_CODES = frozenset({"MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
_KINDS = INDEX_TYPES | MANIFEST_TYPES | SCHEMA1_TYPES
_PUT_STATUSES = frozenset({200, 201, 202, 204})


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """What a registry made of a manifest; see "Pushing Manifests with Subject" for the second."""

    digest: Digest
    subject_acknowledged: bool = False
    """The registry lists it as a referrer itself; otherwise the fallback tag is ours to keep."""


async def head_manifest(
    executor: RequestExecutor, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> Descriptor | None:
    """Ask what a tag or digest is; None when it is not there, as far as HEAD says. Costs no pull on Docker Hub.

    A registry that does not answer HEAD, or without digest, length or type, is asked with GET; so is one whose HEAD was
    found out to miss what is there.
    """
    if not executor.head_misses_manifests:
        request = _call(executor, repository, target, method="HEAD", scopes=scopes, expects=_HEAD_STATUSES)
        try:
            answer = await executor.fetch(request)
        except RegistryError as error:
            if error.status != httpx.codes.UNAUTHORIZED or error.operation != request.operation:
                raise
        else:
            if answer.status == httpx.codes.NOT_FOUND:
                return None
            descriptor = _described(answer, target) if answer.status == httpx.codes.OK else None
            if descriptor is not None:
                return descriptor
    return await _get_described(executor, repository, target, scopes=scopes)


async def find_manifest(
    executor: RequestExecutor, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> Descriptor | None:
    """Ask what a tag or digest is where something depends on its absence: a 404 by HEAD counts once GET says so too."""
    found = await head_manifest(executor, repository, target, scopes=scopes)
    if found is not None or executor.head_misses_manifests:
        return found
    found = await _get_described(executor, repository, target, scopes=scopes)
    if found is not None:
        executor.head_misses_manifests = True
        _log.warning("head_misses_manifests", registry=executor.entry.registry, repository=repository)
    return found


async def _get_described(
    executor: RequestExecutor, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> Descriptor | None:
    found = await find_manifest_with_etag(executor, repository, target, scopes=scopes)
    return None if found is None else found[0].descriptor


async def get_manifest(executor: RequestExecutor, repository: str, target: Tag | Digest, *, scopes: Scopes) -> Manifest:
    """Fetch a manifest, check its digest, parse it; raise `RegistryError` (`reference_not_found`) or `ContentError`."""
    request = replace(_call(executor, repository, target, method="GET", scopes=scopes), is_pull=True)
    manifest, _ = await _read(executor, request, await executor.fetch(request), target=target)
    return manifest


async def find_manifest_with_etag(
    executor: RequestExecutor, repository: str, target: Tag | Digest, *, scopes: Scopes
) -> tuple[Manifest, str | None] | None:
    """As `get_manifest`, with what an update may be made conditional on; None where it is not there, however said."""
    call = _call(executor, repository, target, method="GET", scopes=scopes, expects=_FOUND_OR_NOT)
    request = replace(call, is_pull=True)
    try:
        answer = await executor.fetch(request)
        if answer.status == httpx.codes.NOT_FOUND:
            return None
        return await _read(executor, request, answer, target=target)
    except RegistryError as error:
        if is_missing(error):
            return None
        raise


async def _read(
    executor: RequestExecutor, request: RegistryRequest, answer: Response, *, target: Tag | Digest
) -> tuple[Manifest, str | None]:
    """Read a manifest; one that was damaged on its way is asked for once more, over another connection."""
    try:
        return _checked(executor, answer, target)
    except ContentError as error:
        # Bytes whose digest is right are what was pushed, however wrong.
        is_proven = isinstance(target, Digest) or _digest_header(answer) is not None
        if error.code != "digest_mismatch" and (is_proven or error.code != "manifest_invalid"):
            raise
    return _checked(executor, await executor.fetch(replace(request, is_fresh=True)), target)


async def put_manifest(
    executor: RequestExecutor,
    repository: str,
    target: Tag | Digest,
    *,
    manifest: Manifest,
    scopes: Scopes,
    if_match: str | None = None,
) -> PutOutcome:
    """Push a manifest's bytes as they are; raise `RegistryError` (`tag_immutable`, `manifest_rejected` …)."""
    headers = {"Content-Type": manifest.media_type, **({"If-Match": if_match} if if_match else {})}
    request = replace(
        _call(executor, repository, target, method="PUT", scopes=scopes),
        headers=headers,
        content=manifest.raw,
        expects=_PUT_STATUSES,
        moves_tag=isinstance(target, Tag) and if_match is None,
    )
    try:
        answer = await _put(executor, repository, request, manifest=manifest, scopes=scopes)
    except RegistryError as error:
        # ECR refuses even the manifest that the tag has already (containers-roadmap #2179).
        if error.code != "tag_immutable" or not await _is_there(
            executor, repository, target, digest=manifest.digest, scopes=scopes
        ):
            raise
        return PutOutcome(manifest.digest)
    said = _digest_header(answer)
    if said != manifest.digest and not await _is_there(
        executor, repository, target, digest=manifest.digest, scopes=scopes
    ):
        # A site that answers 200 to everything, or a registry that converts what it is given.
        context = executor.context("put_manifest")
        message = f"{context.registry} took {manifest.digest} but does not have it under {target}"
        raise make_error(message, context, code="manifest_rejected")
    subject = answer.headers.get("oci-subject")
    return PutOutcome(manifest.digest, manifest.subject is not None and subject == manifest.subject.digest)


async def _put(
    executor: RequestExecutor, repository: str, request: RegistryRequest, *, manifest: Manifest, scopes: Scopes
) -> Response:
    """Put, and once more when a part is said to be missing that is there: Artifactory sees blobs late (jib #534)."""
    try:
        return await executor.fetch(request)
    except RegistryError as error:
        if error.code != "manifest_rejected" or not _LATE_CODES.intersection(error.spec_codes):
            raise
        for blob in manifest.blobs:
            if not blob.is_foreign and not await has_blob(executor, repository, blob, scopes=scopes):
                raise
        for child in manifest.children:
            if await head_manifest(executor, repository, child.digest, scopes=scopes) is None:
                raise
    return await executor.fetch(request)


async def _is_there(
    executor: RequestExecutor, repository: str, target: Tag | Digest, *, digest: Digest, scopes: Scopes
) -> bool:
    try:
        found = await find_manifest(executor, repository, target, scopes=scopes)
    except (RegistryError, ContentError):
        return False
    return found is not None and found.digest == digest


def _checked(executor: RequestExecutor, answer: Response, target: Tag | Digest) -> tuple[Manifest, str | None]:
    said = _digest_header(answer)
    wanted = target if isinstance(target, Digest) else said
    digest = digest_of(answer.body, wanted.algorithm if wanted else "sha256")
    if wanted is not None and digest != wanted:
        raise ContentError(f"{executor.entry.registry} sent {digest} for {wanted}", code="digest_mismatch")
    if said is not None and said.algorithm == digest.algorithm and said != digest:
        raise ContentError(f"{executor.entry.registry} calls {digest} {said}", code="digest_mismatch")
    manifest = parse_manifest(answer.body, media_type=answer.headers.get("content-type"), digest=digest)
    return manifest, answer.headers.get("etag")


def _call(
    executor: RequestExecutor,
    repository: str,
    target: Tag | Digest,
    *,
    method: str,
    scopes: Scopes,
    expects: frozenset[int] = _FOUND,
) -> RegistryRequest:
    return RegistryRequest(
        operation={"PUT": "put_manifest", "HEAD": "head_manifest"}.get(method, "get_manifest"),
        method=method,
        url=_manifest_url(executor, repository, target),
        scopes=scopes,
        headers=_ACCEPTING,
        expects=expects,
        body_limit=MAX_MANIFEST_BYTES,
    )


def _manifest_url(executor: RequestExecutor, repository: str, target: Tag | Digest) -> Url:
    return executor.home.with_target(f"/v2/{repository}/manifests/{target}")


def _digest_header(answer: Response) -> Digest | None:
    try:
        return Digest(answer.headers.get("docker-content-digest", "").strip())
    except InvalidReferenceError:
        return None  # absent, or an algorithm we don't know: the body is hashed with sha256


def _described(answer: Response, target: Tag | Digest) -> Descriptor | None:
    """Make a descriptor of a HEAD's answer, if it says enough and nothing that contradicts the question."""
    digest = _digest_header(answer)
    length = whole_number(answer.headers.get("content-length", ""))
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if digest is None or length is None or length > MAX_BLOB_BYTES:
        return None
    if kind not in _KINDS:
        return None
    if isinstance(target, Digest) and digest != target:
        return None
    return Descriptor(media_type=kind, digest=digest, size=length)
