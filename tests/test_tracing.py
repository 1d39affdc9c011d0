"""Spans from real processes, sent as OTLP over HTTP to a socket: one trace from a request to the registries."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import tracing
from app.clock import now
from app.observability import NO_SPAN, current_traceparent, record_span, span
from app.tracing import TracingError, check_tracing, start_tracing, stop_tracing
from tests.conftest import Namespace
from tests.domain.test_notification import secret
from tests.support.images import oci_image
from tests.support.receiver import Answer, Receiver
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.service import ServiceProcess

CANARY = "canary-8e21f0"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
SECRET = secret(32)


class Collected:
    """What an OTLP receiver has got: each span as a dict, with its attributes and its process."""

    def __init__(self, receiver: Receiver) -> None:
        self.raw = b"".join(request.body for request in receiver.received)
        self.spans: list[dict[str, Any]] = []
        for request in receiver.received:
            for sent in ExportTraceServiceRequest.FromString(request.body).resource_spans:
                resource = _values(sent.resource.attributes)
                for scope in sent.scope_spans:
                    self.spans += [
                        {
                            "name": one.name,
                            "trace": one.trace_id.hex(),
                            "id": one.span_id.hex(),
                            "parent": one.parent_span_id.hex(),
                            "failed": one.status.code == 2,
                            "resource": resource,
                            **_values(one.attributes),
                        }
                        for one in scope.spans
                    ]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.spans if one["name"] == name]

    def way_up(self, one: dict[str, Any]) -> list[str]:
        """Return the names of what a span is a part of, up to what no span of ours is above."""
        by_id = {span["id"]: span for span in self.spans}
        names = []
        while one["parent"] in by_id:
            one = by_id[one["parent"]]
            names.append(one["name"])
        return names


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as running:
        running.answer = Answer(200)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url(""))
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # which would send paths, were it not switched off
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_one_trace_leads_from_a_callers_request_to_the_registries_and_to_who_is_notified(
    tmp_path: Path,
    source: Namespace,
    start_registry: Callable[[RegistryOptions], RegistryProcess],
    collector: Receiver,
    receiver: Receiver,
) -> None:
    source.push("app", oci_image("traced"), "1.0")
    private = start_registry(RegistryOptions(users={"ann": CANARY}))
    with ServiceProcess(tmp_path, settings={"TRACING": "true", "NOTIFY_PRIVATE_HOSTS": "127.0.0.1"}) as service:
        service.enter("source", source.registry)
        service.enter("private", private, auth={"type": "basic", "username": "ann", "password": CANARY})
        subscription = {"url": receiver.url(f"/all?key={CANARY}"), "secret": SECRET}
        service.client.put("/v1/subscriptions/ci", json=subscription).raise_for_status()
        service.client.post(f"/v1/hooks/private/{CANARY}", json={})
        service.client.get("/healthz").raise_for_status()
        request = {"source": source.reference("app", "1.0"), "destination": f"{private.host}/app"}
        answer = service.client.post("/v1/jobs", json=request, headers={"traceparent": TRACEPARENT})
        job = service.follow(answer.raise_for_status().json()["id"])
        [message] = receiver.wait_for(1)
    collected = Collected(collector)

    assert job["state"] == "succeeded", job
    ours = [one for one in collected.spans if one["trace"] == TRACE]
    [posted] = [one for one in ours if one["name"] == "POST /v1/jobs"]
    assert (posted["parent"], posted["http.response.status_code"], posted["http.route"]) == (CALLER, 202, "/v1/jobs")
    [image] = [one for one in ours if one["name"] == "copy image"]
    assert collected.way_up(image) == ["plan unit", "submit job", "POST /v1/jobs"]
    assert (image["registry_sync.outcomes"], image["registry_sync.source"]) == ("copied", request["source"])
    calls = [one for one in ours if collected.way_up(one)[:1] == ["copy image"]]
    assert {"PUT", "POST", "GET", "HEAD"} <= {one["name"] for one in calls}
    assert {one["registry_sync.registry"] for one in calls} == {"source", "private"}
    [whole] = [one for one in ours if one["name"] == "job"]
    assert (whole["registry_sync.job"], whole["registry_sync.job.state"]) == (job["id"], "succeeded")
    [notified] = [one for one in ours if one["name"] == "notify"]
    assert message.headers["traceparent"] == f"00-{TRACE}-{notified['id']}-01"
    assert {one["resource"]["service.name"] for one in collected.spans} == {"registry-sync"}
    assert {one["resource"]["deployment.environment.name"] for one in collected.spans} == {"tests"}
    assert len({one["resource"]["registry_sync.process"] for one in ours}) > 1
    assert collected.named("POST /v1/hooks/{registry}/{token}")
    assert not collected.named("GET /healthz")
    assert CANARY.encode() not in collected.raw


def test_without_the_setting_nothing_is_sent_and_nothing_is_told(
    tmp_path: Path, source: Namespace, destination: Namespace, collector: Receiver, receiver: Receiver
) -> None:
    source.push("app", oci_image("untraced"), "1.0")
    with ServiceProcess(tmp_path, settings={"NOTIFY_PRIVATE_HOSTS": "127.0.0.1"}) as service:
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        service.client.put("/v1/subscriptions/ci", json={"url": receiver.url(), "secret": SECRET}).raise_for_status()
        request = {"source": source.reference("app", "1.0"), "destination": destination.reference("app", "1.0")}
        answer = service.client.post("/v1/jobs", json=request, headers={"traceparent": TRACEPARENT})
        service.follow(answer.raise_for_status().json()["id"])
        [message] = receiver.wait_for(1)

    assert collector.received == []
    assert "traceparent" not in message.headers


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    start_tracing(process="test", exporter=exporter)
    yield exporter
    stop_tracing()


def test_off_is_one_object_for_all() -> None:
    opened = span("a", parent=TRACEPARENT)

    assert opened is NO_SPAN
    with opened:
        assert current_traceparent() is None


@pytest.mark.parametrize("traceparent", ["", "x", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 99_999])
def test_a_damaged_traceparent_begins_a_new_trace(spans: InMemorySpanExporter, traceparent: str) -> None:
    with span("a", parent=traceparent):
        pass
    stop_tracing()

    [ended] = spans.get_finished_spans()
    assert ended.parent is None


def test_a_failed_span_has_a_code_and_no_message(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match=CANARY), span("a"):
        raise ValueError(CANARY)
    stop_tracing()

    [ended] = spans.get_finished_spans()
    assert (ended.attributes, ended.events, ended.status.is_ok) == ({"error.type": "ValueError"}, (), False)


def test_texts_are_redacted_and_cut(spans: InMemorySpanExporter) -> None:
    with span("a", attributes={"url": f"https://ann:{CANARY}@host/x?sig={CANARY}", "none": None}) as opened:
        opened.set({"long": "x" * 9_999, "error": f"Bearer {CANARY}"})
    stop_tracing()

    [ended] = spans.get_finished_spans()
    shown = dict(ended.attributes or {})
    assert CANARY not in str(shown)
    assert len(str(shown["long"])) == 512
    assert "none" not in shown


def test_a_span_of_the_past_needs_a_parent(spans: InMemorySpanExporter) -> None:
    for parent in (None, TRACEPARENT):
        record_span("job", parent=parent, began_at=now(), ended_at=now(), attributes={})
    stop_tracing()

    [ended] = spans.get_finished_spans()
    assert ended.parent is not None
    assert f"{ended.parent.span_id:016x}" == CALLER


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(TracingError, match=r"install registry-sync\[otel\]"):
        check_tracing()


@pytest.mark.parametrize("library", ["fastapi", "starlette"])
def test_instrumentation_that_shows_paths_is_refused(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, f"opentelemetry.instrumentation.{library}", tracing)

    with pytest.raises(TracingError, match="OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"):
        check_tracing()
