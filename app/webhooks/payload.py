"""Reads untrusted JSON field by field, and collects what a delivery says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from app.domain.errors import HookError
from app.domain.push_event import Dialect, HookDelivery, IgnoredEvent, IgnoredReason, PushEvent
from app.domain.reference import Digest, InvalidReferenceError, Registry, Repository, Tag

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Docker Hub sends a repository's whole description along; all others stay below some kilobytes."""
MAX_EVENTS = 1_000
"""Events in one delivery; senders that batch stop at a hundred or so."""
_MAX_WORD_LENGTH = 255
_MAX_DETAIL_LENGTH = 200
_UNKNOWN_HOST = Registry("unknown.invalid")


class Payload:
    """A JSON object from outside; a field that is missing or of another type reads as empty."""

    __slots__ = ("fields",)

    def __init__(self, fields: Any = None) -> None:
        self.fields: dict[str, Any] = fields if isinstance(fields, dict) else {}

    def __bool__(self) -> bool:
        return bool(self.fields)

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def at(self, *path: str) -> Payload:
        """Go down to an object."""
        found = self
        for key in path:
            found = Payload(found.fields.get(key))
        return found

    def text(self, *path: str) -> str:
        """Read a string."""
        value = self.at(*path[:-1]).fields.get(path[-1])
        return value if isinstance(value, str) else ""

    def first_text(self, *keys: str) -> str:
        """Read the first of several fields that is a string with something in it."""
        return next((text for key in keys if (text := self.text(key))), "")

    def moment(self, *path: str) -> datetime | None:
        """Read a time: ISO 8601 with a zone, or seconds since 1970, whole or not."""
        value = self.at(*path[:-1]).fields.get(path[-1])
        try:
            if isinstance(value, str):
                moment = datetime.fromisoformat(value)
                return moment.astimezone(UTC) if moment.tzinfo else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return None
        return None

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list's strings, or an object's keys."""
        value = self.fields.get(key)
        return tuple(item for item in _bounded(value) if isinstance(item, str))

    def objects(self, key: str) -> tuple[Payload, ...]:
        """Read a list of objects; what is no object in it reads as an empty one."""
        value = self.fields.get(key)
        return tuple(Payload(item) for item in _bounded(value)) if isinstance(value, list) else ()


def load_object(body: bytes | str) -> Payload:
    """Parse JSON that must be an object; raise `HookError`."""
    document = _load(body)
    if not isinstance(document, dict):
        raise malformed("the body is not a JSON object")
    return Payload(document)


def load_objects(body: bytes | str) -> tuple[Payload, ...]:
    """Parse JSON that is an object or a list of them; raise `HookError`."""
    document = _load(body)
    if not isinstance(document, dict | list):
        raise malformed("the body is neither a JSON object nor a list of them")
    items = document if isinstance(document, list) else [document]
    return tuple(Payload(item) for item in _bounded(items))


def load_object_or_form(body: bytes, headers: Mapping[str, str]) -> Payload:
    """Parse JSON that may stand in the form field `payload`, as GitHub and Gitea send it when set so."""
    if not headers.get("content-type", "").lower().startswith("application/x-www-form-urlencoded"):
        return load_object(body)
    if len(body) > MAX_BODY_BYTES:
        raise too_large()
    try:
        fields = dict(parse_qsl(body.decode("ascii"), max_num_fields=16, errors="strict"))
    except ValueError as error:
        raise malformed("the form in the body can't be read") from error
    return load_object(fields.get("payload", ""))


def malformed(message: str) -> HookError:
    """Make the error for a body that is not what its sender documents."""
    return HookError(message, code="hook_malformed")


def too_large() -> HookError:
    """Make the error for a body no sender would send."""
    return HookError(f"a delivery has at most {MAX_BODY_BYTES} bytes and {MAX_EVENTS} events", code="hook_too_large")


def host_of_url(url: str) -> str:
    """Read the `host[:port]` of an address, which is never visited; empty where there is none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.hostname or ''}{port}"


class Reading:
    """Collects the pushes one delivery tells of, and what is none."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._events: list[PushEvent] = []
        self._ignored: list[IgnoredEvent] = []

    def push(
        self,
        *,
        repository: str,
        action: str,
        tag: str = "",
        digest: str = "",
        subject: str = "",
        host: str = "",
        event_id: str = "",
        occurred_at: datetime | None = None,
        user_agent: str = "",
    ) -> None:
        """Take over a push of a manifest, if what it names can be a repository, a tag, a digest.

        A referrer that was pushed by its digest alone stands under the tag that the list of its `subject` would have.
        """
        if ":" in tag and not digest:  # Harbor and Gitea put the digest there when a push had no tag
            tag, digest = "", tag
        elif tag == digest:
            tag = ""
        if not repository or not (tag or digest):
            self.ignore("incomplete", "the event names no repository, or neither a tag nor a digest")
            return
        try:
            event = PushEvent(
                dialect=self._dialect,
                repository=Repository(_UNKNOWN_HOST, repository).path,
                tag=Tag(tag) if tag else _list_of_referrers(subject),
                digest=Digest(digest) if digest else None,
                host=_host(host),
                action=_word(action) or "push",
                event_id=_identifier(event_id),
                occurred_at=occurred_at,
                user_agent=_word(user_agent),
            )
        except InvalidReferenceError as error:
            self.ignore("invalid_name", str(error))
            return
        self._events.append(event)

    def ignore(self, reason: IgnoredReason, detail: str) -> None:
        """Note something that is no push of a manifest."""
        self._ignored.append(IgnoredEvent(reason, _word(detail, limit=_MAX_DETAIL_LENGTH) or reason))

    def delivery(self) -> HookDelivery:
        """Hand over what was collected."""
        return HookDelivery(tuple(self._events), tuple(self._ignored))


def _load(body: bytes | str) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise too_large()
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise malformed("the body is not JSON") from error


def _bounded(value: Any) -> list[Any]:
    if not isinstance(value, list | dict):
        return []
    if len(value) > MAX_EVENTS:
        raise too_large()
    return list(value)


def _list_of_referrers(subject: str) -> Tag | None:
    """Return the tag (referrers tag schema) of a digest; None for what is none, or is cut off there (sha512)."""
    try:
        digest = Digest(subject) if subject else None
    except InvalidReferenceError:
        return None
    return Tag(f"sha256-{digest.encoded}") if digest is not None and digest.algorithm == "sha256" else None


def _host(text: str) -> Registry | None:
    try:
        return Registry(text) if text else None
    except InvalidReferenceError:
        return None


def _identifier(text: str) -> str | None:
    if not text or re.fullmatch(r"[\x20-\x7e]{1,255}", text):
        return text or None
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def _word(text: str, *, limit: int = _MAX_WORD_LENGTH) -> str | None:
    shown = re.sub(r"[^\x20-\x7e]", "?", text[:limit])
    return shown or None
