"""What the body of an answer says is wrong, in words for people.

Control characters, tokens and query strings are taken out, and no more of a foreign text is read than may be shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any

from app.registry.http.message import Headers

_MAX_SAID = 500
_MAX_SHRINKING = 8
"""As much longer than what is shown is what is looked at: blanks, queries and tokens may shrink."""
_MAX_SPEC_CODES = 8
_REDACTED = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}|(https?://[^\s\"'?<>]+)(?:\?[^\s\"'<>]*)?")
"""An URL matches with a query or without: one that failed at its end would be read again from within."""
_MAX_PAGE = 16 * 1024
_MAX_PAGE_WORDS = 200
_REASONS = (
    re.compile(r"<message>([^<]*)</message>", re.IGNORECASE),
    re.compile(r"<title\b[^<>]*>\s*([^<\s][^<]*)</title>", re.IGNORECASE),
    re.compile(r"<body\b[^<>]*>(.*)", re.IGNORECASE | re.DOTALL),
)
"""Where a page or an XML document says what is wrong: S3 and Azure, nginx ("No required SSL certificate was sent")."""
_MARKUP = re.compile(
    r"<(?:script|style)\b[^<]*(?:<(?!/?(?:script|style)\b)[^<]*)*</(?:script|style)>|<[^<>]*>", re.IGNORECASE
)
"""Here as above, nothing that begins is looked through twice: an element ends before the next one of its kind. Without
possessive quantifiers of groups, which Python 3.11.2 (Debian 12) gets wrong."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What the body of an answer says is wrong."""

    codes: tuple[str, ...]
    text: str


def clean(text: str, *, limit: int = _MAX_SAID) -> str:
    """Return a foreign text fit for logs and messages."""
    text = text[: limit * _MAX_SHRINKING]  # the expressions see no more of a foreign text than this
    text = _REDACTED.sub(lambda match: f"{match[1]}[redacted]" if match[1] else str(match[2]), _CONTROL.sub(" ", text))
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}…"


def read_error_body(headers: Headers, body: bytes) -> ErrorBody:
    """Read what the body of an answer says, in whatever form: JSON as the specification has it, a page, a text."""
    errors = list(_spec_errors(body))
    text = "; ".join(" ".join(part for part in pair if part) for pair in errors)
    return ErrorBody(tuple(code for code, _ in errors if code), text or _plain_text(headers, body))


def _spec_errors(body: bytes) -> Iterator[tuple[str, str]]:
    """Read `{"errors": [{"code", "message", "detail"}]}`, or what token servers and clouds send instead."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    if isinstance(nested := document.get("error"), dict):  # Google's APIs
        document = {"code": nested.get("status"), "message": nested.get("message")}
    errors = document.get("errors")
    for error in errors[:_MAX_SPEC_CODES] if isinstance(errors, list) else [document]:
        if not isinstance(error, dict):
            continue
        code = _first_text(error, "code", "error")
        message = _first_text(error, "message", "details", "error_description", "detail", "Message")
        detail = _detail(error.get("detail"))
        message = f"{message} ({detail})" if message and detail and detail not in message else message
        yield re.sub(r"[^A-Z_0-9]", "", code[:64].upper()) if " " not in code else "", clean(message or code)


def _first_text(document: dict[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := document.get(name), str) and value), "")


def _detail(detail: Any) -> str:
    """Put an error's `detail` into words: a text, or the texts of an object (`{"digest": "sha256:…"}`)."""
    if isinstance(detail, str):
        return detail
    pairs = detail.items() if isinstance(detail, dict) else ()
    return ", ".join(f"{name} {value}" for name, value in pairs if isinstance(value, str) and value)


def _plain_text(headers: Headers, body: bytes) -> str:
    """Take the words out of a body that is no JSON: a text, the title or first words of a page, an XML `Message`."""
    kind = headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    text = body[:_MAX_PAGE].decode(errors="replace")
    if kind == "text/plain":
        return clean(text)
    if not kind.endswith(("html", "xml")):
        return ""
    reason = next((found[1] for pattern in _REASONS if (found := pattern.search(text))), text)
    return clean(unescape(_MARKUP.sub(" ", reason)), limit=_MAX_PAGE_WORDS)
