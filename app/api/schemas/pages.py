"""One page of a list."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item", bound=BaseModel)


class PageOut(BaseModel, Generic[Item]):
    """Some items of a list, and how to ask for the next ones."""

    items: list[Item]
    next_cursor: str | None = Field(
        default=None, description="Give it back as `?cursor=` with the same filters; null on the last page."
    )
