"""`registry-sync watch`: against the real service, and against streams that break off."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.cli.api_errors import RefusedError
from app.cli.watch import LOST_SECONDS, counts, follow
from app.domain.errors import NotFoundError, UnavailableError
from tests.conftest import Namespace
from tests.support.images import oci_image
from tests.support.service import ROOT, ServiceProcess


@pytest.fixture
def service(tmp_path: Path, source: Namespace, destination: Namespace) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path) as service:
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        yield service


def run_watch(service: ServiceProcess, job_id: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "watch", job_id, "--url", str(service.client.base_url)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_a_job_is_watched_to_its_end_and_the_exit_code_tells_how_it_ended(
    service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    for number in range(5):
        source.push("app", oci_image(f"watched {number}"), str(number))
    good = service.submit({"source": source.reference("app"), "destination": destination.reference("app")})
    seen = run_watch(service, good["id"])
    assert (seen.returncode, seen.stderr) == (0, "")
    assert "succeeded: 5 copied of 5 images" in seen.stdout

    bad = service.submit({"source": source.reference("app", "nothing"), "destination": destination.reference("app")})
    seen = run_watch(service, bad["id"])
    assert seen.returncode == 3
    assert "reference_not_found" in seen.stdout
    assert "failed: 1 failed of 1 images" in seen.stdout


def test_a_job_nobody_knows_is_told_in_one_line(service: ServiceProcess) -> None:
    seen = run_watch(service, "01a20a4a-4518-70d4-95e1-5c2569e8b379")
    assert (seen.returncode, seen.stdout) == (1, "")
    assert len(seen.stderr.splitlines()) == 1


def test_a_service_that_never_answered_is_not_asked_again() -> None:
    asked: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(UnavailableError, match="does not answer"):
        list(follow(client_of(refuse), "a", pause=lambda _: None))
    assert len(asked) == 1


def test_a_service_that_stays_away_is_given_up_in_the_end() -> None:
    parts = iter([stream((3, "job", {"state": "running"}))])

    def answer(request: httpx.Request) -> httpx.Response:
        for text in parts:
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)
        raise httpx.ConnectError("refused", request=request)

    clock = iter(range(0, 10_000, int(LOST_SECONDS / 4)))
    with pytest.raises(UnavailableError, match="does not answer"):
        list(follow(client_of(answer), "a", pause=lambda _: None, now=lambda: float(next(clock))))


def test_a_stream_that_breaks_off_is_taken_up_where_it_was() -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        parts = {
            None: stream((3, "job", {"state": "running"}), (4, "progress", {})),
            "4": stream((5, "image", {})),
            "5": stream((9, "end", {"state": "succeeded"})),
        }
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=parts[asked[-1]])

    events = list(follow(client_of(answer), "a", pause=lambda _: None))

    assert [name for name, _ in events] == ["job", "progress", "image", "end"]
    assert asked == [None, "4", "5"]


@pytest.mark.parametrize(("status", "error"), [(401, RefusedError), (404, NotFoundError)])
def test_a_refusal_is_told_in_the_services_own_words(status: int, error: type[Exception]) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"detail": "because of that"})

    with pytest.raises(error, match="because of that"):
        list(follow(client_of(refuse), "a"))


def test_counts_leave_out_what_is_zero() -> None:
    none = {"total": 7, "queued": 7, "running": 0, "copied": 0, "up_to_date": 0, "failed": 0, "cancelled": 0}
    assert counts(none) == "none done of 7 images"
    assert counts({**none, "planned": 6, "up_to_date": 1}) == "6 planned, 1 up to date of 7 images"
    assert counts({**none, "up_to_date": 2, "failed": 1}) == "2 up to date, 1 failed of 7 images"


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://service.test", transport=httpx.MockTransport(answer))


def stream(*events: tuple[int, str, dict[str, object]]) -> str:
    return "".join(f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for number, name, data in events)
