"""Jobs: what is sent to make one (a sync request in either form, a plan, a retry), and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Self, cast
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from app.api.schemas.examples import FULL_FORM, IMAGE, IMAGE_LOG, JOB, PLAN_FORM, SHORT_FORM
from app.api.schemas.explanation import ExplanationOut
from app.api.schemas.pages import PageOut
from app.domain.job import Image, ImageState, Job, JobKind, JobState, Priority
from app.domain.notify_url import Notify
from app.domain.report import CopyStep, PlanAction, RowKind, SelectionReason
from app.domain.request import Labels, Options, Rule, SyncRequest

DRY_RUN = "Copy nothing: the job is of the kind `plan`, and its images say what a copy would do."
_RULE_FIELDS = frozenset(Rule.model_fields)


class SubmittedFields(BaseModel):
    """What is said of any job beside what it does."""

    labels: Labels = Field(default_factory=dict, description="The caller's own, for the filter `?label=key:value`.")
    priority: Priority = Field(default=Priority.NORMAL, description="Which of two waiting jobs goes first.")
    notify: Notify | None = Field(
        default=None, description="Where this job's end is reported, signed with that subscription's secret."
    )


class SubmittedRequest(SubmittedFields, SyncRequest):
    """A sync request, in its short form (one rule, its fields at the top) or its full form (`rules`); never both."""

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


class _JobFields(SubmittedFields):
    options: Options = Field(default_factory=Options)
    dry_run: bool = Field(default=False, description=DRY_RUN)


class JobShortForm(_JobFields, Rule):
    """A sync request of one rule, whose fields are at the top."""

    model_config = ConfigDict(json_schema_extra={"examples": [SHORT_FORM]})


class JobFullForm(_JobFields, SyncRequest):
    """A sync request of any number of rules."""

    model_config = ConfigDict(json_schema_extra={"examples": [FULL_FORM]})


class JobOfPlanForm(SubmittedFields):
    """A plan to be carried out: exactly what it found to be done, as far as nothing has moved since."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [PLAN_FORM]})

    plan: UUID = Field(description="The id of a job of the kind `plan` that is done.")


class JobIn(SubmittedRequest):
    """A sync request in its short or its full form, or a plan to be carried out."""

    dry_run: bool = Field(default=False, description=DRY_RUN)
    plan: UUID | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _from_any_form(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or "plan" not in value:
            return handler(value)
        form = JobOfPlanForm.model_validate(value)
        fields = {name: getattr(form, name) for name in JobOfPlanForm.model_fields}
        return cast("Self", cls.model_construct(**fields, rules=()))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the forms."""
        return described_by(core, handler, JobShortForm, JobFullForm, JobOfPlanForm)


def described_by(core: CoreSchema, handler: GetJsonSchemaHandler, *forms: type[BaseModel]) -> JsonSchemaValue:
    """Return the JSON schema of a model that is written in one of several forms."""
    schema = handler.resolve_ref_schema(handler(core))
    described = {name: schema[name] for name in ("title", "description")}
    schema.clear()
    # Within definitions each becomes a schema of its own, which client generators name; else it would be inlined.
    cores = (core_schema.definitions_schema(form.__pydantic_core_schema__, []) for form in forms)
    schema.update(described, oneOf=[handler(each) for each in cores])
    return schema


def _refuse_mixture(value: Any) -> None:
    for name in value if isinstance(value, dict) else ():
        if name in _RULE_FIELDS:
            message = "`{name}` belongs to the short form; beside `rules` it goes into a rule"
            raise PydanticCustomError("mixed_forms", message, {"name": name, "field": (name,)})


class RetryIn(BaseModel):
    """What of the job to do again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"only": "failed"}]})

    only: Literal["failed", "all"] = "failed"


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
    planned: int
    up_to_date: int
    failed: int
    cancelled: int


class BlobCountsOut(_Out):
    """What became of blobs: found at the destination, mounted there from another repository, or sent."""

    present: int
    mounted: int
    transferred: int


class ByteCountsOut(_Out):
    """Bytes of blobs: needed, dealt with in any way, left to send, sent; and how fast now."""

    total: int
    done: int
    to_send: int = Field(description="Of a plan: what a copy would send.")
    transferred: int
    per_second: int


class ProgressOut(_Out):
    """How far the job is; counts never go backwards."""

    images: ImageCountsOut
    blobs: BlobCountsOut
    bytes: ByteCountsOut
    planned: bool = Field(description="Whether all images of the job are known.")


ACTION = (
    "What was found to be done: `copy` (it is not there), `update` (something else is there, or something is missing "
    "below it), `up_to_date`; `refused` is not copied whatever the registries say, `failed` is unknown."
)
COMPANIONS = "Referrers (signatures, SBOMs) and digest tags that come along."
RULE = "Which rule of the request took it, or needed the list; counted from 0."
KIND = (
    "`image` is a copy; `listing` stands for a list that could not be had (`source` says of what), `refused` for a "
    "copy that planning refused because its destination is another's, or no name."
)


class FailureCountOut(_Out):
    """How many rows of a job failed alike, and the first of them."""

    kind: RowKind = Field(description=KIND)
    code: str
    side: Literal["source", "destination"] | None
    count: int
    source: str = Field(description="The source of the first of them.")
    destination: str
    message: str


class ExecutionErrorOut(_Out):
    """Why an image or a whole job failed: data, never an HTTP status of this service."""

    code: str
    message: str
    side: Literal["source", "destination"] | None = None
    registry: str | None = None
    operation: str | None = None
    status: int | None = Field(default=None, description="HTTP status of the registry's answer.")
    temporary: bool = Field(default=False, description="Whether trying again may help.")
    failures: list[FailureCountOut] = Field(
        default=[], description="Of a job's `images_failed`: how many failed for what, the most frequent first."
    )


class JobWarningOut(_Out):
    """Something to know that stopped nothing, such as a rule that matched nothing (`no_match`)."""

    code: str
    message: str
    count: int = Field(description="How often it came up.")
    first: list[str] = Field(description="The first things it was about: tags, repositories, rules.")
    rule: int | None = Field(description="Which rule, counted from 0, where it is about one.")


class JobPauseOut(_Out):
    """What work of the job waits for, while other work of it may go on."""

    registry: str = Field(description="The registry that asked to be left alone.")
    until: datetime
    reason: str


class PlanTotalsOut(_Out):
    """How many images that have ended were to be copied, updated and so on, and companions beside them."""

    model_config = ConfigDict(serialize_by_alias=True)

    copy_: int = Field(alias="copy")
    update: int
    up_to_date: int
    refused: int
    failed: int
    companions: int


SELECTION = "How many tags and repositories each rule takes or drops for what, once all of them are known."


class SelectionCountOut(_Out):
    """How many tags, or repositories, a rule takes or drops for one reason, and the first of them."""

    rule: int = Field(description="Which rule, counted from 0.")
    kind: Literal["repository", "tag"]
    taken: bool
    reason: SelectionReason = Field(
        description="Taken: `named` (the source lists it), `all`, `include`, `always`, `newest`, `attached` (it "
        "belongs to an image by its digest and comes along). Dropped: `not_included`, `excluded`, `not_newest`, "
        "`created_since`, `min_age`, `artifact_type`, `missing`, `too_few_matches`."
    )
    count: int
    first: list[str]


class CompanionsOut(_Out):
    """How many companions an image has, and the first of their tags or digests."""

    count: int
    first: list[str]


class NotifyOut(_Out):
    """Where this job's end is reported."""

    origin: str = Field(description="The address up to its path, which may be all that is needed to write there.")
    subscription: str = Field(description="The subscription whose secret signs the message.")


class JobOut(_Out):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB]})

    id: str
    kind: JobKind = Field(description="`copy`, or `plan`: a dry run, whose images say what a copy would do.")
    state: JobState
    done: bool = Field(description="Whether the job will not move any more.")
    cancel_requested: bool
    trigger: TriggerOut
    policy: str | None
    plan: str | None = Field(description="The plan that it carries out, and nothing else.")
    retry_of: str | None
    priority: Priority
    labels: dict[str, str]
    notify: NotifyOut | None
    created_by: str
    request: SyncRequest
    progress: ProgressOut
    totals: PlanTotalsOut
    selection: list[SelectionCountOut] = Field(description=SELECTION)
    explanation: ExplanationOut | None = Field(default=None, description="Of the tag asked about by `explain`.")
    error: ExecutionErrorOut | None
    warnings: list[JobWarningOut]
    waiting_for: JobPauseOut | None = Field(description="Set while work of it is put off for a registry's pause.")
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
    kind: RowKind = Field(description=KIND)
    rule: int | None = Field(description=RULE)
    source: str
    destination: str
    state: ImageState
    action: PlanAction | None = Field(description=ACTION)
    reason: str | None = Field(description="Why it is `up_to_date`, where there is more to say.")
    digest: str | None = Field(description="Digest of the image at the source.")
    destination_digest: str | None = Field(
        description="At the destination; another one where platforms were rewritten."
    )
    previous_digest: str | None = Field(description="What the destination tag pointed to before.")
    media_type: str | None
    platforms: list[str]
    companions: CompanionsOut = Field(description=COMPANIONS)
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


class CopyStepOut(_Out):
    """One step of a copy."""

    at: datetime
    event: str = Field(
        description="`compared`, `blob_present`, `blob_mounted`, `blob_transferred`, `upload_resumed`, "
        "`transfer_interrupted`, `manifest_put`, `attempt_failed`; there may be others."
    )
    details: dict[str, str | int | None] = Field(description="What belongs to the step: digest, bytes, offset, code, …")


class ImageLogOut(BaseModel):
    """What was done for an image that failed: the first 50 steps of its last attempt, and the last 150."""

    model_config = ConfigDict(json_schema_extra={"examples": [IMAGE_LOG]})

    steps: list[CopyStepOut]

    @classmethod
    def of(cls, steps: Sequence[CopyStep]) -> Self:
        """Show a log."""
        return cls(steps=[CopyStepOut.model_validate(step) for step in steps])
