"""The body of every answer that is not a success (RFC 9457)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FieldProblem(BaseModel):
    """One thing wrong with one field of the body (`pointer`), or with one parameter (`parameter`)."""

    pointer: str | None = Field(default=None, description="JSON pointer into the body, as the caller wrote it.")
    parameter: str | None = Field(default=None, description="Name of a query parameter, path part or header.")
    code: str = Field(description="Stable; for programs.")
    detail: str = Field(description="A sentence for people.")


class Problem(BaseModel):
    """What went wrong: `code` is stable and for programs, `detail` for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:registry-sync:problem:validation_failed",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "'Team/App' is not a repository name; repositories are lower case",
                    "code": "validation_failed",
                    "request_id": "019ab2c4d5e67f8091a2b3c4d5e6f708",
                    "errors": [
                        {
                            "pointer": "/source",
                            "code": "invalid_repository",
                            "detail": "'Team/App' is not a repository name; repositories are lower case",
                        }
                    ],
                }
            ]
        }
    )

    type: str = Field(description="An URI that names the kind of problem; it ends with `code`.")
    title: str
    status: int
    detail: str
    code: str
    request_id: str = Field(description="Also in the header `X-Request-Id`, and in the service's log.")
    errors: list[FieldProblem] | None = Field(default=None, description="For wrong input: each field by name.")
