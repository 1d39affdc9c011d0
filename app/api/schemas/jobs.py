"""Jobs: what a caller asks for, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from app.api.schemas.examples import FULL_FORM, IMAGE, JOB, SHORT_FORM
from app.api.schemas.pages import PageOut
from app.domain.address import Notify
from app.domain.job import Image, ImageState, Job, JobState, Priority
from app.domain.request import Labels, Rule, SyncRequest

_RULE_FIELDS = frozenset(Rule.model_fields)


class JobIn(SyncRequest):
    """A sync request, in its short form (one rule, its fields at the top) or its full form (`rules`); never both."""

    labels: Labels = Field(default_factory=dict, description="Yours to find the job by: `?label=key:value`.")
    priority: Priority = Field(default=Priority.NORMAL, description="Which of two waiting jobs goes first.")
    notify: Notify | None = Field(
        default=None, description="Where to tell of this job's end, signed with that subscription's secret."
    )

    @property
    def request(self) -> SyncRequest:
        """What the job does."""
        return SyncRequest.model_construct(rules=self.rules, options=self.options)

    @model_validator(mode="wrap")
    @classmethod
    def _from_either_form(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or "rules" in value:
            _refuse_mixture(value)
            return handler(value)
        rule = {name: value[name] for name in value if name in _RULE_FIELDS}
        return handler({**{name: value[name] for name in value if name not in _RULE_FIELDS}, "rules": [rule]})

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe both forms."""
        schema = handler.resolve_ref_schema(handler(core))
        rule = handler.resolve_ref_schema(schema["properties"]["rules"]["items"])
        shared = {name: schema["properties"][name] for name in ("options", "labels", "priority", "notify")}
        described = {"type": "object", "additionalProperties": False}
        short = {
            **described,
            "title": "Short form",
            "properties": rule["properties"] | shared,
            "required": ["source", "destination"],
            "examples": [SHORT_FORM],
        }
        full = {
            **described,
            "title": "Full form",
            "properties": {"rules": schema["properties"]["rules"]} | shared,
            "required": ["rules"],
            "examples": [FULL_FORM],
        }
        for key in ("type", "properties", "required", "additionalProperties"):
            schema.pop(key, None)
        schema["oneOf"] = [short, full]
        return schema


def _refuse_mixture(value: Any) -> None:
    for name in value if isinstance(value, dict) else ():
        if name in _RULE_FIELDS:
            message = "`{name}` belongs to the short form; beside `rules` it goes into a rule"
            raise PydanticCustomError("mixed_forms", message, {"name": name, "field": (name,)})


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class TriggerOut(_Out):
    """What made the job."""

    type: Literal["api", "schedule", "push", "retry"]
    event_id: str | None = None


class ImageCountsOut(_Out):
    """How many of the job's images are in which state; `total` grows until the job is `planned`."""

    total: int
    queued: int
    running: int
    copied: int
    up_to_date: int
    failed: int
    cancelled: int


class BlobCountsOut(_Out):
    """What became of blobs: found at the destination, mounted there from another repository, or sent."""

    present: int
    mounted: int
    transferred: int


class ByteCountsOut(_Out):
    """Bytes of blobs: needed, dealt with in any way, sent; and how fast now."""

    total: int
    done: int
    transferred: int
    per_second: int


class ProgressOut(_Out):
    """How far the job is; counts never go backwards."""

    images: ImageCountsOut
    blobs: BlobCountsOut
    bytes: ByteCountsOut
    planned: bool = Field(description="Whether all images of the job are known.")


class ExecutionErrorOut(_Out):
    """Why an image or a whole job failed: data, never an HTTP status of this service."""

    code: str
    message: str
    side: Literal["source", "destination"] | None = None
    registry: str | None = None
    operation: str | None = None
    status: int | None = Field(default=None, description="HTTP status of the registry's answer.")
    temporary: bool = Field(default=False, description="Whether trying again may help.")


class JobWarningOut(_Out):
    """Something to know that stopped nothing, such as a rule that matched nothing (`no_match`)."""

    code: str
    message: str


class NotifyOut(_Out):
    """Where this job's end is told."""

    origin: str = Field(description="The address up to its path, which may be all that is needed to write there.")
    subscription: str = Field(description="Whose secret signs.")


class JobOut(_Out):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB]})

    id: str
    state: JobState
    done: bool = Field(description="Whether the job will not move any more.")
    cancel_requested: bool
    trigger: TriggerOut
    policy: str | None
    retry_of: str | None
    priority: Priority
    labels: dict[str, str]
    notify: NotifyOut | None
    created_by: str
    request: SyncRequest
    progress: ProgressOut
    error: ExecutionErrorOut | None
    warnings: list[JobWarningOut]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    version: int

    @classmethod
    def of(cls, job: Job) -> Self:
        """Show a job."""
        return cls.model_validate(job)


class JobPage(PageOut[JobOut]):
    """Jobs, newest first."""


class ImageOut(_Out):
    """One image the job copies: one source to one destination."""

    model_config = ConfigDict(json_schema_extra={"examples": [IMAGE]})

    id: str
    source: str
    destination: str
    state: ImageState
    reason: str | None = Field(description="Why it is `up_to_date`, where there is more to say.")
    digest: str | None = Field(description="At the source.")
    destination_digest: str | None = Field(
        description="At the destination; another one where platforms were rewritten."
    )
    previous_digest: str | None = Field(description="What the destination tag pointed to before.")
    media_type: str | None
    platforms: list[str]
    blobs: BlobCountsOut
    bytes: ByteCountsOut
    attempts: int
    error: ExecutionErrorOut | None
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, image: Image) -> Self:
        """Show an image."""
        return cls.model_validate(image)


class ImagePage(PageOut[ImageOut]):
    """Images of one job, in the order they were planned."""


class RetryIn(BaseModel):
    """What of the job to do again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"only": "failed"}]})

    only: Literal["failed", "all"] = "failed"
