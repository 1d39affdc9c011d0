"""Reading blobs, from the registry or from the storage it redirects to (distribution-spec, "Pulling blobs")."""

import gzip
import itertools
import re
from dataclasses import dataclass, field
from urllib.parse import quote

from tests.support.fake_registry.journal import FOREIGN
from tests.support.fake_registry.messages import Answer, Request, error
from tests.support.fake_registry.quirks import Quirks
from tests.support.fake_registry.site import Site
from tests.support.images import digest_of

WRONG_DIGEST = digest_of(b"another blob")
# Letters that a client which decodes and encodes again would change.
SIGNATURE = "X-Signature=a%2fB%2B~c%3d%3D"
RANGE_REFUSAL = b"invalid range: failed to overlap\n"
PLAIN = Quirks()


@dataclass
class Blobs:
    """Handlers of `/v2/<name>/blobs/<digest>` and `/storage/<digest>`."""

    site: Site
    _signed: dict[str, int] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def read(self, request: Request) -> Answer:
        """Answer GET and HEAD in the registry."""
        entry, quirks = request.entry, self._quirks(request.entry.reference)
        data = self.site.content.blob(entry.repository, entry.reference)
        if data is None:
            return error(quirks.missing_blob_status, "BLOB_UNKNOWN", "blob unknown to registry")
        if request.method == "HEAD" and quirks.head_blob_status is not None:
            return Answer(quirks.head_blob_status)
        if quirks.blob_redirect and request.method == "GET" and entry.origin == "registry":
            path = self._sign(entry.reference)
            if quirks.blob_redirect == "loop":
                path = ""
            status = quirks.blob_redirect_status
            return self.site.redirect(quirks.blob_redirect, request, storage_path=path, status=status)
        return self._give(request, entry.reference, data)

    def read_storage(self, request: Request) -> Answer:
        """Answer at the storage's signed URLs, in the words of S3."""
        digest, quirks = request.entry.reference, self._quirks(request.entry.reference)
        foreign = request.origin in FOREIGN
        if foreign and quirks.storage_challenges and not request.entry.authorization:
            return Answer(401, [("WWW-Authenticate", f'Bearer realm="{self.site.urls["storage"]}/token",service="s3"')])
        if foreign and request.entry.authorization and not quirks.storage_takes_authorization:
            return _storage_error(400, "InvalidArgument", "Only one auth mechanism allowed")
        uses = self._signed.get(request.entry.target)
        if uses is None or (request.method == "HEAD" and quirks.storage_head_refused):
            return _storage_error(403, "SignatureDoesNotMatch", "The request signature does not match")
        if quirks.storage_url_uses is not None and uses >= quirks.storage_url_uses:
            return _storage_error(403, "AccessDenied", "Request has expired")
        self._signed[request.entry.target] = uses + 1
        data = self.site.content.find_blob(digest)
        return _storage_error(404, "NoSuchKey", "no such key") if data is None else self._give(request, digest, data)

    def delete(self, request: Request) -> Answer:
        """Answer DELETE."""
        held = self.site.content.repository(request.entry.repository)
        found = held.blobs.pop(request.entry.reference, None)
        return Answer(202) if found is not None else error(404, "BLOB_UNKNOWN")

    def _quirks(self, digest: str) -> Quirks:
        """Return the switches as they are for one blob."""
        quirks = self.site.quirks
        return quirks if not quirks.only_blobs or digest in quirks.only_blobs else PLAIN

    def _sign(self, digest: str) -> str:
        path = f"/storage/{quote(digest, safe=':')}?{SIGNATURE}&X-Number={next(self._numbers)}"
        self._signed[path] = 0
        return path

    def _give(self, request: Request, digest: str, data: bytes) -> Answer:
        quirks = self._quirks(digest)
        answer = Answer(200, [("Content-Type", "application/octet-stream")])
        if quirks.blob_digest_header != "missing":
            told = digest if quirks.blob_digest_header == "right" else WRONG_DIGEST
            answer.headers.append(("Docker-Content-Digest", told))
        if quirks.ranges != "ignored":
            answer.headers.append(("Accept-Ranges", "bytes"))
        answer.with_length = not quirks.blob_without_length
        if quirks.blob_labelled:
            answer.headers.append(("Content-Encoding", quirks.blob_labelled))
        if request.method == "HEAD":
            answer.length = len(data) if quirks.head_blob_length is None else quirks.head_blob_length
            return answer
        answer.body = self._wrong(quirks, digest, data)
        self._cut_to_range(request, answer, quirks=quirks)
        if answer.status == 416:
            return answer
        if quirks.blob_gzip:
            answer.headers.append(("Content-Encoding", "gzip"))
            answer.body = gzip.compress(answer.body)
        self._slow_down(answer, digest, quirks=quirks)
        return answer

    def _wrong(self, quirks: Quirks, digest: str, data: bytes) -> bytes:
        if quirks.blob_bytes == "right" or not data:
            return data
        if not self.site.acts("blob_bytes", digest, times=quirks.blob_bytes_wrong_times):
            return data
        match quirks.blob_bytes:
            case "flipped":
                middle = len(data) // 2
                return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            case "short":
                return data[:-1]
            case "long":
                return data + b"!"

    def _cut_to_range(self, request: Request, answer: Answer, *, quirks: Quirks) -> None:
        """Answer 206 or 416 to a range of bytes (RFC 9110, 14)."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.header("range") or "")
        if asked is None or quirks.ranges == "ignored":
            return
        size = len(answer.body)
        begin, end = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
        if quirks.ranges == "refused" or begin >= size:
            answer.status, answer.body = 416, b""
            answer.set_header("Content-Range", f"bytes */{size}")
            if quirks.refused_range_breaks:
                answer.body, answer.length = RANGE_REFUSAL, max(size, len(RANGE_REFUSAL) + 1)
                answer.cut_after_bytes = len(RANGE_REFUSAL)
            return
        if quirks.ranges == "wrong_start":
            begin = max(0, begin - 1)
        answer.status, answer.body = 206, answer.body[begin:end]
        told = begin + 7 if quirks.ranges == "wrong_header" else begin
        if quirks.ranges != "no_header":
            answer.set_header("Content-Range", f"bytes {told}-{end - 1}/{quirks.range_total or size}")

    def _slow_down(self, answer: Answer, digest: str, *, quirks: Quirks) -> None:
        answer.piece_bytes, answer.pause_seconds = quirks.blob_piece_bytes, quirks.blob_pause_seconds
        answer.stall_after_bytes = quirks.blob_stall_after_bytes
        cut = quirks.blob_cut_after_bytes
        would_cut = cut is not None and len(answer.body) > cut
        if would_cut and self.site.acts("blob_cut_after_bytes", digest, times=quirks.blob_cut_times):
            answer.cut_after_bytes = cut


def _storage_error(status: int, code: str, message: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, [("Content-Type", "application/xml")], body.encode())
