"""The blobs of a copy, brought to every destination that lacks them: known, mounted, found, or sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from app.concurrency import run_limited
from app.domain.errors import ContentError, TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Repository
from app.domain.retry_policy import RetryPolicy
from app.registry.client import RegistryClients
from app.registry.ratelimit.token_bucket import TokenBucket
from app.registry.uploads import UploadSession
from app.sync.destination import DestinationState, Need, Settled
from app.sync.dry_run import DryRun, MissingBlob
from app.sync.known_blobs import KnownBlobs, NotedUpload, UploadNotes, give_back
from app.sync.new_repositories import look_for_repository
from app.sync.source_blob import SourceBlob
from app.sync.transfer import Receiver, Transfer

BLOBS_AT_ONCE = 8
"""In one copy; the registries' windows hold for all copies together."""
_PLACES_AT_ONCE = 16
_SENT_TWICE_BYTES = 64 * 1024
"""Up to here asking the other processes of the host who sends a blob costs more than sending it twice."""
_SENT_WITHOUT_ASKING_BYTES = 1024 * 1024
"""A blob that a mount did not find where it was known: up to here sending it costs no more than asking for it."""
_ASKED_BY_HEAD = 3
"""Blobs for which it is not worth asking first whether their repository is there."""


@dataclass(slots=True, eq=False)
class _Place:
    """A repository that lacks a blob, and the destinations in it; it is brought there once."""

    repository: Repository
    targets: list[DestinationState] = field(default_factory=list)
    session: UploadSession | None = None
    is_settled: bool = False
    is_doubtful: bool = False
    """The registry says that it has the blob, with another length."""
    mounted_from: str | None = None

    @property
    def first(self) -> DestinationState:
        return self.targets[0]


class BlobMover:
    """Brings blobs from one repository to others: known, mounted, found, or sent.

    - `clients`: the registries of one job
    - `source`: the repository to read from
    - `known`: which repository holds which blob, for the whole process
    - `retry_policy`, `rate_limit`, `notes`: as the copier's
    - `dry_run`: with it nothing is sent; what would be is counted
    """

    def __init__(
        self,
        clients: RegistryClients,
        source: Repository,
        known: KnownBlobs,
        *,
        retry_policy: RetryPolicy,
        rate_limit: TokenBucket | None,
        notes: UploadNotes | None,
        seen: set[tuple[Repository, Digest]] | None = None,
        dry_run: DryRun | None = None,
    ) -> None:
        """Take what moves blobs; with `seen`, nothing but what is in it counts as there without asking."""
        self._clients = clients
        self._source = source
        self._known = known
        self._retry_policy = retry_policy
        self._rate_limit = rate_limit
        self._notes = notes
        self._seen = seen
        self._dry_run = dry_run
        self._absent: set[tuple[Repository, Digest]] = set()
        """What was not there when its repository was looked for."""

    async def move(self, needs: Iterable[Need]) -> None:
        """Bring all blobs to all that need them; who can't be given one fails, and no one else."""
        if self._dry_run is not None:
            found = await run_limited((self._look(need, self._dry_run) for need in needs), at_once=BLOBS_AT_ONCE)
            await self._claim([missing for each in found for missing in each], self._dry_run)
        else:
            # The largest first: one that begins last would be waited for alone.
            needs = list(needs)
            await self._look_for_repositories(needs)
            ordered = sorted(needs, key=lambda need: need.blob.size, reverse=True)
            await run_limited((self._move(need) for need in ordered), at_once=BLOBS_AT_ONCE)

    async def _look_for_repositories(self, needs: Sequence[Need]) -> None:
        """Ask once for repositories of which nothing is known yet: one that is not there is asked for no blob.

        Where blobs would each be asked for by HEAD otherwise, and there are more than a few.
        """
        wanted: defaultdict[Repository, dict[Digest, Descriptor]] = defaultdict(dict)
        targets: dict[Repository, DestinationState] = {}
        if self._seen is not None:
            return
        for need in needs:
            for target in need.targets:
                repository = target.repository
                if self._known.has_seen(repository) or self._is_asked_by_mount(repository, need.blob):
                    continue
                if self._candidate(repository, need.blob) is None:
                    wanted[repository][need.blob.digest] = need.blob
                    targets[repository] = target
        looks = (
            self._look_for_repository(targets[repository], blobs, needs[0].blob)
            for repository, blobs in wanted.items()
            if len(blobs) > _ASKED_BY_HEAD
        )
        await run_limited(looks, at_once=_PLACES_AT_ONCE)

    async def _look_for_repository(
        self, target: DestinationState, blobs: Mapping[Digest, Descriptor], config: Descriptor
    ) -> None:
        absent = await look_for_repository(target, blobs.values(), config=config, known=self._known)
        self._absent.update((target.repository, digest) for digest in absent)

    def _is_asked_by_mount(self, repository: Repository, blob: Descriptor) -> bool:
        """Return whether a mount of a blob from the repository itself is the question whether it is there.

        Only where the registry is known to answer so: a session that it opens instead has to be given back when a
        process ends, and there would be one for each blob that waits.
        """
        return blob.digest.algorithm == "sha256" and bool(self._known.answers_by_mount(repository.registry))

    async def _look(self, need: Need, dry_run: DryRun) -> list[tuple[_Place, Descriptor, MissingBlob]]:
        """Count what would become of a blob; return where it would be sent. Meanwhile another copy may be looked at."""
        blob, missing = need.blob, []
        for place in self._lacking(need):
            mounts = blob.digest.algorithm == "sha256" and self._known.may_mount(place.repository.registry)
            how = dry_run.find_blob(place.repository, blob.digest, mounts=mounts)
            if how is None or (how == "mounted" and self._seen is not None):
                try:
                    found = await self._find_without_writing(place, blob)
                except ContentError:
                    found = None  # there with another length: it would be sent again
                except TransferError as error:
                    self._fail(place, error, blob)
                    continue
                how = found or dry_run.find_blob(place.repository, blob.digest, mounts=mounts)
            place.targets.sort(key=lambda target: target.reference)  # the same one counts it each time
            dry_run.add_blob(place.first.reference, blob.digest)
            if how is None:
                missing.append((place, blob, MissingBlob(place.first.reference, blob.digest, mounts)))
            else:
                self._count(place, blob, how)
        return missing

    async def _claim(self, missing: Sequence[tuple[_Place, Descriptor, MissingBlob]], dry_run: DryRun) -> None:
        """Count what would have to be sent: once, also where several workers look at images that share it."""
        granted = await dry_run.claim(claim for _, _, claim in missing)
        for place, blob, claim in missing:
            self._count(place, blob, None if claim in granted else "mounted" if claim.is_mounted else "present")

    async def _find_without_writing(self, place: _Place, blob: Descriptor) -> Literal["present", "mounted"] | None:
        """Find out what a mount or HEAD would come to; only HEADs are asked."""
        repository, client, is_checked = place.repository, place.first.client, self._seen is not None
        if not is_checked and await self._would_mount(place, blob):
            return "mounted"
        if await client.has_blob(repository.path, blob):
            self._known.add(repository, blob.digest)
            return "present"
        return "mounted" if is_checked and await self._would_mount(place, blob) else None

    async def _would_mount(self, place: _Place, blob: Descriptor) -> bool:
        candidate = self._candidate(place.repository, blob)
        if candidate is None or candidate == self._source or self._is_seen(candidate, blob):
            return candidate is not None
        with suppress(TransferError):  # nothing is mounted from where nothing may be read
            return await place.first.client.has_blob(candidate.path, blob)
        return False

    async def _move(self, need: Need) -> None:
        blob = need.blob
        if not (places := self._lacking(need)):
            return
        is_small = blob.size <= _SENT_TWICE_BYTES
        async with self._known.sending([place.repository for place in places], blob.digest, is_small=is_small):
            places = self._lacking(need)  # some may have got it while we waited
            try:
                await run_limited((self._ask(place, blob) for place in places), at_once=_PLACES_AT_ONCE)
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
            if self._is_known(repository, need.blob):
                target.progress.settle(need.blob, "present")
            else:
                places.setdefault(repository, _Place(repository)).targets.append(target)
        return sorted(places.values(), key=lambda place: place.repository)

    def _is_known(self, repository: Repository, blob: Descriptor) -> bool:
        if self._seen is None and repository == self._source:
            return True
        return self._is_seen(repository, blob) and (self._seen is not None or self._known.is_confirmed(repository))

    def _is_seen(self, repository: Repository, blob: Descriptor) -> bool:
        seen, known = self._seen, self._known
        return (repository, blob.digest) in seen if seen is not None else known.is_present(repository, blob.digest)

    async def _ask(self, place: _Place, blob: Descriptor) -> None:
        """Try what costs no bytes; leaves the session a registry opened instead of mounting.

        A mount is the question and the beginning of the answer in one request: from another repository that is known
        to hold the blob, else from the repository itself, where the registry is known to find what is there that way.
        """
        is_believed = self._known.is_present(place.repository, blob.digest)
        try:
            found = await self._find(place, blob, is_believed=is_believed)
        except ContentError:
            place.is_doubtful = True  # sent again, which mends what broke off in the registry's storage
        except TransferError as error:
            self._fail(place, error, blob)
        else:
            if found is not None:
                self._settle(place, blob, found)
            elif is_believed:
                self._known.forget_repository(place.repository)

    async def _find(
        self, place: _Place, blob: Descriptor, *, is_believed: bool
    ) -> Literal["present", "mounted"] | None:
        repository, client = place.repository, place.first.client
        candidate = None if is_believed and self._seen is None else self._candidate(repository, blob)
        if self._seen is not None and await client.has_blob(repository.path, blob):
            return "present"
        if candidate is not None:
            place.session = await client.mount_blob(repository.path, blob.digest, from_repository=candidate.path)
            self._learn(candidate, blob, mounted=place.session is None)
            if place.session is None:
                place.mounted_from = candidate.path
                return "mounted"
            is_asked = blob.size > _SENT_WITHOUT_ASKING_BYTES
            return "present" if is_asked and await client.has_blob(repository.path, blob) else None
        if self._seen is not None:
            return None
        is_new = self._known.is_new(repository) and not is_believed
        if not is_new and self._is_asked_by_mount(repository, blob):
            place.session = await client.mount_blob(repository.path, blob.digest, from_repository=repository.path)
            if place.session is not None:
                return None
            self._known.note_found_by_mount(repository, blob.digest)
            return "present"
        is_absent = (repository, blob.digest) in self._absent and not is_believed
        if not is_new and not is_absent and await client.has_blob(repository.path, blob):
            return "present"
        self._known.note_absence(repository.registry)
        return None

    def _candidate(self, repository: Repository, blob: Descriptor) -> Repository | None:
        for path in self._known.mount_candidates(repository, blob.digest):
            return Repository(repository.registry, path)
        is_near = self._source.registry == repository.registry and self._known.may_mount(repository.registry)
        return self._source if is_near else None

    def _learn(self, candidate: Repository, blob: Descriptor, *, mounted: bool) -> None:
        if mounted or candidate == self._source or self._is_seen(candidate, blob):
            self._known.mount_answered(candidate.registry, mounted=mounted)
        else:
            self._known.forget(candidate, blob.digest)  # it was there once

    async def _send(self, blob: Descriptor, places: Sequence[_Place]) -> None:
        client = self._clients.for_repository(self._source)
        source = SourceBlob(
            client, self._source.path, blob, retry_policy=self._retry_policy, rate_limit=self._rate_limit
        )
        receivers = [
            Receiver(
                place.first.client,
                place.repository.path,
                partial(place.first.progress.moved, blob),
                NotedUpload(self._notes, place.repository, blob),
                place.first.progress.note,
                place.session,
            )
            for place in places
        ]
        for place in places:
            place.session = None  # the transfer's from here on
        await Transfer(source, self._clients.slots, retry_policy=self._retry_policy).send(receivers)
        for place, receiver in zip(places, receivers, strict=True):
            if receiver.error is not None:
                self._fail(place, receiver.error, blob)
            elif not place.is_doubtful or await self._is_whole(place, blob):
                self._settle(place, blob, "transferred")
                await self._try_mount(place, blob)

    async def _try_mount(self, place: _Place, blob: Descriptor) -> None:
        """Find out, once for a registry that gets many blobs, whether a mount from a repository itself finds its blobs.

        Distribution, zot and others answer 201 for one that is there, and 202 with a session for one that is not: no
        blob has to be asked for by HEAD then, before it is sent.
        """
        registry, path = place.repository.registry, place.repository.path
        if blob.digest.algorithm != "sha256" or not self._known.is_mount_to_be_tried(registry):
            return
        self._known.note_mount_tried(registry)
        with suppress(TransferError):
            session = await place.first.client.mount_blob(path, blob.digest, from_repository=path)
            self._known.note_answers_by_mount(registry, does=session is None)
            await give_back([session])

    async def _is_whole(self, place: _Place, blob: Descriptor) -> bool:
        """Ask once more for a blob that was there with another length; where that stays so the copy can't be right."""
        try:
            await place.first.client.has_blob(place.repository.path, blob)
        except TransferError as error:
            self._fail(place, error, blob)
            return False
        return True

    def _settle(self, place: _Place, blob: Descriptor, how: Settled) -> None:
        self._known.add(place.repository, blob.digest)
        if self._seen is not None:
            self._seen.add((place.repository, blob.digest))
        place.is_settled = True
        self._count(place, blob, how)

    def _count(self, place: _Place, blob: Descriptor, how: Settled | None) -> None:
        if how is None:
            place.first.progress.miss(blob)
        else:
            place.first.progress.settle(blob, how, mounted_from=place.mounted_from)
        for target in place.targets[1:]:
            target.progress.settle(blob, "present")

    def _fail(self, place: _Place, error: TransferError, blob: Descriptor) -> None:
        place.is_settled = True
        for target in place.targets:
            target.fail(error, step=f"copy blob {blob.digest}")
