"""What comes in queries and headers: pages, filters, how long to wait, idempotency keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from app.api.answers import JsonAnswer
from app.api.schemas.pages import Item, PageOut
from app.domain.access import Caller
from app.domain.errors import InvalidRequestError
from app.domain.job import IdempotencyKey, ImageState, JobFilter, JobState
from app.domain.trigger import parse_duration
from app.store.paging import DEFAULT_LIMIT, MAX_LIMIT, Page, PageRequest, T

MAX_WAIT_SECONDS = 60
"""Proxies commonly cut a silent request after 60 to 100 seconds."""
_VERSION_TAG = re.compile(r'"?(\d{1,18})"?')
_LABEL = re.compile(r"[^:]{1,63}:.{0,255}")
_IDEMPOTENCY_KEY = re.compile(r'"?([!#-~]([ !#-~]{0,253}[!#-~])?)"?')
_PREFERRED_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)


def _wait_seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        seconds = int(value) if value.isdecimal() and len(value) < MAX_WAIT_SECONDS else parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_duration", "{reason}", {"reason": str(error)}) from error
    return min(seconds, MAX_WAIT_SECONDS)


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise PydanticCustomError("invalid_label", "a label is asked for as key:value")
    return text


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
    """Which jobs."""

    state: JobState | None = None
    policy: str | None = Field(default=None, max_length=255)
    label: Annotated[str, AfterValidator(_label)] | None = Field(default=None, examples=["ticket:OPS-1234"])
    since: AwareDatetime | None = Field(default=None, description="Submitted at this time or later.")

    @property
    def wanted(self) -> JobFilter:
        """The filter asked for."""
        key, _, value = (self.label or "").partition(":")
        label = (key, value) if self.label else None
        return JobFilter(state=self.state, policy=self.policy, label=label, since=self.since)


class ImageQuery(PageQuery):
    """Which images of a job."""

    state: ImageState | None = None


class WaitQuery(_Query):
    """How long to wait for the job to be done."""

    wait: Annotated[
        float,
        BeforeValidator(_wait_seconds),
        WithJsonSchema({"type": "string", "examples": ["30s"]}),
        Field(
            description="Answer when the job is done, or after this long with the job as it is; at most `60s`. "
            "`Prefer: wait=30` does the same."
        ),
    ] = Field(default_factory=float)

    def seconds(self, request: Request) -> float:
        """How long, by query or by preference (RFC 7240)."""
        preferred = _PREFERRED_WAIT.search(request.headers.get("Prefer", ""))
        return self.wait or (min(int(preferred[1]), MAX_WAIT_SECONDS) if preferred else 0)


IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The `ETag` that was read: change this version or none.")
]


def version_of(if_match: str | None) -> int | None:
    """Read which version is to be changed; None for any, and for what no tag of ours is, one that never was."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = _VERSION_TAG.fullmatch(if_match.strip())
    return int(match[1]) if match else -1


def page_answer(request: Request, page: Page[T], *, out: type[PageOut[Item]], show: Callable[[T], Item]) -> Response:
    """Render a page; the `Link` header (RFC 8288) leads to the next one for callers who read no bodies."""
    headers = {}
    if page.next_cursor is not None:
        following = request.url.include_query_params(cursor=page.next_cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return JsonAnswer(out(items=[show(item) for item in page.items], next_cursor=page.next_cursor), headers=headers)


IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Any string of yours: the same key with the same body is the same job, however often it is sent.",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
    ),
]


def idempotency_key(text: str | None, *, caller: Caller, body: BaseModel | str) -> IdempotencyKey | None:
    """Read the header, quoted (a structured field's string) or bare; raise `InvalidRequestError` for anything else.

    `body` is what must not differ: what was sent, or where nothing is, a text that says what was asked for.
    """
    if text is None:
        return None
    match = _IDEMPOTENCY_KEY.fullmatch(text.strip())
    if match is None:
        detail = "an idempotency key has 1 to 255 printable characters"
        raise InvalidRequestError(detail, code="invalid_idempotency_key")
    sent = body if isinstance(body, str) else body.model_dump(mode="json")
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return IdempotencyKey(caller.name, match[1], hashlib.sha256(canonical.encode()).hexdigest())
