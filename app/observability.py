"""What the service tells about itself: log events without secrets, metric objects, correlation ids.

A log event is a fixed name and keys; ids bound with `bound` (request, job, unit) are on every event below. Metrics are
labelled by registry name or route template, never by repository: labels must stay few.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import structlog
from prometheus_client import Counter, Gauge, Histogram

LogFormat = Literal["auto", "json", "console"]

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(
    r"authorization|cookie|password|passwd|secret|token|credential|signature|api_?key|client_key|private_key",
    re.IGNORECASE,
)
_PLAIN_NAME = re.compile(r"^(has_.*|.*_(?:seconds|bytes|count|type|id|expires_at))$")
"""Names that hold one of those words and yet no secret: `has_password`, `token_seconds`."""
_SECRET_TEXTS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\brsk_[0-9A-Za-z]+_[0-9A-Za-z]+"), f"rsk_{HIDDEN}"),
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@\"']+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?#\"']*)\?[^\s\"')\]}]+"), rf"\1?{HIDDEN}"),
    (
        re.compile(r"(?i)\b(password|passwd|secret|token|api_?key)(['\"]?\s*[=:]\s*['\"]?)[^\s,;&'\"}]+"),
        rf"\1\2{HIDDEN}",
    ),
)
_QUIET_LIBRARIES = ("alembic", "aiosqlite", "asyncio", "httpcore", "httpx", "sqlalchemy", "sse_starlette", "uvicorn")

# --- metrics ----------------------------------------------------------------------------------------------------------

JOBS = Gauge("registry_sync_jobs", "Jobs that are not done, by state", ["state"])
JOBS_FINISHED = Counter("registry_sync_jobs_finished_total", "Jobs that ended, by final state", ["state"])
JOB_SECONDS = Histogram(
    "registry_sync_job_duration_seconds",
    "From a job's submission to its end, by final state",
    ["state"],
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 86_400),
)
QUEUE_DEPTH = Gauge("registry_sync_queue_depth", "Units of work that wait for a worker")
IMAGES = Counter("registry_sync_images_total", "Images that ended, by state", ["state"])
BYTES = Counter("registry_sync_transferred_bytes_total", "Bytes of blobs sent to destinations")
BLOBS = Counter("registry_sync_blobs_total", "Blobs dealt with: present, mounted or transferred", ["result"])
REGISTRY_REQUESTS = Counter(
    "registry_sync_registry_requests_total",
    "Requests to registries, by the name of their entry, method and status (`error` where there was no answer)",
    ["registry", "method", "code"],
)
HOOK_EVENTS = Counter(
    "registry_sync_hook_events_total",
    "Push events that arrived, by registry name and what became of them",
    ["registry", "state"],
)
NOTIFICATIONS = Counter(
    "registry_sync_notifications_total",
    "Attempts to notify: delivered, delayed (to be tried again) or failed",
    ["result"],
)
HTTP_REQUESTS = Counter(
    "registry_sync_http_requests_total", "Requests answered, by route template", ["route", "method", "code"]
)
HTTP_SECONDS = Histogram("registry_sync_http_request_duration_seconds", "Time to answer, by route", ["route", "method"])

# --- logs -------------------------------------------------------------------------------------------------------------


def configure_logging(*, log_format: LogFormat = "auto", level: str = "INFO") -> None:
    """Send every log event of this process, libraries' included, to standard error through one chain of processors."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    as_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if as_console else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, hide_secrets, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a module's logger; its events are named in snake_case, with keys."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def bound(**ids: str | int | None) -> AbstractContextManager[None]:
    """Put ids (`request_id`, `job_id`, `unit_id` …) on every event logged inside, in tasks started there too."""
    return structlog.contextvars.bound_contextvars(**ids)


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what is secret by its name or its looks; the last processor before rendering."""
    return {key: HIDDEN if _names_secret(key) and value is not None else _hidden(value) for key, value in event.items()}


def without_secrets(text: str) -> str:
    """Take credentials, API keys, URL user parts and URL queries out of a text that someone else wrote."""
    for pattern, replacement in _SECRET_TEXTS:
        text = pattern.sub(replacement, text)
    return text


def _names_secret(key: str) -> bool:
    return bool(_SECRET_NAME.search(key)) and not _PLAIN_NAME.match(key)


def _hidden(value: Any) -> Any:
    match value:
        case str():
            return without_secrets(value)
        case bytes():
            return without_secrets(value.decode(errors="replace"))
        case Mapping():
            return hide_secrets(None, "", {str(key): item for key, item in value.items()})
        case None | bool() | int() | float():
            return value
        case Sequence() | set() | frozenset():
            return [_hidden(item) for item in value]
        case _:
            return without_secrets(str(value))
