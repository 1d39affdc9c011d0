"""From a registry's response, or none, to a `RegistryError`: the code, and whether a retry may help (`temporary`).

The only place that decides `temporary`.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

import httpcore
import httpx
from msgspec import Struct

from app.domain.errors import RegistryError
from app.registry.http.chunked import ChunkBudgetError
from app.registry.http.error_body import ErrorBody, clean, read_error_body
from app.registry.http.host_trust import HostTrust
from app.registry.http.message import Headers, Url

TEMPORARY_STATUSES = frozenset({408, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524, 530})
"""What go-containerregistry tries again, and the rest of Cloudflare's own answers for an origin that is down."""
_TIMEOUTS = frozenset({408, 499, 504, 522, 524})
_TAG_IMMUTABLE = re.compile(
    r"immutab|cannot be overwritten|already exists|does not allow updating|overwrit|protected tag|is locked|disallowed",
    re.IGNORECASE,
)
"""How registries say that a tag may not be moved: Harbor, Docker Hub, GitLab, ECR ("immutable", "already exists"),
Nexus ("does not allow updating assets"), Artifactory ("overwrite"), ACR ("the operation is disallowed")."""
_TAG_IMMUTABLE_STATUSES = frozenset({400, 403, 405, 409, 412})
_QUOTA = re.compile(
    r"\bquota\b|exceed\w{0,8} the (?:\w{1,32} ){0,8}limit|storage limit|insufficient storage", re.IGNORECASE
)
"""How full projects refuse: Harbor ("will exceed the configured upper limit", with DENIED), GitLab, ACR ("quota")."""
_MANIFEST = re.compile(r"manifest|media ?type|schema|\blayer|\bconfig\b|artifact|\bindex\b", re.IGNORECASE)
"""A 405 that speaks of what was sent refuses it; one that does not refuses everybody (read-only, pull-through)."""
_REPOSITORY = re.compile(r"(?:repository|project|namespace|organization)\b", re.IGNORECASE)
_IS_MISSING = re.compile(r"\b(?:not found|not exist|n.t exist|unknown)", re.IGNORECASE)
_MAY_BE_MISSING = re.compile(r"may not exist", re.IGNORECASE)
_OR = re.compile(r"or ", re.IGNORECASE)
_MAY_BE_DENIED = re.compile(r"may require|permission|access|authori[sz]", re.IGNORECASE)
_NAMELESS = re.compile(r"invalid repository name|repository name .*(invalid|must)|name invalid", re.IGNORECASE)
_MISSING = re.compile(
    r"\bnot found|does ?n.t exist|does not exist|\b(manifest|name|repository|blob) unknown", re.IGNORECASE
)
"""Some answer 403 or 400 with a text that means 404: Red Hat (`UNKNOWN: Not Found`), Harbor, Artifactory."""
_MISSING_CODES = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND", "NOTFOUND"})

LOG_IN = "log_in"
LIST_REPOSITORIES = "list_repositories"
CREATE_REPOSITORY = "create_repository"
CONNECTION_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)
"""Whatever connections raise."""
_ELSEWHERE = frozenset({LOG_IN, LIST_REPOSITORIES, CREATE_REPOSITORY})
"""Asking for a token, or an API of its own, of a registry: the answers come from other hosts by nature."""
UPLOADS = frozenset({"send_blob", "upload_status", "start_upload", "mount_blob"})
_WRITES = UPLOADS | {"put_manifest"}
_PLAIN_HTTP = frozenset({"HTTP_REQUEST", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"})
"""OpenSSL's reasons where a handshake is answered in plain http; which one depends on its release."""


class Response(Struct, frozen=True, gc=False):
    """An answer whose (bounded) body was read."""

    status: int
    headers: Headers
    body: bytes
    url: Url
    """Where it came from, after redirects."""
    trust: HostTrust


class ErrorContext(Struct, frozen=True, gc=False):
    """What was asked of which registry, for messages and codes."""

    registry: str
    operation: str
    moves_tag: bool = False
    lacks_right: bool = False
    """Whether a 401 means a missing right and not a dead login: the token server took the login."""


def error_of_response(answer: Response, context: ErrorContext, *, retry_after: float | None = None) -> RegistryError:
    """Return the error for an unexpected response."""
    said = read_error_body(answer.headers, answer.body)
    code, temporary = _judge(answer, context, said)
    where = context.registry if answer.trust is HostTrust.HOME else f"{answer.url.authority} (for {context.registry})"
    message = f"{where} answered {answer.status}{': ' if said.text else ''}{said.text}"
    if code == "repository_missing" and (context.operation in _WRITES or answer.status != httpx.codes.NOT_FOUND):
        message += "; create it there first, or check the spelling of its name"
    return RegistryError(
        message,
        registry=context.registry,
        operation=context.operation,
        code=code,
        status=answer.status,
        spec_codes=said.codes,
        temporary=temporary,
        retry_after=retry_after,
    )


def error_of_exception(error: Exception, context: ErrorContext) -> RegistryError:
    """Make the error for no answer at all, or half of one."""
    code, temporary, what = _no_answer(error)
    return make_error(f"{context.registry}: {what}", context, code=code, temporary=temporary)


def make_error(
    message: str, context: ErrorContext, *, code: str, temporary: bool = False, retry_after: float | None = None
) -> RegistryError:
    """Make an error that we ourselves found a reason for."""
    return RegistryError(
        message,
        registry=context.registry,
        operation=context.operation,
        code=code,
        temporary=temporary,
        retry_after=retry_after,
    )


def too_slow(context: ErrorContext, bytes_per_second: int) -> RegistryError:
    """Make the error for a body that trickles."""
    message = f"{context.registry} sends less than {bytes_per_second} bytes a second"
    return make_error(message, context, code="timeout", temporary=True)


def is_missing(error: RegistryError) -> bool:
    """Whether an error says that what was asked for is not there."""
    return error.code in {"reference_not_found", "repository_missing"}


def _judge(answer: Response, context: ErrorContext, said: ErrorBody) -> tuple[str, bool]:
    """Return the code and whether trying again may help. A 4xx is an answer: it is never `registry_unreachable`."""
    status, codes = answer.status, said.codes
    if answer.trust is not HostTrust.HOME and context.operation not in _ELSEWHERE and status in {400, 401, 403, 410}:
        return "denied", True  # a signed URL that ran out; the registry gives a new one
    if status == httpx.codes.TOO_MANY_REQUESTS or "TOOMANYREQUESTS" in codes:
        return "rate_limited", True
    if status >= httpx.codes.INTERNAL_SERVER_ERROR and _refuses_manifest(context, said):
        return "manifest_rejected", False
    if status in TEMPORARY_STATUSES:
        return ("timeout" if status in _TIMEOUTS else "registry_unreachable"), True
    if context.moves_tag and status in _TAG_IMMUTABLE_STATUSES and _keeps_tag(status, said):
        return "tag_immutable", False
    if status in {413, 507} or (status in {400, 403, 412} and _QUOTA.search(said.text)):
        return "limit_exceeded", False
    if status in {401, 403} and _misses_repository(said) and not _leaves_open(said):
        return "repository_missing", False  # Harbor: "project nope not found"
    if status == httpx.codes.UNAUTHORIZED:
        return ("denied" if "DENIED" in codes or context.lacks_right else "unauthorized"), False
    if status == httpx.codes.NOT_FOUND or _MISSING_CODES.intersection(codes) or _MISSING.search(said.text):
        return _judge_missing(context, said)
    return _judge_refusal(status, context, said), False


def _refuses_manifest(context: ErrorContext, said: ErrorBody) -> bool:
    """Whether a 5xx to a manifest is about the manifest: Distribution 2 answers 500 where one of several errors is."""
    return context.operation == "put_manifest" and any(code.startswith("MANIFEST_") for code in said.codes)


def _judge_missing(context: ErrorContext, said: ErrorBody) -> tuple[str, bool]:
    match context.operation:
        case "list_tags" | "start_upload" | "mount_blob":
            return "repository_missing", False
        case "put_manifest":
            missing = "NAME_UNKNOWN" in said.codes or _misses_repository(said)
            return ("repository_missing" if missing else "manifest_rejected"), False
        case "send_blob" | "upload_status":
            return "upload_failed", False  # the session is gone
        case _:
            return "reference_not_found", False


def _judge_refusal(status: int, context: ErrorContext, said: ErrorBody) -> str:
    """Name a refusal that is none of the special ones; what is left of 3xx and 5xx led nowhere."""
    is_denial = status in {403, 412, 451} or (bool(said.codes) and set(said.codes) <= {"DENIED", "UNAUTHORIZED"})
    if status == httpx.codes.METHOD_NOT_ALLOWED:
        is_denial = is_denial or context.operation != "put_manifest" or not _MANIFEST.search(said.text)
    if is_denial:
        return "denied"
    if "NAME_INVALID" in said.codes or _NAMELESS.search(said.text):
        return "repository_missing"  # no registry can have a repository of a name it does not allow
    if context.operation == "put_manifest":
        return "manifest_rejected"
    if context.operation in UPLOADS:
        return "upload_failed"
    return "denied" if 400 <= status < 500 else "registry_unreachable"  # noqa: PLR2004 — the classes of HTTP statuses


def _misses_repository(said: ErrorBody) -> bool:
    """Whether one of the messages says that the repository, or what it lies in, is missing."""
    return any(
        (named := _REPOSITORY.search(part)) is not None and _IS_MISSING.search(part, named.end()) is not None
        for part in said.text.split(";")
    )


def _leaves_open(said: ErrorBody) -> bool:
    """Whether it is missing or not allowed, and not said which (Google: "denied on resource (or it may not exist)")."""
    either = _OR.search(said.text)
    is_maybe_denied = either is not None and _MAY_BE_DENIED.search(said.text, either.end()) is not None
    return is_maybe_denied or _MAY_BE_MISSING.search(said.text) is not None


def _keeps_tag(status: int, said: ErrorBody) -> bool:
    return status == httpx.codes.CONFLICT or "TAG_IMMUTABLE" in said.codes or bool(_TAG_IMMUTABLE.search(said.text))


def _no_answer(error: Exception) -> tuple[str, bool, str]:
    causes = list(causes_of(error))
    certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return "tls_error", False, f"its certificate is not accepted: {clean(certificate.verify_message)}"
    if isinstance(error, ChunkBudgetError):
        return "limit_exceeded", False, str(error)
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and tls.reason in _PLAIN_HTTP:
        return (
            "tls_error",
            False,
            "it speaks plain http, not TLS: set insecure at PUT /v1/registries/{name} (--insecure on the command line)",
        )
    if tls is not None and isinstance(error, httpcore.ConnectError):
        is_cut = isinstance(tls, ssl.SSLEOFError)
        return "tls_error", is_cut, f"no TLS connection: {clean(tls.reason or 'handshake failed')}"
    if isinstance(error, httpcore.TimeoutException):
        return "timeout", True, clean(str(error)) or "no answer in time"
    if isinstance(error, httpcore.ProxyError):
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
        case httpcore.ConnectError():
            return True, f"no connection{reason}"
        case httpcore.RemoteProtocolError():
            return True, "the connection ended in the middle of an answer"
        case httpcore.NetworkError():
            return True, f"the connection broke{reason}"
        case httpcore.LocalProtocolError() | httpcore.UnsupportedProtocol():
            return False, "this request can't be made"
        case _:
            return True, "no answer"


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, down to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
