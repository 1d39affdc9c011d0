"""From what a registry answered, or did not, to a `RegistryError`: the code, and whether trying again may help.

The only place that decides `temporary`. Messages are for people: control characters, tokens, query strings and
addresses are taken out of whatever a registry or the system said.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from app.domain.errors import RegistryError
from app.registry.trust import Standing
from app.registry.url import Url

TEMPORARY_STATUSES = frozenset({408, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524, 530})
"""What go-containerregistry tries again, and the rest of Cloudflare's own answers for an origin that is down."""
_MAX_SAID = 500
_MAX_SPEC_CODES = 8
_REDACTED = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}|(https?://[^\s\"'?<>]+)\?[^\s\"'<>]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_TAG_KEPT = re.compile(
    r"immutab|cannot be overwritten|already exists|does not allow updating|overwrit|protected tag|is locked|disallowed",
    re.IGNORECASE,
)
"""How registries say that a tag may not be moved: Harbor, Docker Hub, GitLab, ECR ("immutable", "already exists"),
Nexus ("does not allow updating assets"), Artifactory ("overwrite"), ACR ("the operation is disallowed")."""
_TAG_KEPT_STATUSES = frozenset({400, 403, 405, 409, 412})
_MISSING_REPOSITORY = re.compile(r"(repository|project|namespace)\b.*\b(not found|not exist|unknown)", re.IGNORECASE)
_MISSING = re.compile(
    r"\bnot found|does ?n.t exist|does not exist|\b(manifest|name|repository|blob) unknown", re.IGNORECASE
)
"""Some answer 403 or 400 with a text that means 404: Red Hat (`UNKNOWN: Not Found`), Harbor, Artifactory."""
_MISSING_CODES = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND", "NOTFOUND"})

LOG_IN = "log_in"
LIST_REPOSITORIES = "list_repositories"
_ELSEWHERE = frozenset({LOG_IN, LIST_REPOSITORIES})
"""Asking for a token, or an API of its own, of a registry: the answers come from other hosts by nature."""
UPLOADS = frozenset({"send_blob", "upload_status", "start_upload", "mount_blob"})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose (bounded) body was read."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: Url
    """Where it came from, after redirects."""
    standing: Standing


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of which registry, for messages and codes."""

    registry: str
    operation: str
    moves_tag: bool = False


def failure_of_answer(answer: Answer, asked: Asked, *, retry_after: float | None = None) -> RegistryError:
    """Make the error for an answer nobody expected."""
    said = _listen(answer)
    code, temporary = _judge(answer, asked, said)
    where = asked.registry if answer.standing is Standing.HOME else f"{answer.url.authority} (for {asked.registry})"
    message = f"{where} answered {answer.status}{': ' if said.text else ''}{said.text}"
    return RegistryError(
        message,
        registry=asked.registry,
        operation=asked.operation,
        code=code,
        status=answer.status,
        spec_codes=said.codes,
        temporary=temporary,
        retry_after=retry_after,
    )


def failure_of_exception(error: Exception, asked: Asked) -> RegistryError:
    """Make the error for no answer at all, or half of one."""
    code, temporary, what = _no_answer(error)
    return make_failure(f"{asked.registry}: {what}", asked, code=code, temporary=temporary)


def make_failure(
    message: str, asked: Asked, *, code: str, temporary: bool = False, retry_after: float | None = None
) -> RegistryError:
    """Make an error that we ourselves found a reason for."""
    return RegistryError(
        message,
        registry=asked.registry,
        operation=asked.operation,
        code=code,
        temporary=temporary,
        retry_after=retry_after,
    )


def clean(text: str, *, limit: int = _MAX_SAID) -> str:
    """Make a stranger's text fit for logs and messages."""
    text = _REDACTED.sub(lambda match: f"{match[1]}[redacted]" if match[1] else str(match[2]), _CONTROL.sub(" ", text))
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}…"


def is_missing(error: RegistryError) -> bool:
    """Whether an error says that what was asked for is not there."""
    return error.code in {"reference_not_found", "repository_missing"}


@dataclass(frozen=True, slots=True)
class _Said:
    """What the body of an answer says is wrong."""

    codes: tuple[str, ...]
    text: str


def _listen(answer: Answer) -> _Said:
    errors = list(_spec_errors(answer.body))
    text = "; ".join(" ".join(part for part in pair if part) for pair in errors)
    return _Said(tuple(code for code, _ in errors if code), text or _plain_text(answer))


def _judge(answer: Answer, asked: Asked, said: _Said) -> tuple[str, bool]:
    status, codes = answer.status, said.codes
    if answer.standing is not Standing.HOME and asked.operation not in _ELSEWHERE and status in {400, 401, 403, 410}:
        return "denied", True  # a signed URL that ran out; the registry gives a new one
    if status == httpx.codes.TOO_MANY_REQUESTS or "TOOMANYREQUESTS" in codes:
        return "rate_limited", True
    if status in TEMPORARY_STATUSES:
        return "registry_unreachable", True
    if asked.moves_tag and status in _TAG_KEPT_STATUSES and _keeps_tag(status, said):
        return "tag_immutable", False
    if status == httpx.codes.UNAUTHORIZED:
        return ("denied" if "DENIED" in codes else "unauthorized"), False
    if status == httpx.codes.NOT_FOUND or _MISSING_CODES.intersection(codes) or _MISSING.search(said.text):
        return _judge_missing(asked, said)
    if status in {403, 405, 412, 451, 507} or codes == ("DENIED",):
        return "denied", False
    return _judge_refusal(status, asked), False


def _judge_missing(asked: Asked, said: _Said) -> tuple[str, bool]:
    match asked.operation:
        case "list_tags" | "start_upload" | "mount_blob":
            return "repository_missing", False
        case "put_manifest":
            missing = "NAME_UNKNOWN" in said.codes or _MISSING_REPOSITORY.search(said.text)
            return ("repository_missing" if missing else "manifest_rejected"), False
        case "send_blob" | "upload_status":
            return "upload_failed", False  # the session is gone
        case _:
            return "reference_not_found", False


def _judge_refusal(status: int, asked: Asked) -> str:
    if asked.operation == "put_manifest":
        return "limit_exceeded" if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE else "manifest_rejected"
    return "upload_failed" if asked.operation in UPLOADS else "registry_unreachable"


def _keeps_tag(status: int, said: _Said) -> bool:
    return status == httpx.codes.CONFLICT or "TAG_IMMUTABLE" in said.codes or bool(_TAG_KEPT.search(said.text))


def _no_answer(error: Exception) -> tuple[str, bool, str]:
    causes = list(_causes(error))
    certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return "tls_error", False, f"its certificate is not accepted: {clean(certificate.verify_message)}"
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and isinstance(error, httpx.ConnectError):
        is_cut = isinstance(tls, ssl.SSLEOFError)
        return "tls_error", is_cut, f"no TLS connection: {clean(tls.reason or 'handshake failed')}"
    if isinstance(error, httpx.TimeoutException):
        return "timeout", True, clean(str(error)) or "no answer in time"
    if isinstance(error, httpx.ProxyError):
        return "registry_unreachable", True, f"the proxy does not connect: {clean(str(error))}"
    return "registry_unreachable", *_why_unreachable(error, causes)


def _why_unreachable(error: Exception, causes: list[BaseException]) -> tuple[bool, str]:
    resolver = next((cause for cause in causes if isinstance(cause, socket.gaierror)), None)
    if resolver is not None:
        return resolver.errno != socket.EAI_NONAME, "its name can't be resolved"
    system = next((cause for cause in causes if isinstance(cause, OSError) and cause.errno), None)
    # The system's own words for the number: what the exception says may hold the address.
    reason = f" ({os.strerror(system.errno)})" if system is not None and system.errno else ""
    match error:
        case httpx.ConnectError():
            return True, f"no connection{reason}"
        case httpx.RemoteProtocolError():
            return True, "the connection ended in the middle of an answer"
        case httpx.NetworkError():
            return True, f"the connection broke{reason}"
        case httpx.LocalProtocolError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return False, "this request can't be made"
        case _:
            return True, "no answer"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _spec_errors(body: bytes) -> Iterator[tuple[str, str]]:
    """Read `{"errors": [{"code", "message"}]}`, or what token servers and clouds send instead."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    errors = document.get("errors")
    for error in errors[:_MAX_SPEC_CODES] if isinstance(errors, list) else [document]:
        if not isinstance(error, dict):
            continue
        code = _first_text(error, "code", "error")
        message = _first_text(error, "message", "details", "error_description", "detail", "Message")
        yield re.sub(r"[^A-Z_0-9]", "", code.upper())[:64] if " " not in code else "", clean(message or code)


def _first_text(document: dict[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := document.get(name), str) and value), "")


def _plain_text(answer: Answer) -> str:
    kind = answer.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    return clean(answer.body[:_MAX_SAID].decode(errors="replace")) if kind == "text/plain" else ""
