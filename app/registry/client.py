"""One registry as the other packages see it: a method for each operation of the distribution spec."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import lru_cache

import httpx

from app.domain.errors import RegistryError
from app.domain.manifest import Descriptor, Manifest
from app.domain.reference import Digest, Tag
from app.domain.registry import RegistryEntry
from app.registry.auth.challenge import Scopes
from app.registry.blobs import BlobReader, has_blob, locate_upload, open_blob, read_byte
from app.registry.creation import RepositoryCreator
from app.registry.http.errors import Response
from app.registry.listing.digest_lists import ListedTag, has_digest_list, list_digests
from app.registry.listing.listing import list_repositories, list_tags
from app.registry.listing.pages import ListWarnings
from app.registry.manifests import PutOutcome, find_manifest, get_manifest, head_manifest, put_manifest
from app.registry.quirks import UploadStrategy
from app.registry.referrers import Referrers
from app.registry.requests import RegistryRequest, RequestExecutor
from app.registry.uploads import UploadSession, open_session

_STARTED = frozenset({202})
_MOUNTED = frozenset({201, 202})
_READS = ("pull",)
_WRITES = ("pull", "push")


class RegistryClient:
    """Talks to one registry; methods take repository paths and raise `RegistryError` or `ContentError`.

    With `writing`, every request is made with a token that allows pushing as well: one token for each repository, and
    an answer where registries tell who may only read nothing about a repository that does not exist yet.
    """

    def __init__(
        self,
        executor: RequestExecutor,
        referrers: Referrers,
        strategy: UploadStrategy,
        *,
        creation: RepositoryCreator | None = None,
        writing: bool = False,
    ) -> None:
        self._executor = executor
        self._referrers = referrers
        self._strategy = strategy
        self._creation = creation
        self._reads = _WRITES if writing else _READS

    @property
    def entry(self) -> RegistryEntry:
        """The entry this client talks for."""
        return self._executor.entry

    @property
    def executor(self) -> RequestExecutor:
        """What requests are made with."""
        return self._executor

    async def ping(self) -> None:
        """See that the registry speaks the API and takes the credentials (distribution spec, "Determining Support")."""
        url = self._executor.home.with_target("/v2/")
        call = RegistryRequest(operation="ping", method="GET", url=url, scopes=Scopes(), expects=frozenset({200}))
        await self._executor.fetch(call)

    async def reach(self) -> int:
        """Ask `/v2/` without a login; return the status, whatever it is. Raise `RegistryError` where none comes."""
        url = self._executor.home.with_target("/v2/")
        any_answer = frozenset(range(200, 500))
        call = RegistryRequest(operation="ping", method="GET", url=url, scopes=Scopes(), expects=any_answer, login={})
        return (await self._executor.fetch(call)).status

    def list_repositories(
        self, namespace: str = "", *, list_warnings: ListWarnings | None = None
    ) -> AsyncIterator[str]:
        """Yield the paths of the registry's repositories, those below a namespace if one is given."""
        return list_repositories(self._executor, namespace, list_warnings=list_warnings or ListWarnings())

    def list_tags(self, repository: str, *, list_warnings: ListWarnings | None = None) -> AsyncIterator[Tag]:
        """Yield a repository's tags; `repository_missing` when there is no such repository."""
        scopes = self._reading(repository)
        return list_tags(self._executor, repository, scopes=scopes, list_warnings=list_warnings or ListWarnings())

    @property
    def has_digest_list(self) -> bool:
        """Whether this registry's type has a list of all tags with their digests."""
        return has_digest_list(self._executor)

    def list_digests(self, repository: str, *, dated: bool = False) -> AsyncIterator[ListedTag]:
        """Yield a repository's tags with their digests, as a list says them; `RegistryError` where there is no list.

        `dated` asks for when each was pushed too, as far as the list says it.
        """
        return list_digests(self._executor, repository, scopes=self._reading(repository), dated=dated)

    async def head_manifest(self, repository: str, target: Tag | Digest) -> Descriptor | None:
        """Ask what a tag or digest is, without a pull; None when it is not there."""
        return await head_manifest(self._executor, repository, target, scopes=self._reading(repository))

    async def find_manifest(self, repository: str, target: Tag | Digest) -> Descriptor | None:
        """Ask what a tag or digest is where something depends on its absence: GET is asked before None is returned."""
        return await find_manifest(self._executor, repository, target, scopes=self._reading(repository))

    async def get_manifest(self, repository: str, target: Tag | Digest) -> Manifest:
        """Fetch a manifest whose bytes were checked against their digest; `reference_not_found` when absent."""
        return await get_manifest(self._executor, repository, target, scopes=self._reading(repository))

    async def put_manifest(self, repository: str, target: Tag | Digest, manifest: Manifest) -> PutOutcome:
        """Push a manifest, byte for byte, under a tag or its digest."""
        scopes = _writing(repository)
        return await put_manifest(self._executor, repository, target, manifest=manifest, scopes=scopes)

    async def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """Ask whether a repository holds a blob; `ContentError` (`size_mismatch`) where it says another length."""
        return await has_blob(self._executor, repository, blob, scopes=self._reading(repository))

    async def read_byte(self, repository: str, blob: Descriptor) -> str:
        """Read the first byte of a blob the way it would be copied; return the host it came from."""
        return await read_byte(self._executor, repository, blob, scopes=self._reading(repository))

    def open_blob(
        self, repository: str, blob: Descriptor, *, offset: int = 0, is_fresh: bool = False
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob for reading, at `offset` or before it: see the reader's own `offset`.

        `is_fresh` takes a new connection, for what came damaged over another one.
        A transfer that writes elsewhere what is read here does both within one set of permits, against deadlocks.
        """
        scopes = self._reading(repository)
        return open_blob(self._executor, repository, blob, offset=offset, scopes=scopes, is_fresh=is_fresh)

    async def mount_blob(self, repository: str, digest: Digest, *, from_repository: str) -> UploadSession | None:
        """Take a blob over from another repository of this registry; None when that is done.

        A session when the registry opened one instead, or would not mount: go on in it.
        """
        url = self._executor.home.with_target(f"/v2/{repository}/blobs/uploads/")
        url = url.with_parameter("mount", digest).with_parameter("from", from_repository)
        scopes = _writing(repository).merge(Scopes.repository(from_repository, "pull"))
        call = RegistryRequest(operation="mount_blob", method="POST", url=url, scopes=scopes, expects=_MOUNTED)
        try:
            answer = await self._executor.fetch(call)
        except RegistryError as error:
            if error.status is None or error.code == "rate_limited":
                raise
            # Mounting is a favour: whatever is wrong with it (a scope that is not granted, a feature that is off) shows
            # again, and with the right error, if it is wrong with uploads too.
            return await self._open_session(repository, digest)
        return None if answer.status == httpx.codes.CREATED else self._session(repository, answer)

    async def start_upload(self, repository: str, blob: Descriptor) -> UploadSession:
        """Open a session to write a blob in."""
        return await self._open_session(repository, blob.digest)

    async def resume_upload(self, repository: str, location: str) -> UploadSession:
        """Take up a session that another process left, by its `location`; its `offset` is up to date then."""
        url = locate_upload(self._executor, self._executor.home, location)
        session = UploadSession(self._executor, self._strategy, repository, location=url, scopes=_writing(repository))
        await session.settle()
        return session

    @property
    def has_referrers_api(self) -> bool:
        """Whether the registry may have the referrers API: False once it said that it has none."""
        return self._referrers.has_api is not False

    async def list_referrers(
        self, repository: str, digest: Digest, *, list_warnings: ListWarnings | None = None
    ) -> tuple[Descriptor, ...]:
        """List the manifests whose subject this is, from the API or the fallback tag."""
        scopes = self._reading(repository)
        return await self._referrers.list(
            repository, digest, scopes=scopes, list_warnings=list_warnings or ListWarnings()
        )

    async def add_referrer_fallback(self, repository: str, subject: Digest, referrer: Descriptor) -> None:
        """Add a referrer to the index under the subject's fallback tag, losing nothing others put there."""
        scopes = _writing(repository)
        await self._referrers.add_to_fallback(repository, subject, referrer=referrer, scopes=scopes)

    @property
    def creates_first(self) -> bool:
        """Whether a repository is to be made before the first push to it, which would make it otherwise."""
        return self._creation is not None and self._creation.comes_first

    async def create_repository(self, repository: str) -> bool:
        """Make a repository where the entry says so, see `RepositoryCreator.create`."""
        return self._creation is not None and await self._creation.create(repository)

    async def _open_session(self, repository: str, digest: Digest) -> UploadSession:
        url = self._executor.home.with_target(f"/v2/{repository}/blobs/uploads/")
        if digest.algorithm != "sha256":
            url = url.with_parameter("digest-algorithm", digest.algorithm)
        scopes = _writing(repository)
        call = RegistryRequest(operation="start_upload", method="POST", url=url, scopes=scopes, expects=_STARTED)
        return self._session(repository, await self._executor.fetch(call))

    def _session(self, repository: str, answer: Response) -> UploadSession:
        return open_session(self._executor, self._strategy, repository, answer=answer, scopes=_writing(repository))

    def _reading(self, repository: str) -> Scopes:
        return _scopes(repository, self._reads)


def _writing(repository: str) -> Scopes:
    return _scopes(repository, _WRITES)


@lru_cache(maxsize=4096)
def _scopes(repository: str, actions: tuple[str, ...]) -> Scopes:
    return Scopes.repository(repository, *actions)
