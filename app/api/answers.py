"""Answers: a model as JSON with a newline at its end, and the headers that let callers ask again cheaply."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response


class JsonAnswer(Response):
    """A model, rendered; the newline is for people with curl."""

    media_type = "application/json"

    def __init__(
        self,
        model: BaseModel,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        without_null: bool = False,
    ) -> None:
        body = model.model_dump_json(exclude_none=without_null) + "\n"
        super().__init__(body, status_code=status_code, headers=headers, media_type=media_type)


def conditional(request: Request, answer: Response) -> Response:
    """Put an `ETag` on an answer; answer 304 when the caller has just this already (RFC 9110, 13.1.2).

    Unless the answer has one, the tag is made from the body, so that it changes exactly when the body does.
    """
    etag = answer.headers.setdefault("ETag", etag_of(bytes(answer.body)))
    answer.headers["Cache-Control"] = "private, no-cache"
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if not known & {etag, "*"}:
        return answer
    kept = ("etag", "cache-control", "retry-after")
    return Response(status_code=304, headers={name: answer.headers[name] for name in kept if name in answer.headers})


def etag_of(body: bytes) -> str:
    """Make a strong validator of a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'
