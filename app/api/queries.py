"""Query parameters: pages and filters."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.clock import now
from app.domain.duration import parse_duration
from app.domain.job import ImageFilter, ImageState, JobFilter, JobKind, JobState, TriggerType
from app.domain.page import DEFAULT_LIMIT, MAX_LIMIT, PageRequest

MAX_SEARCH = 1_024
"""Characters of a text that is searched for."""
MAX_VALUES = 32
"""Of one repeated parameter."""
_LABEL = re.compile(r"[^:]{1,63}:.{0,255}")


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise PydanticCustomError("invalid_label", "a label is asked for as key:value")
    return text


def _moment(value: Any) -> Any:
    """Read a time, a date (both in UTC unless they say otherwise), or a duration before now; return it in UTC."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError, OverflowError):
        return now() - timedelta(seconds=parse_duration(value))
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the first and last of all times have none in UTC
        message = (
            "this has to be a time such as 2026-11-25T08:30:00Z, a date such as 2026-11-25, or a duration such as 1h"
        )
        raise PydanticCustomError("invalid_time", message) from error


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2026-11-25T08:30:00Z", "2026-11-25", "1h"]}),
]
"""A time of a query: absolute, or so long before now."""


SearchText = Annotated[str, Field(min_length=1, max_length=MAX_SEARCH)]
"""What a text is compared with."""


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PageQuery(_Query):
    """Which page of a list."""

    limit: int = Field(default=DEFAULT_LIMIT, ge=1, description=f"Items a page; more than {MAX_LIMIT} are not given.")
    cursor: str | None = Field(default=None, max_length=1_024, description="`next_cursor` of the page before.")

    @property
    def page(self) -> PageRequest:
        """The page asked for."""
        return PageRequest(limit=min(self.limit, MAX_LIMIT), cursor=self.cursor)


class JobQuery(PageQuery):
    """Which jobs: all that is given has to be true of them."""

    state: list[JobState] = Field(default_factory=list, max_length=MAX_VALUES, description="In any of these states.")
    policy: SearchText | None = None
    label: list[Annotated[str, AfterValidator(_label)]] = Field(
        default_factory=list,
        max_length=MAX_VALUES,
        examples=[["ticket:OPS-1234"]],
        description="With all of these labels.",
    )
    source: SearchText | None = Field(
        default=None,
        examples=["old.azurecr.io/team-a"],
        description="How the source of one of the rules begins, as the job shows it; case does not matter.",
    )
    destination: SearchText | None = Field(
        default=None,
        description="How a destination of one of the rules begins, as the job shows it; case does not matter.",
    )
    created_by: SearchText | None = Field(default=None, description="The name of the API key that submitted it.")
    trigger: TriggerType | None = None
    kind: JobKind | None = Field(default=None, description="`copy`, or `plan`; both by default.")
    since: Moment | None = Field(default=None, description="Submitted at this time or later.")
    until: Moment | None = Field(default=None, description="Submitted before this time.")
    q: SearchText | None = Field(
        default=None,
        description="Text in the id, the policy, the caller, a label's value, the error, or a source or destination of "
        "the rules; case does not matter.",
    )

    @model_validator(mode="after")
    def _has_a_beginning_before_its_end(self) -> Self:
        if self.since and self.until and self.since >= self.until:
            message = "no time is before until ({until}) and not before since ({since})"
            context = {"field": ("until",), "since": self.since.isoformat(), "until": self.until.isoformat()}
            raise PydanticCustomError("empty_period", message, context)
        return self

    @property
    def wanted(self) -> JobFilter:
        """The filter asked for."""
        labels = [text.partition(":") for text in self.label]
        return JobFilter(
            states=tuple(self.state),
            policy=self.policy,
            labels=tuple((key, value) for key, _, value in labels),
            created_by=self.created_by,
            trigger=self.trigger,
            source=self.source,
            destination=self.destination,
            since=self.since,
            until=self.until,
            q=self.q,
            kind=self.kind,
        )


class ImageQuery(PageQuery):
    """Which images of a job."""

    state: list[ImageState] = Field(default_factory=list, max_length=MAX_VALUES, description="In any of these states.")
    q: SearchText | None = Field(
        default=None,
        description="Text in the source, destination, digest, reason or error; case does not matter.",
    )

    @property
    def wanted(self) -> ImageFilter:
        """The filter asked for."""
        return ImageFilter(tuple(self.state), self.q)


class DeleteQuery(_Query):
    """How to delete."""

    force: bool = Field(default=False, description="Whether to delete what policies still use.")
