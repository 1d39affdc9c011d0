"""Tracing (OpenTelemetry): spans of requests, jobs, images and calls to registries, and the `traceparent` between them.

Off, which is the default, each span is one shared object that does nothing. The provider is our own and never made the
global one, so no library that instruments itself writes into it: FastAPI's own spans have the path, and with it the
tokens of hooks. Texts are redacted as log events are; an error is given by its code or class, never by its message.

Sources: W3C Trace Context, "traceparent Header"; OpenTelemetry semantic conventions for HTTP spans.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

from app.redaction import without_secrets

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
Attribute: TypeAlias = str | int | float | bool | None
MAX_TRACEPARENT = 64
"""A `traceparent` of version 00 has 55 characters."""
_MAX_TEXT = 512
_LAST_SPANS_SECONDS = 3.0
_NANOSECONDS = 1_000_000_000
_SERVICE = "registry-sync"
_LEAKING = ("opentelemetry.instrumentation.fastapi", "opentelemetry.instrumentation.starlette")
"""Automatic instrumentation that is loaded before the program and writes paths into spans."""


class TracingError(Exception):
    """Tracing can't be done, or not safely; the message says what to do."""


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


class _OpenSpan:
    """A span that is sent when it has ended."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        from opentelemetry import context

        context.detach(self._token)
        if kind is not None:
            self.fail(str(getattr(error, "code", None) or kind.__name__))
        self._span.end()

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        self._span.set_attributes(_shown(attributes))

    def fail(self, code: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", without_secrets(code[:_MAX_TEXT]))
        self._span.set_status(StatusCode.ERROR)

    def rename(self, name: str) -> None:
        self._span.update_name(name)


NO_SPAN = _NoSpan()
_provider: TracerProvider | None = None
_tracer: trace.Tracer | None = None


def start_tracing(*, process: str, exporter: SpanExporter | None = None) -> None:
    """Send the spans of this process from now on; call it after the fork, for it starts a thread.

    - `process`: which one of the host's processes this is
    - `exporter`: takes the spans; by default OTLP over HTTP, to where the `OTEL_EXPORTER_OTLP_*` variables say

    Raise `TracingError` as `check_tracing` does.
    """
    global _provider, _tracer  # noqa: PLW0603 — a process has one, as it has one log
    check_tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {SERVICE_NAME: _SERVICE, "service.version": version(_SERVICE), "registry_sync.process": process}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())  # what the environment says comes last
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    _tracer = _provider.get_tracer(_SERVICE, version(_SERVICE))


def stop_tracing() -> None:
    """Send what is left, for three seconds at most, and no more spans after that."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        # In a thread that may be left behind: it tries for ten seconds where the collector is away.
        sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_SECONDS)


def check_tracing() -> None:
    """Raise `TracingError` where the extra is missing, or where instrumentation is loaded that would show secrets."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401 — to see whether it is there
        import opentelemetry.sdk.trace  # noqa: F401 — as above
    except ImportError as error:
        raise TracingError("tracing needs an extra: install registry-sync[otel]") from error
    refuse_leaking_instrumentation()


def refuse_leaking_instrumentation() -> None:
    """Raise `TracingError` where spans of another instrumentation would have the paths of hooks, tokens and all."""
    if any(name in sys.modules for name in _LEAKING):
        raise TracingError(
            "the automatic instrumentation of FastAPI puts paths into spans, and so the tokens of hooks: set "
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=fastapi,starlette,asgi; REGISTRY_SYNC_TRACING=true has spans instead"
        )


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
    if _tracer is None:
        return NO_SPAN
    from opentelemetry import trace

    kinds = trace.SpanKind
    return _OpenSpan(
        _tracer.start_span(
            name,
            context=_context_of(parent),
            kind=kinds[kind.upper()],
            attributes=_shown(attributes or {}),
            record_exception=False,
            set_status_on_exception=False,
        )
    )


def record_span(
    name: str, *, parent: str | None, began_at: datetime, ended_at: datetime, attributes: Mapping[str, Attribute]
) -> None:
    """Send a span of what has ended already, and may have begun in another process."""
    if _tracer is None or parent is None:
        return
    began, ended = (int(moment.timestamp() * _NANOSECONDS) for moment in (began_at, ended_at))
    recorded = _tracer.start_span(name, context=_context_of(parent), start_time=began, attributes=_shown(attributes))
    recorded.end(end_time=ended)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the span this is called in; None outside of any, and while tracing is off."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _context_of(traceparent: str | None) -> Context | None:
    if traceparent is None:
        return None
    from opentelemetry.context import get_current
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # One that is damaged, or of nothing, leaves the context as it is.
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent[:MAX_TRACEPARENT]}, get_current())


def _shown(attributes: Mapping[str, Attribute]) -> dict[str, str | int | float | bool]:
    return {
        name: without_secrets(value)[:_MAX_TEXT] if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }
