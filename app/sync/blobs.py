"""The blobs of a copy, brought to every destination that lacks them: known, mounted, found, or sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from app.domain.errors import TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Repository
from app.registry.pool import RegistryClients
from app.registry.uploads import UploadSession
from app.sync.known_blobs import KnownBlobs
from app.sync.open_uploads import NotedUpload, UploadNotes, begun, give_back
from app.sync.patience import Patience
from app.sync.progress import Settled
from app.sync.stream import SourceBlob
from app.sync.target import Need, Target
from app.sync.throttle import Throttle
from app.sync.together import together
from app.sync.transfer import Receiver, Transfer

BLOBS_AT_ONCE = 8
"""In one copy; the registries' windows hold for all copies together."""
_PLACES_AT_ONCE = 16


@dataclass(slots=True, eq=False)
class _Place:
    """A repository that lacks a blob, and the destinations in it; it is brought there once."""

    repository: Repository
    targets: list[Target] = field(default_factory=list)
    session: UploadSession | None = None
    is_settled: bool = False

    @property
    def first(self) -> Target:
        return self.targets[0]


class BlobMover:
    """Brings blobs from one repository to others."""

    def __init__(
        self,
        clients: RegistryClients,
        source: Repository,
        known: KnownBlobs,
        *,
        patience: Patience,
        throttle: Throttle | None,
        notes: UploadNotes | None,
    ) -> None:
        self._clients = clients
        self._source = source
        self._known = known
        self._patience = patience
        self._throttle = throttle
        self._notes = notes

    async def move(self, needs: Iterable[Need]) -> None:
        """Bring all blobs to all that need them; who can't be given one fails, and no one else."""
        await together((self._move(need) for need in needs), at_once=BLOBS_AT_ONCE)

    async def _move(self, need: Need) -> None:
        blob = need.blob
        if not (places := self._lacking(need)):
            return
        async with self._known.sending([place.repository for place in places], blob.digest):
            places = self._lacking(need)  # some may have got it while we waited
            try:
                await together((self._ask(place, blob) for place in places), at_once=_PLACES_AT_ONCE)
                if left := [place for place in places if not place.is_settled]:
                    await self._send(blob, left)
            finally:
                await give_back(place.session for place in places)

    def _lacking(self, need: Need) -> list[_Place]:
        places: dict[Repository, _Place] = {}
        for target in need.targets:
            if not target.is_alive:
                continue
            repository = target.repository
            if repository == self._source or self._known.is_present(repository, need.blob.digest):
                target.progress.settle(need.blob, "present")
            else:
                places.setdefault(repository, _Place(repository)).targets.append(target)
        return sorted(places.values(), key=lambda place: place.repository)

    async def _ask(self, place: _Place, blob: Descriptor) -> None:
        """Try what costs no bytes; leaves the session a registry opened instead of mounting."""
        client, path = place.first.client, place.repository.path
        try:
            if (candidate := self._candidate(place.repository, blob)) is not None:
                mount = client.mount_blob(path, blob.digest, from_repository=candidate.path)
                place.session = await begun(mount)
                self._learn(candidate, blob, mounted=place.session is None)
                if place.session is None:
                    self._settle(place, blob, "mounted")
                    return
            if await client.has_blob(path, blob.digest):
                self._settle(place, blob, "present")
        except TransferError as error:
            self._fail(place, error, blob)

    def _candidate(self, repository: Repository, blob: Descriptor) -> Repository | None:
        for path in self._known.mount_candidates(repository, blob.digest):
            return Repository(repository.registry, path)
        is_near = self._source.registry == repository.registry and self._known.may_mount(repository.registry)
        return self._source if is_near else None

    def _learn(self, candidate: Repository, blob: Descriptor, *, mounted: bool) -> None:
        if mounted or candidate == self._source or self._known.is_present(candidate, blob.digest):
            self._known.mount_answered(candidate.registry, mounted=mounted)
        else:
            self._known.forget(candidate, blob.digest)  # it was there once

    async def _send(self, blob: Descriptor, places: Sequence[_Place]) -> None:
        client = self._clients.for_repository(self._source)
        source = SourceBlob(client, self._source.path, blob, patience=self._patience, throttle=self._throttle)
        receivers = [
            Receiver(
                place.first.client,
                place.repository.path,
                partial(place.first.progress.moved, blob),
                NotedUpload(self._notes, place.repository, blob),
                place.session,
            )
            for place in places
        ]
        for place in places:
            place.session = None  # the transfer's from here on
        await Transfer(source, self._clients.slots, patience=self._patience).send(receivers)
        for place, receiver in zip(places, receivers, strict=True):
            if receiver.error is not None:
                self._fail(place, receiver.error, blob)
            else:
                self._settle(place, blob, "transferred")

    def _settle(self, place: _Place, blob: Descriptor, how: Settled) -> None:
        self._known.add(place.repository, blob.digest)
        place.is_settled = True
        place.first.progress.settle(blob, how)
        for target in place.targets[1:]:
            target.progress.settle(blob, "present")

    def _fail(self, place: _Place, error: TransferError, blob: Descriptor) -> None:
        place.is_settled = True
        for target in place.targets:
            target.fail(error, step=f"copy blob {blob.digest}")
