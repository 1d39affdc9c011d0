"""One planned copy: compare both sides, bring over what is missing, move the tag last; try again what may come good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.errors import CopyError, RegistryError
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.report import CopyResult, ExecutionError
from app.domain.request import Options
from app.registry.pool import RegistryClients
from app.sync.attempt import Attempt, Outcome
from app.sync.companions import TagLists
from app.sync.known_blobs import KnownBlobs
from app.sync.open_uploads import UploadNotes
from app.sync.patience import Patience
from app.sync.progress import Observe, Progress
from app.sync.target import Target
from app.sync.throttle import Throttle


@dataclass(slots=True, eq=False)
class _Destination:
    """One destination over all attempts."""

    progress: Progress
    attempts: int = 0
    outcome: Outcome | None = None
    error: CopyError | None = None
    paused_seconds: float = 0.0

    @property
    def reference(self) -> Reference:
        return self.progress.destination


class Copier:
    """Copies images. What is known of blobs is shared by all copiers of the process."""

    def __init__(
        self,
        clients: RegistryClients,
        blobs: KnownBlobs,
        *,
        throttle: Throttle | None = None,
        patience: Patience | None = None,
        notes: UploadNotes | None = None,
    ) -> None:
        self._clients = clients
        self._blobs = blobs
        self._throttle = throttle
        self._patience = patience or Patience()
        self._notes = notes
        self._tag_lists = TagLists()

    async def copy(self, copy: PlannedCopy, options: Options, *, observe: Observe) -> tuple[CopyResult, ...]:
        """Copy one source to all its destinations; return one result for each, in order.

        A `TransferError` becomes a failed result. What was temporary, and no repeated request could mend, is tried
        again, for the destinations it concerned; what the road has given up on is left to later attempts of the image.
        """
        destinations = [_Destination(Progress(place, observe)) for place in copy.destinations]
        left = destinations
        while left:
            await self._try(copy, options, left)
            left = [destination for destination in left if self._may_come_good(destination)]
            if left:
                asked_for = max(_pause(destination.error) for destination in left)
                await self._patience.wait(max(item.attempts for item in left), at_least=asked_for)
        return tuple(_result(destination) for destination in destinations)

    async def _try(self, copy: PlannedCopy, options: Options, left: Sequence[_Destination]) -> None:
        targets = []
        for destination in left:
            destination.attempts += 1
            client = self._clients.for_repository(destination.reference.repository, writing=True)
            targets.append(Target(destination.reference, client, destination.progress))
        attempt = Attempt(
            self._clients,
            replace(copy, destinations=tuple(target.reference for target in targets)),
            options,
            blobs=self._blobs,
            tag_lists=self._tag_lists,
            patience=self._patience,
            throttle=self._throttle,
            notes=self._notes,
            is_first=all(destination.attempts == 1 for destination in left),
        )
        outcomes = await attempt.run(targets)
        for destination, target, outcome in zip(left, targets, outcomes, strict=True):
            destination.outcome, destination.error = outcome, target.error

    def _may_come_good(self, destination: _Destination) -> bool:
        error = destination.error
        if error is None or not error.temporary:
            return False
        if error.code == "rate_limited" and (asked_for := _pause(error)):
            destination.paused_seconds += asked_for
            return destination.paused_seconds < self._patience.pause_seconds
        if (cause := _registry_error(error)) is not None and cause.given_up:
            return False
        return destination.attempts < self._patience.attempts


def _registry_error(error: CopyError | None) -> RegistryError | None:
    cause = error.cause if error is not None else None
    while isinstance(cause, CopyError):
        cause = cause.cause
    return cause if isinstance(cause, RegistryError) else None


def _pause(error: CopyError | None) -> float:
    cause = _registry_error(error)
    return (cause.retry_after or 0.0) if cause is not None else 0.0


def _result(destination: _Destination) -> CopyResult:
    outcome = destination.outcome or Outcome("failed")
    cause = _registry_error(destination.error)
    return CopyResult(
        destination=destination.reference,
        outcome="failed" if destination.error else outcome.how,
        reason=outcome.reason,
        digest=outcome.digest,
        destination_digest=None if destination.error else outcome.destination_digest,
        previous_digest=outcome.previous_digest,
        media_type=outcome.media_type,
        platforms=outcome.platforms,
        tally=destination.progress.tally,
        error=ExecutionError.of(destination.error) if destination.error else None,
        warnings=outcome.warnings,
        attempts=destination.attempts,
        may_pass=cause is not None and cause.given_up and cause.was_alive,
    )
