"""Redaction: foreign texts without the credentials in them, for logs, spans, audit entries and messages of errors."""

from __future__ import annotations

import re
from collections.abc import Callable

HIDDEN = "[hidden]"
_SECRET_TEXTS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\brsk_[0-9A-Za-z]+_[0-9A-Za-z]+"), f"rsk_{HIDDEN}"),
    (re.compile(r"://[^\s/?#@\"']+@"), f"://{HIDDEN}@"),
    # Matches each URL whole, with a query or without: one that failed at its end would be read again from within.
    (
        re.compile(r"(://[^\s?#\"']*)(\?[^\s\"')\]}]+)?"),
        lambda url: f"{url[1]}?{HIDDEN}" if url[2] else url[1],
    ),
    (
        re.compile(r"(?i)\b(password|passwd|secret|token|api_?key)(['\"]?\s*[=:]\s*['\"]?)[^\s,;&'\"}]+"),
        rf"\1\2{HIDDEN}",
    ),
)
"""Applied to foreign text: each takes time that grows with the text only (no ReDoS), which a test holds."""
MAX_TEXT = 16_384
"""Characters of one text that are redacted and logged: enough for a traceback, little enough for any caller's work."""


def without_secrets(text: str) -> str:
    """Return a foreign text without credentials, API keys, URL user parts and URL queries.

    Of a long one its beginning and its end, where a traceback says what went wrong; it is cut before it is searched.
    """
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]}…{text[-MAX_TEXT // 2 :]}"
    for pattern, replacement in _SECRET_TEXTS:
        text = pattern.sub(replacement, text)
    return text
