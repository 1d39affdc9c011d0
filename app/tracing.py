"""Tracing (OpenTelemetry): spans of requests, jobs, images and calls to registries, and the `traceparent` between them.

Off, which is the default, nothing here is used: `app/observability.py` has what callers call. The provider is our own
and never made the global one, so no library that instruments itself writes into it: FastAPI's own spans have the path,
and with it the tokens of hooks. Texts are redacted as log events are; an error is given by its code or class, never by
its message.

Sources: W3C Trace Context, "traceparent Header"; OpenTelemetry semantic conventions for HTTP spans.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self

from app.observability import Attribute, Span, SpanKind, trace_with
from app.redaction import without_secrets

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

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


class _OpenTelemetry:
    """Spans of OpenTelemetry, sent by one provider of ours."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_SERVICE, version(_SERVICE))

    def span(self, name: str, *, kind: SpanKind, parent: str | None, attributes: Mapping[str, Attribute]) -> Span:
        from opentelemetry import trace

        kinds = trace.SpanKind
        return _OpenSpan(
            self._tracer.start_span(
                name,
                context=_context_of(parent),
                kind=kinds[kind.upper()],
                attributes=_shown(attributes),
                record_exception=False,
                set_status_on_exception=False,
            )
        )

    def record(
        self, name: str, *, parent: str, began_at: datetime, ended_at: datetime, attributes: Mapping[str, Attribute]
    ) -> None:
        began, ended = (int(moment.timestamp() * _NANOSECONDS) for moment in (began_at, ended_at))
        recorded = self._tracer.start_span(
            name, context=_context_of(parent), start_time=began, attributes=_shown(attributes)
        )
        recorded.end(end_time=ended)

    def current_traceparent(self) -> str | None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier.get("traceparent")

    def stop(self) -> None:
        # In a thread that may be left behind: it tries for ten seconds where the collector is away.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_SECONDS)


_started: _OpenTelemetry | None = None


def start_tracing(*, process: str, exporter: SpanExporter | None = None) -> None:
    """Send the spans of this process from now on; call it after the fork, for it starts a thread.

    - `process`: which one of the host's processes this is
    - `exporter`: takes the spans; by default OTLP over HTTP, to where the `OTEL_EXPORTER_OTLP_*` variables say

    Raise `TracingError` as `check_tracing` does.
    """
    global _started  # noqa: PLW0603 — a process has one, as it has one log
    check_tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {SERVICE_NAME: _SERVICE, "service.version": version(_SERVICE), "registry_sync.process": process}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())  # what the environment says comes last
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    _started = _OpenTelemetry(provider)
    trace_with(_started)


def stop_tracing() -> None:
    """Send what is left, for three seconds at most, and no more spans after that."""
    global _started
    started, _started = _started, None
    trace_with(None)
    if started is not None:
        started.stop()


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
