"""Versions of what is stored: a change may name the one it was made of (optimistic locking)."""

from __future__ import annotations

from typing import Protocol

from app.domain.errors import ConflictError


class _Stored(Protocol):
    @property
    def version(self) -> int: ...


def check_version(existing: _Stored | None, expected: int | None) -> None:
    """Raise `ConflictError` (`precondition_failed`) unless what is stored has the expected version; None is any."""
    if expected is not None and (existing is None or existing.version != expected):
        state = f"it is at version {existing.version} now" if existing else "there is none now"
        raise ConflictError(f"{state}; read it again", code="precondition_failed")
