"""Redaction: foreign texts without the credentials in them, for logs, spans, audit entries and messages of errors.

`without_secrets` knows the usual forms. What a registry echoes, such as a request on a debugging proxy's error page, is
searched for the secrets themselves (`EchoGuard`).
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

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
_MIN_SECRET = 4
"""Shorter ones would be found in any text."""
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


class EchoGuard:
    """Takes the secrets of one registry entry, and those issued for it, out of what its registry says."""

    def __init__(self, entry: BaseModel, sent: Iterable[str] = ()) -> None:
        """Take what was entered, and values of `Authorization` headers that were sent: pairs, tokens."""
        known = {form for secret in _secrets(entry) for form in _forms(secret)}
        for scheme, _, value in (authorization.partition(" ") for authorization in sent):
            known.update(_forms(value), _forms(_password(value)) if scheme.lower() == "basic" else ())
        self._known = sorted(known, key=len, reverse=True)
        """Longest first: one may be part of another."""

    def clean(self, text: str) -> str:
        """Return a text without the secrets."""
        return self.clean_body(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")

    def clean_body(self, body: bytes) -> bytes:
        """Return a body without the secrets."""
        for secret in self._known:
            body = body.replace(secret, HIDDEN.encode())
        return body


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))


def _password(pair: str) -> str:
    try:
        return base64.b64decode(pair).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _forms(secret: str) -> tuple[bytes, ...]:
    """Return a secret as it may stand in a text, in JSON, in a URL, in a page."""
    if len(secret) < _MIN_SECRET:
        return ()
    forms = {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), html.escape(secret)}
    return tuple(form.encode(errors="surrogatepass") for form in forms)
