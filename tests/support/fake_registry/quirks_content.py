"""The switches about content: manifests, blobs and uploads."""

from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024

RedirectTo = Literal["", "storage", "same_host", "relative", "stranger", "loop", "plain_http", "link_local", "nowhere"]


@dataclass(frozen=True, kw_only=True)
class ManifestQuirks:
    """Reading and putting manifests."""

    head_manifest_status: int | None = None
    """HEAD of a manifest answers this, GET works: 405, 400, 500 on old and static registries."""
    head_manifest_without_digest: bool = False
    """Old Nexus."""
    head_manifest_without_length: bool = False
    manifest_digest_header: Literal["right", "missing", "wrong"] = "right"
    """`Docker-Content-Digest` of a manifest; missing on static registries."""
    manifest_content_type: str = ""
    """`Content-Type` whatever the manifest is: static registries say `application/json` or `text/plain`."""
    manifest_type_with_parameter: bool = False
    """`Content-Type` has `; charset=utf-8` behind it."""
    manifest_bytes_other: bool = False
    """GET answers with another manifest than the digest asked for (CVE-2025-24882)."""
    manifest_padded_to_bytes: int | None = None
    """GET of a manifest sends so many bytes, without saying how many beforehand."""
    manifest_gzip: bool = False
    """Manifests are gzip'd whatever `Accept-Encoding` says; with padding, a bomb."""
    missing_manifest_status: int = 404
    """403 on Artifactory and some Harbors."""
    missing_manifest_code: str = "MANIFEST_UNKNOWN"
    """NOT_FOUND on Harbor, UNKNOWN on Red Hat's."""
    accept_matters: bool = True
    """A manifest whose type is not accepted is not found, as Distribution does for OCI types."""
    only_first_accept_header: bool = False
    """Behind proxies that mishandle repeated headers."""
    manifest_redirect: RedirectTo = ""
    """registry.k8s.io sends to a regional host, for manifests too."""
    max_manifest_bytes: int = 4 * MIB
    """A greater manifest is answered 413."""
    content_type_must_match: bool = True
    """`Content-Type` of a PUT has to be the document's `mediaType`."""
    media_type_field_needed: bool = False
    """A manifest without `mediaType` is refused: ECR."""
    refused_media_types: frozenset[str] = frozenset()
    """MANIFEST_INVALID for a manifest, config or layer of these types: zot (Docker's), Nexus (BuildKit's)."""
    sparse_allowed: bool = False
    """An index may name children that are not there."""
    blobs_checked: bool = True
    """A manifest's blobs have to be there."""
    blobs_visible_after_puts: int = 0
    """So many first PUTs of manifests are refused though the blobs are there: Artifactory."""
    immutable_tags: Literal["", "harbor", "quay", "docker_hub", "ecr", "gitlab", "acr", "nexus", "artifactory"] = ""
    """Tags cannot be moved; the refusal is that registry's own."""
    immutable_even_same: bool = False
    """Putting the same manifest again is refused too: ECR (containers-roadmap 2179)."""
    manifest_put_status: int = 201
    """200 or 202 on others."""
    manifest_put_without_digest: bool = False
    """The answer to a PUT has no `Docker-Content-Digest`."""
    manifest_put_refused: int | None = None
    """Every PUT of a manifest is refused so: 401, 403, 405, 500."""
    etags: bool = False
    """Manifests have an `ETag`, and `If-Match` is honoured with 412."""
    multi_tag: bool = False
    """`PUT …/manifests/<digest>?tag=a&tag=b` is understood and confirmed by `OCI-Tag`."""


@dataclass(frozen=True, kw_only=True)
class BlobQuirks:
    """Reading blobs."""

    only_blobs: frozenset[str] = frozenset()
    """The digests the switches below are for; empty: all."""
    head_blob_status: int | None = None
    """HEAD of a blob answers this, GET works."""
    blob_without_length: bool = False
    """No `Content-Length`, for HEAD and GET (chunked transfer)."""
    blob_digest_header: Literal["right", "missing", "wrong"] = "right"
    missing_blob_status: int = 404
    """403 on some."""
    blob_gzip: bool = False
    """The body is gzip'd in transfer, `Content-Encoding: gzip`."""
    blob_labelled: str = ""
    """The stored bytes come with this `Content-Encoding`: a storage that was told `x-gzip` when it took them."""
    head_blob_length: int | None = None
    """HEAD tells this length."""
    range_total: int | None = None
    """`Content-Range` tells this length of the whole."""
    blob_bytes: Literal["right", "flipped", "short", "long"] = "right"
    """What arrives: one bit flipped; one byte less, or one more, with a `Content-Length` that agrees."""
    blob_bytes_wrong_times: int | None = None
    """How often per blob (`blob_bytes`); None always."""
    blob_cut_after_bytes: int | None = None
    """The connection breaks after so many bytes of an answer."""
    blob_cut_times: int | None = 1
    """How often per blob; None always."""
    blob_stall_after_bytes: int | None = None
    """The answer stands still after so many bytes until the client leaves."""
    blob_piece_bytes: int = 64 * 1024
    """The body goes out in pieces of this size …"""
    blob_pause_seconds: float = 0
    """… with this pause after each."""
    ranges: Literal["honoured", "ignored", "wrong_start", "wrong_header", "no_header", "refused"] = "honoured"
    """`Range`: `ignored` answers 200 with all, `wrong_start` bytes from elsewhere that `Content-Range` admits,
    `wrong_header` right bytes and a wrong `Content-Range`, `no_header` none, `refused` 416."""
    refused_range_breaks: bool = False
    """416 announces the whole blob's length, sends an error page and breaks the connection: Distribution 2."""
    blob_redirect: RedirectTo = ""
    """GET of a blob is redirected: to `storage` (S3, Azure, CloudFront), `plain_http` (a downgrade), `link_local`
    (cloud metadata), in a `loop`, to the `stranger`, or `nowhere` (no `Location`)."""
    blob_redirect_status: int = 307
    storage_takes_authorization: bool = False
    """False: an `Authorization` header is refused with 400, as S3 and Azure do."""
    storage_url_uses: int | None = None
    """How often a signed URL works before 403: it expires in the middle of a download."""
    storage_challenges: bool = False
    """The storage asks for credentials with 401, which it must not get (CVE-2020-15157)."""
    storage_head_refused: bool = False
    """A URL signed for GET refuses HEAD with 403."""


@dataclass(frozen=True, kw_only=True)
class UploadQuirks:
    """Uploading blobs."""

    location: Literal[
        "relative",
        "absolute",
        "scheme_less",
        "last_segment",
        "plain_http",
        "http_same_port",
        "stranger",
        "storage",
        "link_local",
        "missing",
    ] = "relative"
    """`Location` of an upload; `http_same_port` is a proxy that forgets `X-Forwarded-Proto`, `plain_http` a downgrade,
    `storage` and `stranger` are other hosts (CVE-2026-50151)."""
    uploads_with_state: bool = False
    """`Location` has a signed `_state` that changes with each answer; an older one is refused: Distribution."""
    upload_names: str = "session-{}"
    """What uploads are called, by their number."""
    signed_locations: bool = False
    """`Location` has a query that has to come back letter for letter, not decoded and encoded again: S3's and GCS's
    signatures."""
    upload_start_status: int | None = None
    """POST is refused so."""
    monolithic_refused: int | None = None
    """PUT with a body is refused so unless a PATCH came before: 413, 400, 405."""
    monolithic_status: int = 201
    """202 or 204 on others."""
    body_limit_bytes: int | None = None
    """A body greater than this is answered 413: Cloudflare 100 MB, nginx `client_max_body_size`."""
    early_refusals: bool = False
    """413 comes before the body was read, when its length is known."""
    upload_cut_after_bytes: int | None = None
    """The connection breaks after so many bytes of a body arrived."""
    upload_cut_times: int | None = 1
    """How often in all; None always."""
    cut_uploads: Literal["kept", "lost", "killed"] = "kept"
    """What a broken body leaves: its bytes, nothing of it, or no session (Distribution 2)."""
    upload_pause_seconds: float = 0
    """A pause after each piece of a body: a slow reader."""
    chunk_refused: int | None = None
    """PATCH is refused so: Google's registries, ACR proxies."""
    chunk_status: int = 202
    """201 on ECR, 204 on others."""
    chunk_min_bytes: int | None = None
    """`OCI-Chunk-Min-Length` in the answer to POST."""
    chunk_min_enforced: bool = False
    """A chunk after a smaller one is refused with 400: ECR's LayerPartTooSmallException."""
    chunk_max_bytes: int | None = None
    """A greater PATCH is answered 416 with a text: GHCR, 4 MiB."""
    chunk_needs_range: bool = False
    """PATCH without `Content-Range` is refused with 400."""
    content_range_ignored: bool = False
    """A chunk is appended wherever it says it begins: Distribution 2."""
    later_chunks_dropped: bool = False
    """Only the first PATCH is kept; `Range` says so, the status does not: ECR (containers-roadmap #2831)."""
    chunk_range: Literal["plain", "bytes", "missing", "wrong"] = "plain"
    """`Range` in answers about an upload: `0-N`, `bytes=0-N`, none, or one that does not advance."""
    upload_status_refused: int | None = None
    """GET of an upload is refused so: 404, 405."""
    sessions_live_requests: int | None = None
    """A session is unknown after so many requests: replicas that do not share `http.secret`."""
    mount: Literal["created", "session", "refused", "claimed"] = "created"
    """`session` answers 202 always (mounting is off); `refused` answers `mount_refused_status`; `claimed` answers 201
    always, also for what is nowhere."""
    mount_refused_status: int = 400
    """400 on Docker Hub across registries, 401, 405, 500 (Nexus)."""
    mount_needs_from: bool = False
    """`mount` without `from` is refused with 400: Quay."""
    mount_anonymous: bool = False
    """`mount` without `from` finds a blob of any repository."""
    cancel_status: int = 204
    """DELETE of an upload: 401 or 405 leave the session open."""
    single_post: bool = False
    """POST with `digest` and a body is a whole upload; else it is answered 202."""
    verifies_digest: bool = True
    """PUT compares bytes and digest; False takes everything."""
    upload_digest_header: Literal["right", "missing", "wrong"] = "right"
    """`Docker-Content-Digest` in the answer to the closing PUT."""
