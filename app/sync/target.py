"""One destination of a copy, while it is being copied."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.errors import CopyError, TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Reference, Repository
from app.domain.report import JobWarning
from app.registry.client import RegistryClient
from app.sync.progress import Progress


@dataclass(slots=True, eq=False)
class Target:
    """Where a copy goes, and how that stands in this attempt."""

    reference: Reference
    client: RegistryClient
    progress: Progress
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
            self.error = error if isinstance(error, CopyError) else CopyError(error, side="destination", step=step)

    async def lacks(self, digest: Digest) -> bool:
        """Ask whether a manifest is missing; a destination that can't be asked fails, and lacks nothing any more."""
        try:
            return await self.client.head_manifest(self.path, digest) is None
        except TransferError as error:
            self.fail(error, step=f"look for {digest}")
            return False


@dataclass(slots=True, eq=False)
class Need:
    """A blob, and the destinations that have to have it."""

    blob: Descriptor
    targets: set[Target] = field(default_factory=set)
