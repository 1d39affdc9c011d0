"""A small registry client over plain httpx that shares nothing with `app`: it fills sources and judges destinations."""

import base64
import hashlib
import json
import re
import ssl
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest, digest_of
from tests.support.registries import RegistryProcess

ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"
TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Content:
    """All that a repository's tags reach: tag → digest, manifest digest → media type, blob digest → bytes.

    Two are equal when they agree tag for tag and digest for digest; every byte was read and its digest verified.
    """

    tags: dict[str, str]
    manifests: dict[str, str]
    blobs: dict[str, int]


class PlainClient:
    """Push to and read one registry, with an account of it if it wants one; close it, or use it as a context."""

    def __init__(
        self, url: str, *, account: tuple[str, str] | None = None, verify: ssl.SSLContext | bool = True
    ) -> None:
        self.http = httpx.Client(
            base_url=url, auth=_ChallengeAuth(account), verify=verify, trust_env=False, timeout=TIMEOUT_SECONDS
        )

    @classmethod
    def of(cls, registry: RegistryProcess, *, account: tuple[str, str] | None = None) -> Self:
        """Make a client of a running registry; the account of its first user unless one is given."""
        if account is None:
            account = next(iter(registry.options.users.items()), None)
        return cls(registry.url, account=account, verify=registry.verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def push(self, repository: str, manifest: Manifest, *, tags: Iterable[str] = ()) -> str:
        """Push a manifest and everything below it, then its tags; return its digest."""
        for digest, blob in manifest.all_blobs().items():
            self.push_blob(repository, digest, blob.data)
        for part in manifest.walk():
            self.put_manifest(repository, part.digest, part)
        for tag in tags:
            self.put_manifest(repository, tag, manifest)
        return manifest.digest

    def push_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Upload a blob unless it is there."""
        if self.has_blob(repository, digest):
            return
        begun = self._request("POST", f"/v2/{repository}/blobs/uploads/")
        location = httpx.URL(str(begun.request.url.join(begun.headers["Location"]))).copy_merge_params(
            {"digest": digest}
        )
        self._request("PUT", str(location), content=data, headers={"Content-Type": "application/octet-stream"})

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Put one manifest under a tag or its digest; what it names has to be there."""
        headers = {"Content-Type": manifest.media_type}
        self._request("PUT", f"/v2/{repository}/manifests/{reference}", content=manifest.raw, headers=headers)

    def delete_manifest(self, repository: str, digest: str) -> None:
        self._request("DELETE", f"/v2/{repository}/manifests/{digest}")

    def delete_blob(self, repository: str, digest: str) -> None:
        self._request("DELETE", f"/v2/{repository}/blobs/{digest}")

    def has_blob(self, repository: str, digest: str) -> bool:
        return self._found(f"/v2/{repository}/blobs/{digest}") is not None

    def digest(self, repository: str, reference: str) -> str | None:
        """Return the digest under a tag (or digest), None where there is none."""
        found = self._found(f"/v2/{repository}/manifests/{reference}")
        return None if found is None else found.headers["Docker-Content-Digest"]

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str]:
        """Return a manifest's bytes and media type."""
        found = self._request("GET", f"/v2/{repository}/manifests/{reference}")
        return found.content, found.headers["Content-Type"]

    def blob_digest(self, repository: str, digest: str) -> tuple[str, int]:
        """Read a blob to its end and return the digest and size it really has."""
        hasher, size = hashlib.sha256(), 0
        with self.http.stream("GET", f"/v2/{repository}/blobs/{digest}", follow_redirects=True) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                hasher.update(chunk)
                size += len(chunk)
        return f"sha256:{hasher.hexdigest()}", size

    def list_repositories(self) -> list[str]:
        """Return the whole catalog, in pages of the registry's own size: Distribution 2.8 refuses a larger `n`."""
        return [name for page in self._pages("/v2/_catalog") for name in page["repositories"]]

    def list_tags(self, repository: str) -> list[str]:
        """Return every tag, sorted; none for a repository that is not there."""
        if self._found(f"/v2/{repository}/tags/list", method="GET") is None:
            return []
        return sorted(tag for page in self._pages(f"/v2/{repository}/tags/list") for tag in page["tags"] or [])

    def tags(self, repository: str) -> dict[str, str]:
        """Return tag → digest."""
        return {tag: digest for tag in self.list_tags(repository) if (digest := self.digest(repository, tag))}

    def read(self, repository: str) -> Content:
        """Read everything a repository's tags reach and verify every byte of it against its digest."""
        content = Content(self.tags(repository), {}, {})
        for tag, digest in content.tags.items():
            raw, _ = self.manifest(repository, tag)
            _check(digest, digest_of(raw), where=f"{repository}:{tag}")
            self._read_manifest(repository, digest, content)
        return content

    def _read_manifest(self, repository: str, digest: str, content: Content) -> None:
        if digest in content.manifests:
            return
        raw, media_type = self.manifest(repository, digest)
        _check(digest, digest_of(raw), where=f"{repository}@{digest}")
        content.manifests[digest] = media_type
        body: dict[str, Any] = json.loads(raw)
        for child in body.get("manifests", []):
            if self.digest(repository, child["digest"]):  # a sparse index names children that were left out
                self._read_manifest(repository, child["digest"], content)
        for part in [*filter(None, [body.get("config")]), *body.get("layers", [])]:
            if part["digest"] not in content.blobs and not part.get("urls"):
                found, size = self.blob_digest(repository, part["digest"])
                _check(part["digest"], found, where=f"{repository}, blob of {digest}")
                content.blobs[part["digest"]] = size

    def _pages(self, path: str) -> Generator[dict[str, Any]]:
        following: str | None = path
        while following:
            answer = self._request("GET", following)
            yield answer.json()
            link = re.match(r'<([^>]+)>; *rel="next"', answer.headers.get("Link", ""))
            following = link and str(answer.request.url.join(link[1]))

    def _found(self, path: str, *, method: str = "HEAD") -> httpx.Response | None:
        answer = self.http.request(method, path, headers={"Accept": ACCEPT})
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        return answer.raise_for_status()

    def _request(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        answer = self.http.request(method, path, content=content, headers={"Accept": ACCEPT, **(headers or {})})
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {answer.request.url} answered {answer.status_code}: {answer.text[:500]}",
                request=answer.request,
                response=answer,
            )
        return answer


def differences(source: PlainClient, destination: PlainClient, *, repositories: Sequence[tuple[str, str]]) -> list[str]:
    """Return in words where pairs of repositories differ (source name, destination name); empty means they agree."""
    found: list[str] = []
    for here, there in repositories:
        one, other = source.read(here), destination.read(there)
        for what in ("tags", "manifests", "blobs"):
            left, right = getattr(one, what), getattr(other, what)
            changed = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
            found += [f"{here} → {there}: {what}: {key}: {left.get(key)} ≠ {right.get(key)}" for key in changed]
    return found


class _ChallengeAuth(httpx.Auth):
    """Answer a 401 as the challenge asks: basic credentials, or a token of the named realm for the named scope."""

    def __init__(self, account: tuple[str, str] | None) -> None:
        self._account = account
        self._authorization: dict[str, str] = {}

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        place = _place(request)
        if known := self._authorization.get(place):
            request.headers["Authorization"] = known
        answer = yield request
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status_code != HTTPStatus.UNAUTHORIZED or not challenge:
            return
        if challenge.lower().startswith("basic"):
            if self._account is None:
                return
            self._authorization[place] = self._basic()
        else:
            asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
            headers = {"Authorization": self._basic()} if self._account else {}
            query = {name: asked[name] for name in ("service", "scope") if name in asked}
            answer = yield httpx.Request("GET", asked["realm"], params=query, headers=headers)
            answer.read()
            if answer.is_error:
                return
            self._authorization[place] = f"Bearer {answer.json()['token']}"
        request.headers["Authorization"] = self._authorization[place]
        yield request

    def _basic(self) -> str:
        name, password = self._account or ("", "")
        return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _place(request: httpx.Request) -> str:
    """Return what a token is kept for: reads and writes of one repository ask for different scopes."""
    repository = re.match(r"/v2/(.+)/(?:blobs|manifests|tags)/", request.url.path)
    return f"{request.method in {'GET', 'HEAD'}} {request.method == 'DELETE'} {repository and repository[1]}"


def _check(expected: str, found: str, *, where: str) -> None:
    if found != expected:
        raise AssertionError(f"{where}: the registry sent {found} for {expected}")
