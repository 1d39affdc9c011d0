"""The OpenAPI document: FastAPI's, with our problems in the place of its own error bodies, each described once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.api.problems import PROBLEM_MEDIA_TYPE, problems
from app.api.schemas.imports import IMPORTS
from app.api.schemas.problems import Problem

_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")
_FIRST_ERROR = 400
_FASTAPIS_WORD = "Successful Response"
_SUCCESSES = {"200": "OK", "201": "Created", "202": "Accepted", "204": "No Content"}


def operation_id(route: APIRoute) -> str:
    """Call an operation by its function, so that generated clients read well."""
    return route.name


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
            servers=app.servers,
            license_info=app.license_info,
            separate_input_output_schemas=app.separate_input_output_schemas,
        )
        _describe(document["components"])
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"] = _responses(operation["responses"], document["components"])
                operation.setdefault("security", [])  # said outright: this one wants no key
        app.openapi_schema = document
    return app.openapi_schema


def serve_document(app: FastAPI) -> None:
    """Serve the document as bytes that are made once: it is long, and asked for without a key."""
    url = app.openapi_url or ""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) != url]

    @cache
    def document() -> tuple[bytes, str]:
        content = json.dumps(openapi_of(app), ensure_ascii=False, separators=(",", ":")).encode()
        return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def serve(request: Request) -> Response:
        content, etag = document()
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(content, media_type="application/json", headers=headers)

    app.add_route(url, serve, include_in_schema=False)


def _describe(components: dict[str, Any]) -> None:
    """Add the schemas that FastAPI does not see: problems, and the files that an import takes."""
    for name in _FASTAPIS_OWN:
        components["schemas"].pop(name, None)
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Problem, "serialization")]
    models += [(body, "validation") for body in IMPORTS.values()]
    _, described = models_json_schema(models, ref_template="#/components/schemas/{model}")
    components["schemas"].update(described["$defs"])
    for name, examples in _examples_of(BaseModel):
        if name in components["schemas"]:
            components["schemas"][name]["examples"] = examples
    components["responses"] = {}


def _examples_of(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield the examples of all models below one, by name: FastAPI leaves out what is null in them."""
    for below in model.__subclasses__():
        extra = below.model_config.get("json_schema_extra")
        if isinstance(extra, dict) and "examples" in extra:
            yield below.__name__, extra["examples"]
        yield from _examples_of(below)


def _responses(responses: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Sort an operation's answers, and let those that are problems point to where each is described."""
    result = {}
    for status, response in sorted(responses.items()):
        if int(status) >= _FIRST_ERROR:
            result[status] = {"$ref": _described(status, response, components["responses"])}
        elif response["description"] == _FASTAPIS_WORD:
            result[status] = response | {"description": _SUCCESSES[status]}
        else:
            result[status] = response
    return result


def _described(status: str, response: dict[str, Any], described: dict[str, Any]) -> str:
    content = response.get("content", {})
    if PROBLEM_MEDIA_TYPE not in content:  # FastAPI's own word for a wrong parameter
        return _described(status, problems("validation_failed", is_public=True)[int(status)], described)
    name = ".".join([status, *sorted(content[PROBLEM_MEDIA_TYPE]["examples"])])
    problem = {PROBLEM_MEDIA_TYPE: content[PROBLEM_MEDIA_TYPE]}
    described.setdefault(name, {"description": response["description"], "content": problem})
    return f"#/components/responses/{name}"
