"""What an exception becomes on the wire: a status and a problem body (RFC 9457). The only such table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.dependencies import JsonResponse
from app.api.field_errors import as_written, field_problems, path_of, pointer
from app.api.known_fields import KnownFields
from app.api.problems import PROBLEM_MEDIA_TYPE, PROBLEMS, TITLES
from app.api.schemas.problems import FieldProblem, Problem
from app.domain.errors import (
    AccessError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    RegistrySyncError,
    TooManyError,
    UnavailableError,
)
from app.net.http_headers import PRODUCT
from app.observability import get_logger
from app.redaction import without_secrets

UNAVAILABLE_RETRY_SECONDS = 2
MOST_FIELDS = 100
"""Fields that an answer lists: a body may have ten thousand that are wrong."""
UNEXPECTED = "something went wrong here; the log has it by request_id"
_STATUS_OF_CLASS: dict[type[RegistrySyncError], int] = {
    InvalidRequestError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    AccessError: 401,
    UnavailableError: 503,
}
_CODE_OF_STATUS = {
    400: "malformed_json",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    501: "method_not_implemented",
    500: "internal",
}
_DETAIL_OF_CODE = {
    "database_unreachable": "the database does not answer; try again soon",
    "internal": UNEXPECTED,
}
"""Where the message is for the log alone: it may name hosts and addresses behind this service."""

log = get_logger(__name__)


def install(app: FastAPI) -> None:
    """Register the error handlers: an application then answers with problems only."""
    app.add_exception_handler(RegistrySyncError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_framework)


async def _of_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegistrySyncError)  # noqa: S101 — what it is registered for
    status = status_of(error)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = f'Bearer realm="{PRODUCT}"'
    if isinstance(error, TooManyError):
        headers["Retry-After"] = str(error.retry_seconds)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(UNAVAILABLE_RETRY_SECONDS)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", code=error.code, reason=error.message)
    found = error.errors if isinstance(error, InvalidRequestError) else ()
    body = await _body_of(request) if found else None
    fields = [
        FieldProblem(
            pointer=None if field.parameter else pointer(as_written(path_of(field.pointer), body)),
            parameter=field.parameter,
            code=field.code,
            detail=field.detail,
        )
        for field in found
    ]
    detail = _DETAIL_OF_CODE.get(error.code, error.message)
    return problem_response(request, status, detail=detail, code=error.code, errors=fields, headers=headers)


async def _body_of(request: Request) -> Any:
    """Return the body as the caller wrote it; None where it is no JSON, but a file alone."""
    try:
        return json.loads(await request.body())  # as it came: `request.json()` may be what was made of it
    except ValueError:
        return None


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 — what it is registered for
    if isinstance(error.body, bytes):
        return problem_response(request, 415, detail="the body has to be JSON, with Content-Type: application/json")
    found = error.errors()
    if found and found[0]["type"] == "json_invalid":
        where = f"{found[0]['ctx']['error']} at character {found[0]['loc'][-1]}"
        return problem_response(request, 400, code="malformed_json", detail=f"the body is not JSON: {where}")
    count = len(found)
    found = found[:MOST_FIELDS]
    is_unknown = any(one["type"] == "extra_forbidden" for one in found)
    known = await asyncio.to_thread(_known_fields, request) if is_unknown else None  # a third of a second, once
    fields = field_problems(found, body=error.body, known=known)
    places = ", ".join(field.parameter or field.pointer or "the body" for field in fields)
    if count > MOST_FIELDS:
        detail = f"{count} things are wrong, among them: {places}"
    else:
        detail = f"{len(fields)} things are wrong: {places}" if len(fields) > 1 else fields[0].detail
    return problem_response(request, 422, code="validation_failed", detail=detail, errors=fields)


async def _of_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 — what it is registered for
    headers = dict(error.headers or {})
    detail = str(error.detail)
    match error.status_code:
        case HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_methods_at(request, request.scope["path"])))
            detail = f"{request.method} is not among this resource's methods: {headers['Allow']}"
        case HTTPStatus.NOT_FOUND:
            detail = _detail_of_path(request)
        case HTTPStatus.BAD_REQUEST:
            detail = "the body is not JSON"  # the only thing the framework says 400 to, where its reader gives up
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = "the body is larger than this service takes"
        case _:
            pass
    return problem_response(request, error.status_code, detail=detail, headers=headers)


def problem_response(
    request: Request,
    status: int,
    *,
    detail: str,
    code: str | None = None,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the response for one error: `detail` without secrets, `code` by the status where none is given."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    code = code or _CODE_OF_STATUS.get(status) or title.lower().replace(" ", "_")
    problem = Problem(
        type=f"urn:{PRODUCT}:problem:{code}",
        title=title,
        status=status,
        detail=without_secrets(detail),
        code=code,
        request_id=request.scope.get("request_id", ""),
        errors=list(errors) or None,
    )
    return JsonResponse(problem, status_code=status, headers=headers, media_type=PROBLEM_MEDIA_TYPE, without_null=True)


def status_of(error: RegistrySyncError) -> int:
    """Return the HTTP status for an error of ours."""
    if error.code in PROBLEMS:
        return PROBLEMS[error.code].status
    return next((status for kind, status in _STATUS_OF_CLASS.items() if isinstance(error, kind)), 500)


def _known_fields(request: Request) -> KnownFields | None:
    document = request.app.openapi()
    path = getattr(request.scope.get("route"), "path_format", "")
    operation = document["paths"].get(path, {}).get(request.method.lower())
    return KnownFields(document, operation) if operation else None


def _detail_of_path(request: Request) -> str:
    """Say which path was meant, or where all of them are described."""
    path = request.scope["path"]
    shorter = path.rstrip("/")
    if path != shorter and _methods_at(request, shorter):
        return f"there is nothing at this path; leave out the '/' at the end: {shorter}"
    routes = (route.path for route in iter_route_contexts(request.app.routes))
    paths = sorted(route for route in routes if route and route.startswith("/v1/"))
    meant = f"/v1{path}" if f"/v1{path}" in paths else next(iter(get_close_matches(path, paths, n=1)), None)
    advice = f"did you mean {meant}? " if meant else ""
    return f"there is nothing at this path; {advice}all paths are described at /docs and /openapi.json"


def _methods_at(request: Request, path: str) -> set[str]:
    methods = set[str]()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(path):
            methods |= route.methods
    return methods | {"HEAD"} if "GET" in methods else methods
