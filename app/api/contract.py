"""The OpenAPI document: FastAPI's, with our problems in the place of its own error bodies."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.api.problems import PROBLEM_MEDIA_TYPE, PROBLEM_SCHEMA
from app.api.schemas.problems import Problem

_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """Make the document, once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _describe_problems(document)
        app.openapi_schema = document
    return app.openapi_schema


def _describe_problems(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in _FASTAPIS_OWN:
        schemas.pop(name, None)
    _, described = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    schemas.update(described["$defs"])
    for operations in document["paths"].values():
        for operation in operations.values():
            unprocessable = operation["responses"].get("422")
            if unprocessable and PROBLEM_MEDIA_TYPE not in unprocessable["content"]:
                unprocessable["content"] = {PROBLEM_MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}
            elif unprocessable:
                unprocessable["content"].pop("application/json", None)
