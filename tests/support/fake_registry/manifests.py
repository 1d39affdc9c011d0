"""Reading and putting manifests (distribution-spec, "Pulling manifests", "Pushing Manifests")."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fake_registry.content import StoredManifest, agrees
from tests.support.fake_registry.lists import Lists
from tests.support.fake_registry.messages import Answer, Request, error
from tests.support.fake_registry.site import Site
from tests.support.images import digest_of

TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
WRONG_DIGEST = digest_of(b"not what was asked for")
# How each registry refuses to move a tag: status, code, message.
IMMUTABLE = {
    "harbor": (412, "PRECONDITION", "Failed to process request due to '{tag}' configured as immutable."),
    "quay": (409, "TAG_IMMUTABLE", "tag {tag} is immutable"),
    "docker_hub": (403, "DENIED", "tag {tag} is immutable"),
    "ecr": (400, "TAG_INVALID", "The image tag '{tag}' already exists and cannot be overwritten: tag is immutable."),
    "gitlab": (403, "DENIED", "tag {tag} is immutable"),
    "acr": (405, "DENIED", "the tag {tag} is locked: writeEnabled=false"),
    "nexus": (400, "UNSUPPORTED", "Repository does not allow updating assets: {tag}"),
    "artifactory": (403, "DENIED", "not enough permissions to overwrite {tag}"),
}


@dataclass
class Manifests:
    """Handlers of `/v2/<name>/manifests/<reference>`."""

    site: Site
    lists: Lists

    def read(self, request: Request) -> Answer:
        """Answer GET and HEAD."""
        quirks, entry = self.site.quirks, request.entry
        if request.method == "HEAD" and quirks.head_manifest_status is not None:
            return Answer(quirks.head_manifest_status)
        name, reference = entry.repository, entry.reference
        digest = self.lists.image_of_fallback_tag(name, reference) or self.site.content.digest(name, reference)
        found = None if digest is None else self.site.content.manifest(name, digest)
        if digest is None or found is None or not self._is_accepted(request, found):
            return self._missing(name, reference)
        if quirks.manifest_redirect and entry.origin == "registry":
            return self.site.redirect(quirks.manifest_redirect, request, storage_path=entry.target, status=307)
        return self._give(request, digest, found)

    async def put(self, request: Request) -> Answer:
        """Answer PUT: check as this registry checks, then keep it."""
        quirks = self.site.quirks
        raw = await request.read()
        manifest = StoredManifest(raw, (request.header("content-type") or "").partition(";")[0].strip())
        refusal = self._refuse_document(manifest) or self._refuse_reference(request, manifest)
        if refusal is None:
            refusal = self._refuse_parts(request.entry.repository, manifest)
        if refusal is not None:
            return refusal
        digest = self._keep(request, manifest)
        answer = Answer(quirks.manifest_put_status)
        answer.headers.append(("Location", f"/v2/{request.entry.repository}/manifests/{digest}"))
        if not quirks.manifest_put_without_digest:
            answer.headers.append(("Docker-Content-Digest", digest))
        if (subject := manifest.subject()) and self.lists.has_subject_header():
            answer.headers.append(("OCI-Subject", subject))
        if quirks.multi_tag:
            answer.headers += [("OCI-Tag", tag) for tag in request.all_query("tag")]
        return answer

    def delete(self, request: Request) -> Answer:
        """Answer DELETE of a tag or of a manifest with its tags."""
        name, reference = request.entry.repository, request.entry.reference
        digest = self.site.content.digest(name, reference)
        if digest is None:
            return self._missing(name, reference)
        held = self.site.content.repository(name)
        if ":" in reference:
            del held.manifests[digest]
            held.tags = {tag: target for tag, target in held.tags.items() if target != digest}
        else:
            del held.tags[reference]
        return Answer(202)

    def _give(self, request: Request, digest: str, found: StoredManifest) -> Answer:
        quirks, is_head = self.site.quirks, request.method == "HEAD"
        answer = Answer(200, body=self._bytes(request, found.raw))
        answer.headers.append(("Content-Type", self._content_type(found)))
        if quirks.manifest_gzip:
            answer.headers.append(("Content-Encoding", "gzip"))
            answer.body = gzip.compress(answer.body)
        if quirks.etags:
            answer.headers.append(("ETag", f'"{digest}"'))
        if not (is_head and quirks.head_manifest_without_digest) and quirks.manifest_digest_header != "missing":
            told = digest if quirks.manifest_digest_header == "right" else WRONG_DIGEST
            answer.headers.append(("Docker-Content-Digest", told))
        padded = quirks.manifest_padded_to_bytes is not None
        answer.with_length = not padded and not (is_head and quirks.head_manifest_without_length)
        return answer

    def _bytes(self, request: Request, raw: bytes) -> bytes:
        quirks = self.site.quirks
        if quirks.manifest_bytes_other:
            return raw + b"\n"
        if quirks.manifest_padded_to_bytes is not None and request.method == "GET":
            return raw.ljust(quirks.manifest_padded_to_bytes)
        return raw

    def _content_type(self, found: StoredManifest) -> str:
        content_type = self.site.quirks.manifest_content_type or found.media_type
        return f"{content_type}; charset=utf-8" if self.site.quirks.manifest_type_with_parameter else content_type

    def _is_accepted(self, request: Request, found: StoredManifest) -> bool:
        headers = [value for name, value in request.entry.headers if name == "accept"]
        if self.site.quirks.only_first_accept_header:
            headers = headers[:1]
        accepted = {item.partition(";")[0].strip() for value in headers for item in value.split(",")}
        return not self.site.quirks.accept_matters or found.media_type in accepted or "*/*" in accepted

    def _missing(self, name: str, reference: str) -> Answer:
        quirks = self.site.quirks
        code = "DENIED" if quirks.missing_manifest_status == 403 else quirks.missing_manifest_code
        detail = {"name": name, "reference": reference}
        return error(quirks.missing_manifest_status, code, "manifest unknown", detail=detail)

    def _refuse_document(self, manifest: StoredManifest) -> Answer | None:
        """Return what is wrong with the document itself."""
        quirks, body = self.site.quirks, manifest.body()
        if quirks.manifest_put_refused is not None:
            return error(quirks.manifest_put_refused, "DENIED")
        if len(manifest.raw) > quirks.max_manifest_bytes:
            return error(413, "SIZE_INVALID", "manifest too large")
        if not body:
            return error(400, "MANIFEST_INVALID", "not a JSON object")
        if quirks.media_type_field_needed and "mediaType" not in body:
            return error(400, "UNSUPPORTED", "Invalid JSON syntax")
        if quirks.content_type_must_match and body.get("mediaType", manifest.media_type) != manifest.media_type:
            return error(400, "MANIFEST_INVALID", "Content-Type is not the document's mediaType")
        if refused := quirks.refused_media_types.intersection(_media_types(manifest)):
            return error(400, "MANIFEST_INVALID", f"media types not allowed: {sorted(refused)}")
        return None

    def _refuse_reference(self, request: Request, manifest: StoredManifest) -> Answer | None:
        """Return what is wrong with where it shall go."""
        name, reference = request.entry.repository, request.entry.reference
        if ":" in reference:
            fits = agrees(reference, manifest.raw)
            return None if fits else error(400, "DIGEST_INVALID", "digest and content differ")
        if not TAG.fullmatch(reference):
            return error(400, "TAG_INVALID")
        present = self.site.content.tags(name).get(reference)
        expected = request.header("if-match")
        if self.site.quirks.etags and expected is not None and expected != f'"{present}"':
            return error(412, "PRECONDITION_FAILED", "the tag has moved")
        return self._refuse_tag(reference, present, digest_of(manifest.raw))

    def _refuse_tag(self, tag: str, present: str | None, digest: str) -> Answer | None:
        quirks = self.site.quirks
        if not quirks.immutable_tags or present is None:
            return None
        if present == digest and not quirks.immutable_even_same:
            return None
        status, code, message = IMMUTABLE[quirks.immutable_tags]
        return error(status, code, message.format(tag=tag), detail={"tag": tag})

    def _refuse_parts(self, name: str, manifest: StoredManifest) -> Answer | None:
        """Return what is missing below it."""
        quirks = self.site.quirks
        blobs, children = self.site.content.missing(name, manifest)
        if blobs and quirks.blobs_checked:
            return error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", detail={"digest": blobs[0]})
        if children and not quirks.sparse_allowed:
            return error(400, "MANIFEST_BLOB_UNKNOWN", "manifest unknown to registry", detail={"digest": children[0]})
        if self.site.tallies["blobs_visible_after_puts", ""] < quirks.blobs_visible_after_puts:
            self.site.tallies["blobs_visible_after_puts", ""] += 1
            return error(400, "MANIFEST_INVALID", "manifest invalid", detail={"description": "blobs not found"})
        return None

    def _keep(self, request: Request, manifest: StoredManifest) -> str:
        name, reference = request.entry.repository, request.entry.reference
        is_tag = ":" not in reference
        digest = digest_of(manifest.raw) if is_tag else reference
        self.site.content.put_manifest(name, manifest.raw, manifest.media_type, digest=digest)
        tags = [reference] if is_tag else request.all_query("tag") if self.site.quirks.multi_tag else []
        for tag in tags:
            self.site.content.tag(name, tag, digest)
        return digest


def _media_types(manifest: StoredManifest) -> Iterator[str]:
    body = manifest.body()
    yield manifest.media_type
    for part in [*filter(None, [body.get("config")]), *(body.get("layers") or []), *(body.get("manifests") or [])]:
        yield part.get("mediaType", "")
