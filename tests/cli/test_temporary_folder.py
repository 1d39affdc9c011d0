"""What killed programs leave behind is deleted by the next one, and nothing else is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.temporary_folder import LEAST_AGE_SECONDS, temporary_folder

PROGRAM = """
import os, sys, time
from app.cli.temporary_folder import temporary_folder
with temporary_folder("kept-") as folder:
    (folder / "file").touch()
    if sys.argv[1:] and os.fork():
        os.kill(os.getpid(), 9)
    print(folder, os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Path, int]]:
    """Start a program with a folder; with a parameter, its parent is killed and a forked process goes on."""
    arguments = [request.param] if hasattr(request, "param") else []
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        folder, pid = program.stdout.readline().split()
        age(Path(folder))
        yield Path(folder), int(pid)
        with_signal(int(pid), signal.SIGKILL)


def age(folder: Path) -> None:
    then = folder.stat().st_mtime - LEAST_AGE_SECONDS - 1
    os.utime(folder, (then, then))


def with_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def test_a_folder_is_gone_with_its_program(place: Path) -> None:
    with temporary_folder("kept-") as folder:
        assert folder.parent == place
    assert not folder.exists()


@pytest.mark.parametrize("started", ["forked"], indirect=True)
def test_a_folder_stays_while_a_process_of_its_program_lives(started: tuple[Path, int]) -> None:
    folder, _ = started
    with temporary_folder("kept-"):
        assert (folder / "file").exists()


def test_what_a_killed_program_leaves_is_deleted_by_the_next(started: tuple[Path, int]) -> None:
    folder, pid = started
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with temporary_folder("kept-"):
        assert not folder.exists()


def test_a_folder_that_was_just_made_is_left_alone(place: Path) -> None:
    young = place / "kept-young"
    young.mkdir()
    with temporary_folder("kept-"):
        assert young.exists()


def test_neither_links_nor_other_names_are_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    age(elsewhere)
    (place / "kept-link").symlink_to(elsewhere)
    (other := place / "others").mkdir()
    age(other)
    with temporary_folder("kept-"):
        assert elsewhere.exists()
        assert other.exists()
