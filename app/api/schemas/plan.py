"""What a request would do."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.jobs import ExecutionErrorOut, JobWarningOut
from app.desk.previews import Preview
from app.domain.plan import CopyPreview

PLAN: dict[str, Any] = {
    "images": [
        {
            "source": "docker.io/library/redis:7",
            "destination": "registry.example.com/mirror/redis:7",
            "action": "copy",
            "reason": None,
            "digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
            "previous_digest": None,
            "media_type": "application/vnd.oci.image.index.v1+json",
        }
    ],
    "is_complete": True,
    "warnings": [],
    "error": None,
}


class PlannedImageOut(BaseModel):
    """What would happen to one image."""

    source: str
    destination: str
    action: Literal["copy", "update", "up_to_date", "refuse"]
    reason: str | None
    digest: str | None
    previous_digest: str | None
    media_type: str | None

    @classmethod
    def of(cls, preview: CopyPreview) -> Self:
        """Show a preview."""
        return cls(
            source=str(preview.source),
            destination=str(preview.destination),
            action=preview.action,
            reason=preview.reason,
            digest=preview.digest,
            previous_digest=preview.previous_digest,
            media_type=preview.media_type,
        )


class PlanOut(BaseModel):
    """What a request would do, as both sides are now."""

    model_config = ConfigDict(json_schema_extra={"examples": [PLAN]})

    images: list[PlannedImageOut]
    is_complete: bool = Field(description="False when there were more images, or it took longer, than a preview may.")
    warnings: list[JobWarningOut]
    error: ExecutionErrorOut | None = Field(description="Why planning ended early; a job would fail with it.")

    @classmethod
    def of(cls, preview: Preview) -> Self:
        """Show a preview."""
        return cls(
            images=[PlannedImageOut.of(image) for image in preview.images],
            is_complete=preview.is_complete,
            warnings=[JobWarningOut.model_validate(warning) for warning in preview.warnings],
            error=ExecutionErrorOut.model_validate(preview.error) if preview.error else None,
        )
