"""A process that dies, fails or stands still is ended and started again, as often as it takes."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from app.processes.forking import FAILED
from tests.processes.supervised import BAD_LIVES, EXIT_CODE
from tests.support.processes import Program

pytestmark = pytest.mark.kill

ROOT = Path(__file__).resolve().parents[2]
SOON_SECONDS = 90


@pytest.mark.parametrize(
    ("how", "status", "events"),
    [
        ("dies", EXIT_CODE, []),
        ("raises", FAILED, []),
        ("stands-still", -signal.SIGKILL, ["process_stuck"]),
        ("writes-and-stands-still", -signal.SIGKILL, ["process_stuck"]),
    ],
)
def test_a_process_that_does_not_do_is_started_again(tmp_path: Path, how: str, status: int, events: list[str]) -> None:
    log = tmp_path / "supervised.log"
    program = Program(
        [sys.executable, "-m", "tests.processes.supervised", how],
        log=log,
        environment={"PYTHONPATH": str(ROOT)},
        folder=tmp_path,
    )
    try:
        program.wait_until((tmp_path / "well").exists, seconds=SOON_SECONDS)
        program.end(seconds=SOON_SECONDS)
    finally:
        program.kill()

    logged: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    ended = [event for event in logged if event["event"] == "process_ended"]
    assert [event["status"] for event in ended] == [status] * BAD_LIVES
    assert ended[0]["restart_seconds"] < ended[1]["restart_seconds"]
    assert [event["event"] for event in logged if event["event"] == "process_stuck"] == events * BAD_LIVES
    assert (tmp_path / "lives").read_text().count("a life") == BAD_LIVES + 1
    assert ("on purpose" in log.read_text()) == (how == "raises")
