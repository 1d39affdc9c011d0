"""What a copy and a job end with: results, execution errors, warnings; all of them data, never HTTP statuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from app.domain.errors import CopyError, RegistryError, RegistrySyncError, Side
from app.domain.reference import Digest, Reference


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an image or a whole job failed; `code` is one of the contract's codes."""

    code: str
    message: str
    side: Side | None = None
    registry: str | None = None
    operation: str | None = None
    status: int | None = None
    temporary: bool = False

    @classmethod
    def of(cls, error: RegistrySyncError) -> ExecutionError:
        """Describe an exception of ours."""
        cause = error.cause if isinstance(error, CopyError) else error
        wire = cause if isinstance(cause, RegistryError) else None
        return cls(
            code=error.code,
            message=error.message,
            side=error.side if isinstance(error, CopyError) else None,
            registry=wire.registry if wire else None,
            operation=wire.operation if wire else None,
            status=wire.status if wire else None,
            temporary=bool(getattr(error, "temporary", False)),
        )


@dataclass(frozen=True, slots=True)
class JobWarning:
    """Something the caller should know that stopped nothing."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the blobs of one copy so far."""

    blobs_present: int = 0
    blobs_mounted: int = 0
    blobs_transferred: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_transferred: int = 0


@dataclass(frozen=True, slots=True)
class CopyResult:
    """How one copy to one destination ended."""

    destination: Reference
    outcome: Literal["copied", "up_to_date", "failed"]
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    error: ExecutionError | None = None
    warnings: tuple[JobWarning, ...] = ()
    attempts: int = 1
    may_pass: bool = False
    """It failed for something that takes longer than anybody waits here: worth another attempt later."""
