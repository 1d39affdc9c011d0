"""How far one copy to one destination is: what its blobs came to, told to whoever watches. Never goes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Reference
from app.domain.report import Tally

Observe = Callable[[Reference, Tally], None]
Settled = Literal["present", "mounted", "transferred"]


@dataclass(slots=True)
class Progress:
    """Counts each blob once, over all attempts."""

    destination: Reference
    observe: Observe
    tally: Tally = field(default_factory=Tally)
    _done: dict[Digest, int] = field(default_factory=dict)
    _settled: set[Digest] = field(default_factory=set)

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

    def settle(self, blob: Descriptor, how: Settled) -> None:
        """Count a blob as there."""
        if blob.digest in self._settled:
            return
        self._settled.add(blob.digest)
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
