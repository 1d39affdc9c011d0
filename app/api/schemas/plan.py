"""Plans: what a request would do."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from app.api.schemas.examples import FULL_FORM, SHORT_FORM
from app.api.schemas.explanation import ExplanationOut
from app.api.schemas.jobs import (
    ACTION,
    COMPANIONS,
    KIND,
    RULE,
    SELECTION,
    CompanionsOut,
    ExecutionErrorOut,
    JobWarningOut,
    SelectionCountOut,
    SubmittedFields,
    SubmittedRequest,
    described_by,
)
from app.domain.plan import PlanResult
from app.domain.report import PlanAction, RowKind
from app.domain.request import Options, Rule, SyncRequest
from app.services.plans import Preview

AS_JOB = "Make a job of the kind `plan` instead, of any size: its images are the rows."
PLAN: dict[str, Any] = {
    "images": [
        {
            "source": "docker.io/library/redis:7",
            "destination": "registry.example.com/mirror/redis:7",
            "kind": "image",
            "rule": 0,
            "action": "copy",
            "reason": None,
            "digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
            "destination_digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
            "previous_digest": None,
            "media_type": "application/vnd.oci.image.index.v1+json",
            "platforms": [],
            "companions": {"count": 0, "first": []},
            "bytes": {"total": 104334882, "there": 6000770, "to_send": 98334112},
            "error": None,
        }
    ],
    "is_complete": True,
    "selection": [
        {
            "rule": 0,
            "kind": "tag",
            "taken": True,
            "reason": "named",
            "count": 1,
            "first": ["docker.io/library/redis:7"],
        }
    ],
    "explanation": None,
    "warnings": [],
}


class _PlanFields(SubmittedFields):
    options: Options = Field(default_factory=Options)
    as_job: bool = Field(default=False, description=AS_JOB)


class PlanShortForm(_PlanFields, Rule):
    """A request of one rule, to be planned."""

    model_config = ConfigDict(json_schema_extra={"examples": [SHORT_FORM]})


class PlanFullForm(_PlanFields, SyncRequest):
    """A request of any number of rules, to be planned."""

    model_config = ConfigDict(json_schema_extra={"examples": [FULL_FORM]})


class PlanIn(SubmittedRequest):
    """A sync request to be planned, in its short or its full form, as `POST /v1/jobs` takes it."""

    as_job: bool = Field(default=False, description=AS_JOB)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe both forms."""
        return described_by(core, handler, PlanShortForm, PlanFullForm)


class PlannedBytesOut(BaseModel):
    """Bytes of blobs: needed, there already (or mounted from another repository), and to be sent."""

    total: int
    there: int
    to_send: int


class PlannedImageOut(BaseModel):
    """What would happen to one image."""

    kind: RowKind = Field(description=KIND)
    rule: int | None = Field(description=RULE)
    source: str
    destination: str
    action: PlanAction = Field(description=ACTION)
    reason: str | None
    digest: str | None = Field(description="Digest of the image at the source.")
    destination_digest: str | None = Field(
        description="What the destination would have; another one where platforms are rewritten."
    )
    previous_digest: str | None = Field(description="What the destination tag points to now.")
    media_type: str | None
    platforms: list[str]
    companions: CompanionsOut = Field(description=COMPANIONS)
    bytes: PlannedBytesOut
    error: ExecutionErrorOut | None = Field(description="Why it is `failed`, or `refused` whatever the registries say.")

    @classmethod
    def of(cls, row: PlanResult) -> Self:
        """Show a row."""
        tally = row.tally
        amounts = PlannedBytesOut(
            total=tally.bytes_total, there=tally.bytes_done, to_send=tally.bytes_total - tally.bytes_done
        )
        shown = {name: getattr(row, name) for name in cls.model_fields if name not in {"bytes", "companions", "error"}}
        error = ExecutionErrorOut.model_validate(row.error) if row.error else None
        return cls(**shown, bytes=amounts, companions=CompanionsOut.model_validate(row.companions), error=error)


class PlanOut(BaseModel):
    """What a request would do, as both sides are now."""

    model_config = ConfigDict(json_schema_extra={"examples": [PLAN]})

    images: list[PlannedImageOut]
    is_complete: bool = Field(description="False when there were more images, or it took longer, than a preview may.")
    selection: list[SelectionCountOut] = Field(description=SELECTION)
    explanation: ExplanationOut | None = Field(default=None, description="Of the tag asked about by `explain`.")
    warnings: list[JobWarningOut]

    @classmethod
    def of(cls, preview: Preview) -> Self:
        """Show a preview."""
        return cls(
            images=[PlannedImageOut.of(row) for row in preview.images],
            is_complete=preview.is_complete,
            selection=[SelectionCountOut.model_validate(count) for count in preview.selection],
            explanation=ExplanationOut.of(preview.explanation) if preview.explanation else None,
            warnings=[JobWarningOut.model_validate(warning) for warning in preview.warnings],
        )
