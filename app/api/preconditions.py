"""Preconditions: `ETag` and `If-None-Match` for readers, `If-Match` and merge patches for writers (RFC 9110, 7396)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from app.domain.errors import ConflictError, FieldError, InvalidRequestError

PATCH_ATTEMPTS = 5
"""A patch is applied to what was read; when another change came first, it is applied again (optimistic locking)."""
_ETAG = re.compile(r'"?(\d{1,18})(-[0-9a-f]+)?"?')
"""A version, and what follows it where an answer also shows what is no part of the version."""

Model = TypeVar("Model", bound=BaseModel)
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The `ETag` that was read: change this version or none.")
]


def conditional(request: Request, answer: Response) -> Response:
    """Put an `ETag` on an answer; answer 304 when the caller has just this already (RFC 9110, 13.1.2).

    Unless the answer has one, the tag is made from the body, so that it changes exactly when the body does.
    """
    etag = answer.headers.setdefault("ETag", f'"{_digest_of(answer)}"')
    answer.headers["Cache-Control"] = "private, no-cache"
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if not known & {etag, "*"}:
        return answer
    existing = ("etag", "cache-control", "retry-after")
    return Response(
        status_code=304, headers={name: answer.headers[name] for name in existing if name in answer.headers}
    )


def version_etag(version: int, answer: Response | None = None) -> str:
    """Make the `ETag` of a version; with an answer, one that also changes with what the answer shows beside it."""
    return f'"{version}"' if answer is None else f'"{version}-{_digest_of(answer)}"'


def version_of(if_match: str | None, shown: int | None = None) -> int | None:
    """Return the version that a change names: None for any, -1 for an `If-Match` that is no tag of ours.

    Nothing has the version -1. Without `If-Match` it is the version in the document itself (`shown`), if there is one.
    """
    if if_match is None:
        return shown
    if if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    return int(match[1]) if match else -1


async def put_patched(if_match: str | None, attempt: Callable[[], Awaitable[Response]], *, what: str) -> Response:
    """Read, change and put back, anew where another caller was quicker and no version was named.

    Raise `ConflictError`, with `precondition_failed` where the named version is no more.
    """
    for _ in range(PATCH_ATTEMPTS):
        try:
            return await attempt()
        except ConflictError as error:
            if error.code != "precondition_failed" or version_of(if_match) is not None:
                raise
    raise ConflictError(f"others keep changing this {what}; try again")


def patched(model: type[Model], document: Any, change: Any) -> Model:
    """Apply a merge patch and check what comes of it; raise `RequestValidationError` as for a body of the caller's."""
    changed = merged(document, change)
    if isinstance(change, dict) and "version" in change:  # a patch names its version by `If-Match` alone
        found: list[dict[str, Any]] = [
            {"type": "extra_forbidden", "loc": ("body", "version"), "msg": "unknown field", "input": None}
        ]
        raise RequestValidationError(found, body=changed)
    try:
        return model.model_validate(changed)
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(found, body=changed) from error


def merged(document: Any, change: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(change, dict):
        return change
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def check_name(in_body: str | None, in_path: str, *, what: str) -> None:
    """Refuse a body that names another thing than its path; raise `InvalidRequestError` (`name_mismatch`)."""
    if in_body not in {None, in_path}:
        detail = f"the path says {in_path!r}; {what} is not renamed"
        raise InvalidRequestError(detail, errors=(FieldError("/name", "name_mismatch", detail),))


def _digest_of(answer: Response) -> str:
    return hashlib.sha256(bytes(answer.body)).hexdigest()[:24]
