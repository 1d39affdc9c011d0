"""What operators see of the service: metrics (Prometheus), log events without secrets, and spans of what is traced.

Metrics are labelled by registry name or route template, never by repository: labels must stay few. Several processes
show theirs as one: each keeps its values in files that the process which is asked adds up (prometheus_client,
"Multiprocess Mode"), begun after a fork, in files named after the process: one that is started again goes on counting.

A log event is a fixed name and keys; ids bound with `bound` (request, job, unit) are on every event below.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, values
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue, MutexValue

from app.redaction import HIDDEN, MAX_TEXT, without_secrets

LogFormat = Literal["auto", "json", "console"]

_SECRET_NAME = re.compile(
    r"authorization|cookie|password|passwd|secret|token|credential|signature|api_?key|client_key|private_key",
    re.IGNORECASE,
)
_PLAIN_NAME = re.compile(r"has_.*|.*_(?:seconds|bytes|count|type|id|expires_at)", re.DOTALL)
"""Names that hold one of those words and yet no secret: `has_password`, `token_seconds`."""
_QUIET_LIBRARIES = (
    *("alembic", "aiosqlite", "asyncio", "httpcore", "httpx", "sqlalchemy", "sse_starlette", "uvicorn"),
    # Some of these log whole answers on the level debug: passwords, keys, tokens.
    *("azure", "botocore", "google", "msal", "urllib3"),
)

# --- metrics ----------------------------------------------------------------------------------------------------------

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class _Value:
    """One number of a metric: in memory, and in a file once metrics are shared."""

    _multiprocess = False
    _made: list[_Value] = []  # noqa: RUF012 — all that there are, shared by intent
    _kind: Any = MutexValue

    def __init__(self, *params: Any, **options: Any) -> None:
        self._params, self._options = params, options
        self._begin()
        self._made.append(self)

    @classmethod
    def share(cls, process: str) -> None:
        """Keep all values in files of the folder that the environment names, under the name of this process."""
        cls._kind = MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]  # it has no types
        for value in cls._made:
            value._begin()  # noqa: SLF001 — its own kind

    def inc(self, amount: float) -> None:
        self._real.inc(amount)

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._real.set(value, timestamp)

    def get(self) -> float:
        return float(self._real.get())

    def set_exemplar(self, exemplar: Any) -> None:
        self._real.set_exemplar(exemplar)

    def get_exemplar(self) -> Any:
        return self._real.get_exemplar()

    def _begin(self) -> None:
        self._real = self._kind(*self._params, **self._options)


values.ValueClass = _Value  # before the first metric is made


JOBS_FINISHED = Counter("registry_sync_jobs_finished_total", "Jobs that ended, by final state", ["state"])
JOB_SECONDS = Histogram(
    "registry_sync_job_duration_seconds",
    "From a job's submission to its end, by final state",
    ["state"],
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 86_400),
)
IMAGES = Counter("registry_sync_images_total", "Images that ended, by state", ["state"])
FAILURES = Counter(
    "registry_sync_failures_total",
    "What images and lists failed for: kind of row (image, listing, refused), code, and side where one is known",
    ["kind", "code", "side"],
)
BYTES = Counter("registry_sync_transferred_bytes_total", "Bytes of blobs sent to destinations")
BLOBS = Counter("registry_sync_blobs_total", "Blobs dealt with: present, mounted or transferred", ["result"])
REGISTRY_REQUESTS = Counter(
    "registry_sync_registry_requests_total",
    "Requests to registries, by the name of their entry, method and status (`error` where there was no answer)",
    ["registry", "method", "code"],
)
REGISTRY_SECONDS = Counter(
    "registry_sync_registry_request_seconds_total",
    "Time from a request's first byte to its answer's head, by the name of the registry's entry and method",
    ["registry", "method"],
)
REGISTRY_BYTES = Counter(
    "registry_sync_registry_bytes_total",
    "Bytes of blobs received from a registry, and sent to it, by the name of its entry",
    ["registry", "direction"],
)
REGISTRY_WINDOW = Gauge("registry_sync_registry_window", "Requests at once that a registry gets at most", ["registry"])
REGISTRY_IN_FLIGHT = Gauge("registry_sync_registry_in_flight", "Requests that a registry works on here", ["registry"])
REGISTRY_LAST_ERROR = Gauge(
    "registry_sync_registry_last_error_timestamp_seconds",
    "When a request to a registry last failed with a code",
    ["registry", "code"],
)
REGISTRY_PAUSED_UNTIL = Gauge(
    "registry_sync_registry_paused_until_timestamp_seconds",
    "Until when a registry asked to be left alone; 0 for no pause",
    ["registry"],
)
REGISTRY_LOGIN_VALID_UNTIL = Gauge(
    "registry_sync_registry_login_valid_until_timestamp_seconds",
    "When a login ends that an identity was given; 0 for one that was entered, or was not asked for yet",
    ["registry"],
)
REGISTRY_LOGIN_FAILING = Gauge(
    "registry_sync_registry_login_failing",
    "1 while the login of a registry is not taken or can't be renewed, else 0",
    ["registry"],
)
REGISTRY_LOGIN_EXPIRES = Gauge(
    "registry_sync_registry_login_expires_timestamp_seconds",
    "When a login ends that was entered (`login_expires_at`); 0 where it is not known",
    ["registry"],
)
REGISTRY_CERTIFICATE_EXPIRES = Gauge(
    "registry_sync_registry_certificate_expires_timestamp_seconds",
    "When the certificate of a registry ends, as the last handshake showed it",
    ["registry"],
)
REGISTRY_QUOTA = Gauge("registry_sync_registry_quota_remaining", "What is left of its rate limit", ["registry"])
HOOK_EVENTS = Counter(
    "registry_sync_hook_events_total",
    "Push events that arrived, by registry name and what became of them",
    ["registry", "state"],
)
AUTHENTICATION_FAILURES = Counter(
    "registry_sync_authentication_failures_total",
    "Wrong API keys, tokens and hook secrets: kind (api_key, token, hook) and what was wrong",
    ["kind", "reason"],
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


def share_metrics(folder: Path, *, process: str) -> None:
    """Keep this process's metrics where the others of the host find them.

    - `folder`: the same for all processes of a supervisor, and for no one else
    - `process`: a name that no other process has at the same time
    """
    os.environ[_FOLDER_VARIABLE] = str(folder)
    _Value.share(process)


def render_metrics(pids: Mapping[str, int], restarts: Mapping[str, int], gauges: Sequence[Metric]) -> bytes:
    """Write the metrics of all processes in Prometheus' text format; of this one alone where none are shared.

    - `pids`: the process ids of the processes, by name: their memory and CPU time are shown too (on Linux)
    - `restarts`: how often each was started again, by name
    - `gauges`: metrics of the whole service, as they were read just now
    """
    registry = CollectorRegistry()
    registry.register(_Ready(gauges))
    if _FOLDER_VARIABLE not in os.environ:
        return generate_latest(REGISTRY) + generate_latest(registry)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
    registry.register(_ProcessesCollector(pids, restarts))
    return generate_latest(registry)


class _Ready:
    """Metrics that were read already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _ProcessesCollector:
    """What the kernel knows of each process, under Prometheus' own names with the label `process`."""

    def __init__(self, pids: Mapping[str, int], restarts: Mapping[str, int]) -> None:
        self._pids = pids
        self._restarts = restarts

    def collect(self) -> list[Metric]:
        families: dict[str, Metric] = {}
        for process, pid in self._pids.items():
            for found in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, {**sample.labels, "process": process}, sample.value)
        restarts = CounterMetricFamily(
            "registry_sync_process_restarts", "How often a process was started again", labels=["process"]
        )
        for process, number in self._restarts.items():
            restarts.add_metric([process], number)
        return [*families.values(), restarts]


_COUNTED_AT_ONCE_BYTES = 4 * 1024 * 1024
"""A piece of a blob is smaller; a counter that processes share costs as much as handing the piece on."""


@contextmanager
def counted_bytes(registry: str, direction: Literal["received", "sent"]) -> Iterator[Callable[[int], None]]:
    """Yield what takes in bytes of a blob as they come, and count them for a registry: many at once, the rest last."""
    counter, pending = _bytes_counter(registry, direction), 0

    def count(size: int) -> None:
        nonlocal pending
        pending += size
        if pending >= _COUNTED_AT_ONCE_BYTES:
            counter.inc(pending)
            pending = 0

    try:
        yield count
    finally:
        counter.inc(pending)


@lru_cache(maxsize=1024)
def _bytes_counter(registry: str, direction: str) -> Counter:
    return REGISTRY_BYTES.labels(registry, direction)


# --- logs -------------------------------------------------------------------------------------------------------------


def configure_logging(*, log_format: LogFormat = "auto", level: str = "INFO", process: str | None = None) -> None:
    """Send every log event of this process, libraries' included, to standard error through one chain of processors.

    - `log_format`: `json`, `console`, or `auto`: console on a terminal, json elsewhere
    - `level`: the least level that is logged
    - `process`: the name that is on each event, where several processes write to one place; each writes whole lines
    """
    shared: list[structlog.typing.Processor] = [
        partial(_add_process, process),
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


def _add_process(
    process: str | None, _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return event if process is None else {"process": process, **event}


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


def _names_secret(key: str) -> bool:
    return bool(_SECRET_NAME.search(key)) and not _PLAIN_NAME.fullmatch(key)


def _hidden(value: Any) -> Any:
    match value:
        case str():
            return without_secrets(value)
        case bytes():
            return without_secrets(value[: 2 * MAX_TEXT].decode(errors="replace"))
        case Mapping():
            return hide_secrets(None, "", {str(key): item for key, item in value.items()})
        case None | bool() | int() | float():
            return value
        case Sequence() | set() | frozenset():
            return [_hidden(item) for item in value]
        case _:
            return without_secrets(str(value))


# --- spans ------------------------------------------------------------------------------------------------------------

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
Attribute: TypeAlias = str | int | float | bool | None


class Span(Protocol):
    """What is done inside a `with`: named, timed, described."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an exception makes it a failed one."""

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Describe it; None says nothing."""

    def fail(self, code: str) -> None:
        """Mark it as failed."""

    def rename(self, name: str) -> None:
        """Give it the name that is known only now."""


class _NoSpan:
    """The span of everything while tracing is off."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        pass

    def fail(self, code: str) -> None:
        pass

    def rename(self, name: str) -> None:
        pass


class Tracer(Protocol):
    """What makes spans while tracing is on (`app/tracing.py`)."""

    def span(self, name: str, *, kind: SpanKind, parent: str | None, attributes: Mapping[str, Attribute]) -> Span:
        """Return a span that is not begun."""

    def record(
        self, name: str, *, parent: str, began_at: datetime, ended_at: datetime, attributes: Mapping[str, Attribute]
    ) -> None:
        """Send a span that has ended."""

    def current_traceparent(self) -> str | None:
        """Return the `traceparent` of the span this is called in."""


NO_SPAN = _NoSpan()
_tracer: Tracer | None = None


def trace_with(tracer: Tracer | None) -> None:
    """Have this tracer make all spans of this process from now on; None for none."""
    global _tracer  # noqa: PLW0603 — a process has one, as it has one log
    _tracer = tracer


def is_tracing() -> bool:
    """Return whether spans are sent, for what is done so often that describing it costs something."""
    return _tracer is not None


def span(
    name: str,
    *,
    kind: SpanKind = "internal",
    parent: str | None = None,
    attributes: Mapping[str, Attribute] | None = None,
) -> Span:
    """Return a span around what is done inside its `with`.

    - `name`: few of them; what differs is for `attributes`, of which None ones are left out
    - `parent`: the `traceparent` of what it is a part of; by default the span around it
    """
    return NO_SPAN if _tracer is None else _tracer.span(name, kind=kind, parent=parent, attributes=attributes or {})


def record_span(
    name: str, *, parent: str | None, began_at: datetime, ended_at: datetime, attributes: Mapping[str, Attribute]
) -> None:
    """Send a span of what has ended already, and may have begun in another process."""
    if _tracer is None or parent is None:
        return
    _tracer.record(name, parent=parent, began_at=began_at, ended_at=ended_at, attributes=attributes)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the span this is called in; None outside of any, and while tracing is off."""
    return None if _tracer is None else _tracer.current_traceparent()
