"""How one registry takes uploads: known beforehand, or found out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.domain.registry import RegistryEntry
from app.registry.limits import MIB
from app.registry.quirks import quirks_of

_MIN_CHUNK_BYTES = MIB
_LIMIT_TOLD = re.compile(r"(\d+(?:\.\d+)?)\s*MiB", re.IGNORECASE)


@dataclass(slots=True)
class UploadHabits:
    """What one registry was found to take."""

    chunk_bytes: int
    refuses_whole: bool = False
    refuses_chunks: bool = False

    @classmethod
    def of(cls, entry: RegistryEntry, chunk_bytes: int) -> UploadHabits:
        """Begin with what is known of a registry."""
        quirks = quirks_of(entry)
        return cls(min(chunk_bytes, quirks.max_chunk_bytes or chunk_bytes), refuses_chunks=not quirks.takes_chunks)

    @property
    def can_shrink(self) -> bool:
        """Whether chunks may be smaller still."""
        return self.chunk_bytes > _MIN_CHUNK_BYTES

    def shrink(self, told: str) -> None:
        """Send smaller chunks: as small as an answer says (GHCR: 4.00MiB), or half."""
        limit = _LIMIT_TOLD.search(told)
        wanted = int(float(limit[1]) * MIB) if limit else self.chunk_bytes // 2
        self.chunk_bytes = max(_MIN_CHUNK_BYTES, min(wanted, self.chunk_bytes // 2))
