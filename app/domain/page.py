"""Keyset pages: a page begins exactly where the one before it ended, whatever came or went in between."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.domain.errors import InvalidRequestError

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MOST = 2**63

SortKey = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many items are wanted, and after which; the cursor is the one a page before gave."""

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def after(self, bound_to: str) -> SortKey | None:
        """Read the cursor; raise `InvalidRequestError` for one that is not ours, or is another list's."""
        if self.cursor is None:
            return None
        try:
            stamp, *key = json.loads(base64.urlsafe_b64decode(self.cursor.encode() + b"=="))
        except (ValueError, TypeError, RecursionError) as error:
            raise _invalid_cursor("it is not one that this list gave") from error
        if not isinstance(stamp, str) or not all(_fits(part) for part in key):
            raise _invalid_cursor("it is not one that this list gave")
        if stamp != _stamp(bound_to, key):
            raise _invalid_cursor("the list's filter has changed since")
        return tuple(key)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list, and the cursor that leads to those after them."""

    items: tuple[T, ...]
    next_cursor: str | None = None


def cursor_after(key: SortKey, *, bound_to: str) -> str:
    """Make the cursor that goes on after an item; it fits the list with this filter only."""
    document = json.dumps([_stamp(bound_to, list(key)), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def _fits(part: object) -> bool:
    """Return whether a database takes what a cursor says: the stamp is no signature."""
    return "\0" not in part if isinstance(part, str) else isinstance(part, int) and abs(part) < _MOST


def _stamp(bound_to: str, key: list[int | str]) -> str:
    return hashlib.sha256(json.dumps([bound_to, key]).encode()).hexdigest()[:16]


def _invalid_cursor(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"the cursor can't be used: {reason}; begin again without it", code="invalid_cursor")
