"""Events of one job."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.examples import IMAGE, JOB
from app.api.schemas.jobs import ImageOut, JobOut, ProgressOut
from app.api.schemas.pages import PageOut
from app.domain.job import Image, Job, JobEvent, Progress

EVENT_STREAM = (
    f"id: 7\nevent: job\ndata: {json.dumps(JOB)}\n\nid: 8\nevent: image\ndata: {json.dumps(IMAGE)}\n\n"
    f"id: 9\nevent: progress\ndata: {json.dumps(JOB['progress'])}\n\n"
)


class EventOut(BaseModel):
    """Something about the job changed, and what it is now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": 9, "event": "progress", "data": JOB["progress"]}]})

    id: int = Field(description="Number of the event; rises within a job.")
    event: Literal["job", "image", "progress", "end"] = Field(description="`end` is the last: the job is done.")
    data: JobOut | ImageOut | ProgressOut = Field(description="The job (`job`, `end`), an image, or the progress.")

    @classmethod
    def of(cls, event: JobEvent) -> EventOut:
        """Show an event."""
        data: JobOut | ImageOut | ProgressOut
        match event.data:
            case Job():
                data = JobOut.of(event.data)
            case Image():
                data = ImageOut.of(event.data)
            case Progress():
                data = ProgressOut.model_validate(event.data)
        return cls.model_construct(id=event.number, event=event.name, data=data)


class EventPage(PageOut[EventOut]):
    """Events of one job, in order."""
