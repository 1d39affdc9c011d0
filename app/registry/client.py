"""One registry as the rest of the house sees it: a method for each operation of the distribution spec."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import httpx

from app.domain.errors import RegistryError
from app.domain.manifest import Descriptor, Manifest
from app.domain.reference import Digest, Tag
from app.domain.registry import RegistryEntry
from app.registry.blobs import BlobReader, has_blob, open_blob
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange
from app.registry.failures import Answer
from app.registry.habits import UploadHabits
from app.registry.listing import list_repositories, list_tags
from app.registry.manifests import PutOutcome, get_manifest, head_manifest, put_manifest
from app.registry.referrers import Referrers
from app.registry.uploads import UploadSession, locate_upload, open_session

_STARTED = frozenset({202})
_MOUNTED = frozenset({201, 202})


class RegistryClient:
    """Talks to one registry; methods take repository paths and raise `RegistryError` or `ContentError`.

    With `writing`, every request is made with a token that allows pushing as well: one token for each repository, and
    an answer where registries tell who may only read nothing about a repository that does not exist yet.
    """

    def __init__(
        self, exchange: Exchange, referrers: Referrers, habits: UploadHabits, *, writing: bool = False
    ) -> None:
        self._exchange = exchange
        self._referrers = referrers
        self._habits = habits
        self._reads = ("pull", "push") if writing else ("pull",)

    @property
    def entry(self) -> RegistryEntry:
        """The entry this client talks for."""
        return self._exchange.entry

    @property
    def exchange(self) -> Exchange:
        """What requests are made with."""
        return self._exchange

    async def ping(self) -> None:
        """See that the registry speaks the API and takes the credentials (distribution spec, "Determining Support")."""
        url = self._exchange.home.with_target("/v2/")
        call = Call(operation="ping", method="GET", url=url, scopes=Scopes(), expects=frozenset({200}))
        await self._exchange.fetch(call)

    def list_repositories(self, namespace: str = "") -> AsyncIterator[str]:
        """Yield the paths of the registry's repositories, those below a namespace if one is given."""
        return list_repositories(self._exchange, namespace)

    def list_tags(self, repository: str) -> AsyncIterator[Tag]:
        """Yield a repository's tags; `repository_missing` when there is no such repository."""
        return list_tags(self._exchange, repository, scopes=self._reading(repository))

    async def head_manifest(self, repository: str, target: Tag | Digest) -> Descriptor | None:
        """Ask what a tag or digest is, without a pull; None when it is not there."""
        return await head_manifest(self._exchange, repository, target, scopes=self._reading(repository))

    async def get_manifest(self, repository: str, target: Tag | Digest) -> Manifest:
        """Fetch a manifest whose bytes were checked against their digest; `reference_not_found` when absent."""
        return await get_manifest(self._exchange, repository, target, scopes=self._reading(repository))

    async def put_manifest(self, repository: str, target: Tag | Digest, manifest: Manifest) -> PutOutcome:
        """Push a manifest, byte for byte, under a tag or its digest."""
        scopes = _writing(repository)
        return await put_manifest(self._exchange, repository, target, manifest=manifest, scopes=scopes)

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Ask whether a repository holds a blob."""
        return await has_blob(self._exchange, repository, digest, scopes=self._reading(repository))

    def open_blob(
        self, repository: str, blob: Descriptor, *, offset: int = 0
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob for reading, at `offset` or before it: see the reader's own `offset`.

        Whoever writes elsewhere what is read here does both within `slots`: then no two transfers wait for each other.
        """
        return open_blob(self._exchange, repository, blob, offset=offset, scopes=self._reading(repository))

    async def mount_blob(self, repository: str, digest: Digest, *, from_repository: str) -> UploadSession | None:
        """Take a blob over from another repository of this registry; None when that is done.

        A session when the registry opened one instead, or would not mount: go on in it.
        """
        url = self._exchange.home.with_target(f"/v2/{repository}/blobs/uploads/")
        url = url.with_parameter("mount", digest).with_parameter("from", from_repository)
        scopes = _writing(repository).merge(Scopes.repository(from_repository, "pull"))
        call = Call(operation="mount_blob", method="POST", url=url, scopes=scopes, expects=_MOUNTED)
        try:
            answer = await self._exchange.fetch(call)
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
        url = locate_upload(self._exchange, self._exchange.home, location)
        session = UploadSession(self._exchange, self._habits, repository, location=url, scopes=_writing(repository))
        await session.settle()
        return session

    async def list_referrers(self, repository: str, digest: Digest) -> tuple[Descriptor, ...]:
        """List the manifests whose subject this is, from the API or the fallback tag."""
        return await self._referrers.list(repository, digest, scopes=self._reading(repository))

    async def add_referrer_fallback(self, repository: str, subject: Digest, referrer: Descriptor) -> None:
        """Add a referrer to the index under the subject's fallback tag, losing nothing others put there."""
        scopes = _writing(repository)
        await self._referrers.add_to_fallback(repository, subject, referrer=referrer, scopes=scopes)

    async def _open_session(self, repository: str, digest: Digest) -> UploadSession:
        url = self._exchange.home.with_target(f"/v2/{repository}/blobs/uploads/")
        if digest.algorithm != "sha256":
            url = url.with_parameter("digest-algorithm", digest.algorithm)
        scopes = _writing(repository)
        call = Call(operation="start_upload", method="POST", url=url, scopes=scopes, expects=_STARTED)
        return self._session(repository, await self._exchange.fetch(call))

    def _session(self, repository: str, answer: Answer) -> UploadSession:
        return open_session(self._exchange, self._habits, repository, answer=answer, scopes=_writing(repository))

    def _reading(self, repository: str) -> Scopes:
        return Scopes.repository(repository, *self._reads)


def _writing(repository: str) -> Scopes:
    return Scopes.repository(repository, "pull", "push")
