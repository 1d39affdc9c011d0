"""One destination while it is being copied to: its state in an attempt, its progress over all of them, and notes of it.

The notes are what is known beyond its tags: what an image lacks there on purpose, and what hangs on it. A tag's digest
says that an image is there, not that it is whole: a sparse copy leaves children out, `foreign_layers: skip` leaves
layers out, and referrers that were hung on the source's image later change no digest. All workers share these notes,
also over restarts; without a database they last as long as the process.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.clock import now
from app.domain.errors import CopyError, RegistryError, TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Reference, Repository, Tag
from app.domain.report import CopyStep, JobWarning, Tally
from app.observability import get_logger
from app.registry.client import RegistryClient
from app.sync.dry_run import DryRun

Observe = Callable[[Reference, Tally], None]
Settled = Literal["present", "mounted", "transferred"]
NoteKind = Literal["lacks_children", "lacks_foreign_layers", "companions", "refuses_sparse", "parts", "first_seen"]
"""`companions` has the fingerprint of the companions that are there; `refuses_sparse` is about a whole repository.

`parts` has the digests of the manifests below an index. `first_seen` is about an image of a source, see
`app/sync/image_metadata.py`.
"""
FIRST_STEPS = 50
LAST_STEPS = 150
"""Steps that the log of an image holds from its beginning, and from its end."""
_log = get_logger(__name__)
_root = logging.getLogger()


@dataclass(slots=True)
class Progress:
    """Counts each blob once, over all attempts."""

    destination: Reference
    observe: Observe
    tally: Tally = field(default_factory=Tally)
    _done: dict[Digest, int] = field(default_factory=dict)
    _settled: set[Digest] = field(default_factory=set)
    companions: set[str] = field(default_factory=set)
    """The referrers and digest tags that came along."""
    missing_blobs: int = 0
    """Of a dry run: how many would have to be sent."""
    _first_steps: list[CopyStep] = field(default_factory=list)
    _last_steps: deque[CopyStep] = field(default_factory=lambda: deque(maxlen=LAST_STEPS))

    @property
    def sent_blobs(self) -> int:
        """How many blobs came to the destination by this copy, or would come there by a dry run."""
        return self.tally.blobs_mounted + self.tally.blobs_transferred + self.missing_blobs

    @property
    def steps(self) -> tuple[CopyStep, ...]:
        """What was done so far, as far as it is remembered."""
        return (*self._first_steps, *self._last_steps)

    def note(self, event: str, /, **details: str | int | None) -> None:
        """Note a step for the image's log, and log it at the level debug."""
        step = CopyStep(now(), event, details)
        (self._first_steps if len(self._first_steps) < FIRST_STEPS else self._last_steps).append(step)
        if _root.isEnabledFor(logging.DEBUG):  # asked here: a logger is bound anew for each event, logged or not
            _log.debug(event, destination=str(self.destination), **details)

    def expect(self, blob: Descriptor) -> None:
        """Count a blob as needed."""
        if blob.digest not in self._done:
            self._done[blob.digest] = 0
            self._tell(bytes_total=blob.size)

    def moved(self, blob: Descriptor, *, offset: int, sent: int) -> None:
        """Count bytes sent; the destination has been given `offset` of the blob's bytes by now."""
        gain = max(0, offset - self._done.get(blob.digest, 0))
        self._done[blob.digest] = self._done.get(blob.digest, 0) + gain
        self._tell(bytes_done=gain, bytes_transferred=sent)

    def miss(self, blob: Descriptor) -> None:
        """Count a blob as one that would have to be sent."""
        if blob.digest not in self._settled:
            self._settled.add(blob.digest)
            self.missing_blobs += 1

    def settle(self, blob: Descriptor, how: Settled, *, mounted_from: str | None = None) -> None:
        """Count a blob as there; `mounted_from` is the repository that had it."""
        if blob.digest in self._settled:
            return
        self._settled.add(blob.digest)
        origin = {"from_repository": mounted_from} if mounted_from else {}
        self.note(f"blob_{how}", digest=blob.digest, bytes=blob.size, **origin)
        self.moved(blob, offset=blob.size, sent=0)
        self._tell(
            blobs_present=int(how == "present"),
            blobs_mounted=int(how == "mounted"),
            blobs_transferred=int(how == "transferred"),
        )

    def _tell(
        self,
        *,
        blobs_present: int = 0,
        blobs_mounted: int = 0,
        blobs_transferred: int = 0,
        bytes_total: int = 0,
        bytes_done: int = 0,
        bytes_transferred: int = 0,
    ) -> None:
        before = self.tally
        self.tally = Tally(
            before.blobs_present + blobs_present,
            before.blobs_mounted + blobs_mounted,
            before.blobs_transferred + blobs_transferred,
            before.bytes_total + bytes_total,
            before.bytes_done + bytes_done,
            before.bytes_transferred + bytes_transferred,
        )
        if self.tally != before:
            self.observe(self.destination, self.tally)


@dataclass(slots=True, eq=False)
class DestinationState:
    """Where a copy goes, and how that stands in this attempt."""

    reference: Reference
    client: RegistryClient
    progress: Progress
    overwrites: bool = True
    """Whether what is there may be replaced (`overwrite: always`)."""
    dry_run: DryRun | None = None
    """What would be here by earlier copies; None writes."""
    refuses_sparse: bool = False
    """Whether it refused an index for the children it was left without."""
    error: CopyError | None = None
    warnings: list[JobWarning] = field(default_factory=list)

    @property
    def repository(self) -> Repository:
        """The repository written to."""
        return self.reference.repository

    @property
    def path(self) -> str:
        """The repository's path, as the client wants it."""
        return self.reference.repository.path

    @property
    def is_alive(self) -> bool:
        """Whether nothing went wrong with it yet."""
        return self.error is None

    def fail(self, error: TransferError, *, step: str) -> None:
        """Note the first thing that went wrong; it costs this destination its attempt and no other."""
        if self.error is None:
            self.progress.note("attempt_failed", step=step, code=error.code, message=error.message)
            self.error = error if isinstance(error, CopyError) else CopyError(error, side="destination", step=step)

    async def find(self, target: Tag | Digest) -> Descriptor | None:
        """Ask what a tag or digest is there, see `find_there`; raise `RegistryError` or `ContentError`."""
        if self.dry_run is not None and (found := self.dry_run.find_manifest(self.repository, target)) is not None:
            return found
        return await find_there(self.client, self.path, target, overwrites=self.overwrites)

    async def lacks(self, digest: Digest) -> bool:
        """Ask whether a manifest is missing; a destination that can't be asked fails, and lacks nothing any more."""
        try:
            return await self.find(digest) is None
        except TransferError as error:
            self.fail(error, step=f"look for {digest}")
            return False


async def find_there(client: RegistryClient, path: str, target: Tag | Digest, *, overwrites: bool) -> Descriptor | None:
    """Ask what a destination has; None where nothing is there, or nothing that keeps it from being written.

    Where existing tags stay, one is not there only when GET says so too, and a denial is an error. Where they are
    replaced, a denial counts as nothing there: some registries answer so for what they do not have, and who may not
    write learns that from the first write.
    """
    if not overwrites and isinstance(target, Tag):
        return await client.find_manifest(path, target)
    try:
        return await client.head_manifest(path, target)
    except RegistryError as error:
        if error.code != "denied":
            raise
        return None


@dataclass(slots=True, eq=False)
class Need:
    """A blob, and the destinations that have to have it."""

    blob: Descriptor
    targets: set[DestinationState] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class DestinationNote:
    """One thing that is known, and what belongs to it: a fingerprint, or nothing."""

    kind: NoteKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class DestinationNotes:
    """Where notes of destinations are kept, by repository and digest (None: the repository itself). None may raise."""

    find: Callable[[Repository, Digest | None], Awaitable[Mapping[str, str]]]
    """Returns what is noted: kind → value."""
    put: Callable[[Repository, Digest | None, DestinationNote], Awaitable[None]]
    drop: Callable[[Repository, Digest | None, NoteKind], Awaitable[None]]

    @classmethod
    def in_memory(cls) -> DestinationNotes:
        """Keep the notes of one process, for copies without a database."""
        notes: dict[tuple[Repository, Digest | None], dict[str, str]] = {}

        async def find(repository: Repository, digest: Digest | None) -> Mapping[str, str]:
            return dict(notes.get((repository, digest), {}))

        async def put(repository: Repository, digest: Digest | None, note: DestinationNote) -> None:
            notes.setdefault((repository, digest), {})[note.kind] = note.value

        async def drop(repository: Repository, digest: Digest | None, kind: NoteKind) -> None:
            notes.get((repository, digest), {}).pop(kind, None)

        return cls(find, put, drop)

    def read_only(self) -> DestinationNotes:
        """Return the same notes, for who looks at them and changes nothing."""

        async def put(_repository: Repository, _digest: Digest | None, _note: DestinationNote) -> None:
            return

        async def drop(_repository: Repository, _digest: Digest | None, _kind: NoteKind) -> None:
            return

        return DestinationNotes(self.find, put, drop)


def fingerprint(companions: Iterable[str]) -> str:
    """Return one short text for what hangs on an image, the same in whatever order it is listed."""
    return hashlib.sha256("\n".join(sorted(companions)).encode()).hexdigest()
