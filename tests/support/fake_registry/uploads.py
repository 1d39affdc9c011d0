"""Upload sessions: start, chunks, close, status, cancel, mount (distribution-spec, "Pushing blobs")."""

import asyncio
import base64
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from tests.support.fake_registry.content import Session, agrees
from tests.support.fake_registry.messages import Answer, ClientGoneError, ConnectionCutError, Request, error
from tests.support.fake_registry.site import Site
from tests.support.images import digest_of

# Letters that a client which decodes and encodes again would change.
SIGNATURE = "X-Signature=a%2fB%2B~c%3d%3D"
WRONG_DIGEST = digest_of(b"another upload")


@dataclass
class Uploads:
    """Handlers of `/v2/<name>/blobs/uploads/…`."""

    site: Site

    async def start(self, request: Request) -> Answer:
        """Answer POST: a session, a mounted blob, or a whole upload."""
        quirks, name = self.site.quirks, request.entry.repository
        if quirks.upload_start_status is not None:
            return error(quirks.upload_start_status, "DENIED")
        if "mount" in request.query and (answer := self._mount(request)):
            return answer
        digest = request.query.get("digest")
        if digest and quirks.single_post:
            data = await request.read()
            if not agrees(digest, data):
                return error(400, "DIGEST_INVALID")
            self.site.content.put_blob(name, data, digest=digest)
            return self._created(name, digest, status=201)
        session = self.site.content.open_session(name, named=quirks.upload_names)
        request.entry.reference = session.id
        answer = self._about(session, status=202)
        if quirks.chunk_min_bytes is not None:
            answer.headers.append(("OCI-Chunk-Min-Length", str(quirks.chunk_min_bytes)))
        return answer

    async def chunk(self, request: Request) -> Answer:
        """Answer PATCH: a chunk, or a stream of unknown length."""
        quirks = self.site.quirks
        session = self._session(request)
        if isinstance(session, Answer):
            return session
        if refusal := await self._refuse_body(request) or self._refuse_chunk(request, session):
            return refusal
        begin = len(session.data)
        if quirks.later_chunks_dropped and session.chunks:
            await request.read()
        else:
            refusal = await self._take(request, session)
        session.chunks += 1
        session.last_chunk_bytes = len(session.data) - begin
        session.step += 1
        return refusal or self._gone(session) or self._about(session, status=quirks.chunk_status)

    async def close(self, request: Request) -> Answer:
        """Answer PUT: the last bytes, or all of them, and the digest of the whole."""
        quirks = self.site.quirks
        session = self._session(request)
        if isinstance(session, Answer):
            return session
        digest = request.query.get("digest")
        if not digest or ":" not in digest:
            return error(400, "DIGEST_INVALID", "digest missing")
        if request.has_body:
            if refusal := await self._refuse_body(request):
                return refusal
            if quirks.monolithic_refused is not None and not session.chunks:
                await request.read()
                return error(quirks.monolithic_refused, "UNSUPPORTED", "send chunks")
            if refusal := self._refuse_range(request, session) or await self._take(request, session):
                return refusal
        else:
            await request.read()
        if gone := self._gone(session):
            return gone
        if not quirks.verifies_digest:
            del self.site.content.sessions[session.id]
            self.site.content.put_blob(session.repository, bytes(session.data), digest=digest)
        elif not self.site.content.close_session(session, digest=digest):
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        return self._created(session.repository, digest, status=quirks.monolithic_status)

    def status(self, request: Request) -> Answer:
        """Answer GET: how much has arrived."""
        session = self._session(request)
        if isinstance(session, Answer):
            return session
        if self.site.quirks.upload_status_refused is not None:
            return error(self.site.quirks.upload_status_refused, "UNSUPPORTED")
        session.step += 1
        return self._about(session, status=204)

    def cancel(self, request: Request) -> Answer:
        """Answer DELETE."""
        session = self._session(request)
        if isinstance(session, Answer):
            return session
        status = self.site.quirks.cancel_status
        if status >= HTTPStatus.BAD_REQUEST:
            return error(status, "UNAUTHORIZED" if status == 401 else "UNSUPPORTED")
        del self.site.content.sessions[session.id]
        return Answer(status, [("Docker-Upload-UUID", session.id)])

    def _mount(self, request: Request) -> Answer | None:
        """Return the answer to a mount, None when it becomes an upload."""
        quirks, entry = self.site.quirks, request.entry
        digest, source = request.query["mount"], request.query.get("from")
        if source is None and quirks.mount_needs_from:
            return error(400, "UNSUPPORTED", "mount needs from")
        if quirks.mount == "refused":
            is_unknown = quirks.mount_refused_status == HTTPStatus.NOT_FOUND  # the repository to mount from
            code = "NAME_UNKNOWN" if is_unknown else "UNSUPPORTED"
            return error(quirks.mount_refused_status, code, "invalid mount")
        if quirks.mount == "claimed":
            return self._created(entry.repository, digest, status=201)
        data = self.site.content.blob(source, digest) if source else None
        if source is None and quirks.mount_anonymous:
            data = self.site.content.find_blob(digest)
        if data is None or quirks.mount == "session":
            return None
        self.site.content.put_blob(entry.repository, data, digest=digest)
        return self._created(entry.repository, digest, status=201)

    def _session(self, request: Request) -> Session | Answer:
        """Return the session a request is for, or that there is none (any more)."""
        session = self.site.content.sessions.get(request.entry.reference)
        if session is None or session.repository != request.entry.repository:
            return _unknown()
        session.requests += 1
        lives = self.site.quirks.sessions_live_requests
        if lives is not None and session.requests > lives:
            return _unknown()
        quirks, query = self.site.quirks, request.entry.query
        if quirks.uploads_with_state and request.query.get("_state") != _state(session):
            return error(404, "BLOB_UPLOAD_INVALID", "the state in the URL is not the upload's")
        if quirks.signed_locations and SIGNATURE not in query.split("&"):
            return error(403, "DENIED", "SignatureDoesNotMatch")
        return session

    def _gone(self, session: Session) -> Answer | None:
        """Return that there is no session any more, where it was cancelled or closed while a body came."""
        return None if session.id in self.site.content.sessions else _unknown()

    async def _refuse_body(self, request: Request) -> Answer | None:
        """Return the refusal of a body that is known to be too long."""
        quirks = self.site.quirks
        if quirks.body_limit_bytes is None or (request.length or 0) <= quirks.body_limit_bytes:
            return None
        if not quirks.early_refusals:
            await request.read()
        return Answer(413, [("Content-Type", "text/html")], b"<center><h1>413 Request Entity Too Large</h1></center>")

    def _refuse_chunk(self, request: Request, session: Session) -> Answer | None:
        quirks = self.site.quirks
        if quirks.chunk_refused is not None:
            return error(quirks.chunk_refused, "UNSUPPORTED", "chunked uploads are not supported")
        if quirks.chunk_needs_range and request.header("content-range") is None:
            return error(400, "BLOB_UPLOAD_INVALID", "Content-Range is missing")
        if quirks.chunk_max_bytes is not None and (request.length or 0) > quirks.chunk_max_bytes:
            text = f"chunk exceeds the maximum permissible limit of {quirks.chunk_max_bytes / 2**20:.2f}MiB"
            return Answer(416, [("Content-Type", "text/plain")], text.encode())
        minimum = quirks.chunk_min_bytes or 0
        if quirks.chunk_min_enforced and session.chunks and session.last_chunk_bytes < minimum:
            return error(400, "BLOB_UPLOAD_INVALID", "LayerPartTooSmallException: a part before the last was too small")
        return self._refuse_range(request, session)

    def _refuse_range(self, request: Request, session: Session) -> Answer | None:
        """Return 416 with what is there, for a chunk that does not begin where the last one ended."""
        told = request.header("content-range")
        if told is None or self.site.quirks.content_range_ignored:
            return None
        found = re.fullmatch(r"(\d+)-(\d+)", told)
        if found is None:
            return error(400, "BLOB_UPLOAD_INVALID", "Content-Range is malformed")
        if request.length is not None and int(found[2]) - int(found[1]) + 1 != request.length:
            return error(400, "SIZE_INVALID", "Content-Range and Content-Length differ")
        return None if int(found[1]) == len(session.data) else self._about(session, status=416)

    async def _take(self, request: Request, session: Session) -> Answer | None:
        """Take a body into the session, as far as it comes; return the refusal of one that grows too long."""
        quirks, before = self.site.quirks, len(session.data)
        will_cut = self._arm_cut(request)
        try:
            async for piece in request.pieces():
                session.data += piece
                if quirks.body_limit_bytes is not None and request.entry.received_bytes > quirks.body_limit_bytes:
                    del session.data[before:]
                    return error(413, "SIZE_INVALID", "request entity too large")
                if quirks.upload_pause_seconds:
                    await asyncio.sleep(quirks.upload_pause_seconds)
        except (ConnectionCutError, ClientGoneError):
            self._break(session, before)
            raise
        if will_cut:  # the body, of unknown length beforehand, was shorter
            self.site.tallies["upload_cut_after_bytes", ""] -= 1
        return None

    def _arm_cut(self, request: Request) -> bool:
        """Have a body cut where the switch says so; say whether it will be."""
        quirks, limit = self.site.quirks, self.site.quirks.upload_cut_after_bytes
        if limit is None or request.cut_after_received is not None or (request.length or limit) < limit:
            return False
        if not self.site.acts("upload_cut_after_bytes", "", times=quirks.upload_cut_times):
            return False
        request.cut_after_received = limit
        return True

    def _break(self, session: Session, before: int) -> None:
        match self.site.quirks.cut_uploads:
            case "kept":
                return
            case "lost":
                del session.data[before:]
            case "killed":
                self.site.content.sessions.pop(session.id, None)

    def _about(self, session: Session, *, status: int) -> Answer:
        """Answer where to go on and how much has arrived."""
        answer = Answer(status, [("Docker-Upload-UUID", session.id)])
        if location := self._location(session):
            answer.headers.append(("Location", location))
        end = max(0, len(session.data) - 1)
        match self.site.quirks.chunk_range:
            case "plain":
                answer.headers.append(("Range", f"0-{end}"))
            case "bytes":
                answer.headers.append(("Range", f"bytes=0-{end}"))
            case "wrong":
                answer.headers.append(("Range", "0-0"))
            case "missing":
                pass
        return answer

    def _location(self, session: Session) -> str:
        quirks = self.site.quirks
        state = [f"_state={quote(_state(session))}"] if quirks.uploads_with_state else []
        query = "&".join([*state, *([SIGNATURE] if quirks.signed_locations else [])])
        last = f"{session.id}?{query}" if query else session.id
        path = f"/v2/{session.repository}/blobs/uploads/{last}"
        urls = self.site.urls
        match quirks.location:
            case "relative":
                return path
            case "absolute":
                return f"{urls['registry']}{path}"
            case "scheme_less":
                return f"{urls['registry'].partition(':')[2]}{path}"
            case "last_segment":
                return last
            case "plain_http":
                return f"{urls['plain']}{path}"
            case "http_same_port":
                return f"{urls['registry'].replace('https:', 'http:')}{path}"
            case "stranger":
                return f"{urls['stranger']}{path}"
            case "storage":
                return f"{urls['storage']}{path}"
            case "link_local":
                return f"http://169.254.169.254{path}"
            case "missing":
                return ""

    def _created(self, name: str, digest: str, *, status: int) -> Answer:
        answer = Answer(status, [("Location", f"/v2/{name}/blobs/{digest}")])
        told = self.site.quirks.upload_digest_header
        if told != "missing":
            answer.headers.append(("Docker-Content-Digest", digest if told == "right" else WRONG_DIGEST))
        return answer


def _unknown() -> Answer:
    return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")


def _state(session: Session) -> str:
    return base64.urlsafe_b64encode(f"{session.id}/{session.step}".encode()).decode()
