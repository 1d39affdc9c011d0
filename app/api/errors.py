"""What an exception becomes on the wire: a status and a problem body (RFC 9457). The only such table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.answers import JsonAnswer
from app.api.fields import as_written, field_problems, path_of, pointer
from app.api.problems import PROBLEM_MEDIA_TYPE, PROBLEMS, TITLES
from app.api.schemas.problems import FieldProblem, Problem
from app.domain.errors import (
    AccessError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    RegistrySyncError,
    UnavailableError,
)
from app.observability import get_logger, without_secrets

UNAVAILABLE_RETRY_SECONDS = 2
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
    415: "unsupported_media_type",
    500: "internal",
}
_DETAIL_OF_CODE = {
    "database_unreachable": "the database does not answer; try again soon",
    "internal": "something went wrong here; the log has it by request_id",
}
"""Where the message is for the log alone: it may name hosts and addresses behind this service."""

log = get_logger(__name__)


def install(app: FastAPI) -> None:
    """Let an application answer with problems only."""
    app.add_exception_handler(RegistrySyncError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_framework)


class UnexpectedErrors:
    """Answers 500 for what nobody foresaw: logged whole, told to the caller as a request id only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; an exception after the answer began can only end the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = False

        async def watched(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception("unexpected_error")
            if began:
                raise
            answer = _problem(Request(scope), 500, detail=_DETAIL_OF_CODE["internal"])
            await answer(scope, receive, send)


async def _of_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegistrySyncError)  # noqa: S101 — what it is registered for
    status = _status_of(error)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="registry-sync"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(UNAVAILABLE_RETRY_SECONDS)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", code=error.code, reason=error.message)
    found = error.errors if isinstance(error, InvalidRequestError) else ()
    body = await request.json() if found else None
    fields = [
        FieldProblem(pointer=pointer(as_written(path_of(field.pointer), body)), code=field.code, detail=field.detail)
        for field in found
    ]
    detail = _DETAIL_OF_CODE.get(error.code, error.message)
    return _problem(request, status, detail=detail, code=error.code, errors=fields, headers=headers)


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 — what it is registered for
    if isinstance(error.body, bytes):
        return _problem(request, 415, detail="the body has to be JSON, with Content-Type: application/json")
    found = error.errors()
    if found and found[0]["type"] == "json_invalid":
        where = f"{found[0]['ctx']['error']} at character {found[0]['loc'][-1]}"
        return _problem(request, 400, code="malformed_json", detail=f"the body is not JSON: {where}")
    fields = field_problems(found, body=error.body)
    detail = f"{len(fields)} things are wrong" if len(fields) > 1 else fields[0].detail
    return _problem(request, 422, code="validation_failed", detail=detail, errors=fields)


async def _of_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 — what it is registered for
    headers = dict(error.headers or {})
    detail = str(error.detail)
    match error.status_code:
        case HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
            detail = f"{request.method} is not among this resource's methods: {headers['Allow']}"
        case HTTPStatus.NOT_FOUND:
            detail = "there is nothing at this path"
        case HTTPStatus.BAD_REQUEST:
            detail = "the body is not JSON"  # the only thing the framework says 400 to, where its reader gives up
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = "the body is larger than this service takes"
        case _:
            pass
    return _problem(request, error.status_code, detail=detail, headers=headers)


def _problem(
    request: Request,
    status: int,
    *,
    detail: str,
    code: str | None = None,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    title = TITLES.get(status) or HTTPStatus(status).phrase
    code = code or _CODE_OF_STATUS.get(status) or title.lower().replace(" ", "_")
    problem = Problem(
        type=f"urn:registry-sync:problem:{code}",
        title=title,
        status=status,
        detail=without_secrets(detail),
        code=code,
        request_id=request.scope.get("request_id", ""),
        errors=list(errors) or None,
    )
    return JsonAnswer(problem, status_code=status, headers=headers, media_type=PROBLEM_MEDIA_TYPE, without_null=True)


def _status_of(error: RegistrySyncError) -> int:
    if error.code in PROBLEMS:
        return PROBLEMS[error.code].status
    return next((status for kind, status in _STATUS_OF_CLASS.items() if isinstance(error, kind)), 500)


def _allowed_methods(request: Request) -> set[str]:
    path, methods = request.scope["path"], set[str]()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(path):
            methods |= route.methods
    return methods | {"HEAD"} if "GET" in methods else methods
