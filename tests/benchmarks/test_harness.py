"""The measuring itself: what it adds up, what it keeps, and what it does about a peer that fails."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.fakes import FakeRegistry
from tests.benchmarks.measuring import CommandFailedError, measure_tree, run_command
from tests.benchmarks.peers import Copy, find_peers
from tests.benchmarks.results import Section, keep

BUSY = "import time\nwhile time.process_time() < 0.3: pass\n"
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"
PARENT = f"{CHILD}\nprint('done', flush=True)\nsys.stdin.read()"


def test_the_cpu_of_children_counts_for_a_peer(tmp_path: Path) -> None:
    used = run_command([sys.executable, "-c", CHILD], environment={}, folder=tmp_path, limit_seconds=60)

    assert used.cpu_seconds >= 0.3
    assert used.peak_bytes > 1024**2


def test_the_cpu_of_a_child_that_ended_counts_for_the_service() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe) as process:
        assert process.stdin
        assert process.stdout
        with measure_tree(process.pid) as measured:
            process.stdout.readline()
        process.stdin.close()

    assert measured.usage.cpu_seconds >= 0.25
    assert measured.usage.peak_bytes > 1024**2


def test_a_peer_that_fails_says_what_it_printed(tmp_path: Path) -> None:
    code = "import sys; print('no such registry'); sys.exit(3)"

    with pytest.raises(CommandFailedError, match="ended with 3:\nno such registry"):
        run_command([sys.executable, "-c", code], environment={}, folder=tmp_path, limit_seconds=60)


def test_a_peer_that_never_ends_is_ended(tmp_path: Path) -> None:
    code = "import time; time.sleep(600)"

    with pytest.raises(CommandFailedError, match="not done within 0 s"):
        run_command([sys.executable, "-c", code], environment={}, folder=tmp_path, limit_seconds=0.1)


def test_a_case_that_runs_again_replaces_its_section_alone(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    for name, figure in (("one", "1"), ("two", "2"), ("one", "3")):
        section = Section(name, f"What {name} is.")
        section.table("figure").add(figure)
        keep(section, page)

    head, one, two = page.read_text().split("\n## ")

    assert head.startswith("# Measured")
    assert one.startswith("one\n")
    assert "| 3" in one
    assert "| 1" not in one
    assert "| 2" in two


def test_every_peer_that_is_known_of_is_found_and_told_what_to_copy(tmp_path: Path) -> None:
    for name in ("crane", "regsync", "regctl", "skopeo", "image-syncer", "oras", "ocync"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 1.2.3\n")
        program.chmod(0o755)
    source, destination = FakeRegistry(5001), FakeRegistry(5002)

    found, missing = find_peers(str(tmp_path))

    assert missing == []
    for peer in found:
        commands = list(peer.commands(peer.program, [Copy(source, destination, "team/app", "v1")], tmp_path))
        assert all(command[0] == peer.program for command in commands)
        written = "".join(file.read_text() for file in tmp_path.iterdir() if file.suffix in {".yml", ".json"})
        said = " ".join(word for command in commands for word in command) + written
        assert {host for host in (source.host, destination.host) if host in said} == {source.host, destination.host}


def test_peers_are_taken_from_the_folder_given(tmp_path: Path) -> None:
    program = tmp_path / "crane"
    program.write_text("#!/bin/sh\necho v9.8.7\n")
    program.chmod(0o755)

    found, missing = find_peers(str(tmp_path))

    assert [peer.label for peer in found] == ["crane 9.8.7"]
    assert "regsync" in missing
