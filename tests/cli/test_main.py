"""The command line, as a process: what it starts, what it prints, how it ends."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.security import Sealer, read_api_key
from tests.support.processes import free_port
from tests.support.service import AppProcess

PROJECT = Path(__file__).resolve().parents[2]
READY_SECONDS = 90.0


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a folder, with only the settings given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_SYNC_")}
    given = {f"REGISTRY_SYNC_{name}": value for name, value in settings.items()}
    return subprocess.run(  # noqa: S603 — our own command
        [sys.executable, "-W", "error", "-m", "app", *arguments],
        cwd=folder,
        env=inherited | given | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def serving(process: AppProcess) -> str:
    """Wait until it listens, and return its address."""
    assert process.program is not None
    found: list[str] = []

    def listens() -> bool:
        for line in process.log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "api_listening":
                found.append(f"http://127.0.0.1:{event['port']}")
        return bool(found) and _answers(found[0])

    process.program.wait_until(listens, seconds=READY_SECONDS)
    return found[0]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_serve_brings_up_its_database_and_key_and_ends_well_on_a_signal(tmp_path: Path) -> None:
    with AppProcess(tmp_path, "serve", "--port", "0") as process:
        url = serving(process)
        body = {"source": "redis:7", "destination": "registry.invalid/x"}
        assert httpx.post(f"{url}/v1/jobs", json=body, trust_env=False).status_code == 202
        assert process.program is not None
        os.kill(process.program.pid, signal.SIGTERM)
        assert process.program.wait(seconds=90) == 0

    keys = tmp_path / "registry-sync.keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    Sealer(keys.read_text().split())
    log = process.log.read_text()
    assert "no_api_key_exists" in log
    assert keys.read_text().strip() not in log


def test_the_second_start_finds_what_the_first_one_left(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with AppProcess(tmp_path, "serve", "--port", "0", "--no-worker") as process:
            url = serving(process)
            entry = {"host": "a.example.com", "auth": {"type": "basic", "username": "a", "password": "b"}}
            answer = httpx.put(f"{url}/v1/registries/a", json=entry, trust_env=False)
            keys.append((answer.status_code, (tmp_path / "registry-sync.keys").read_text()))
        process.log.unlink()

    assert [status for status, _ in keys] == [201, 200]
    assert keys[0][1] == keys[1][1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 — refused is what is tested
def test_serve_is_not_to_be_reached_from_elsewhere_before_there_is_a_key(tmp_path: Path, host: str) -> None:
    refused = run(tmp_path, "serve", "--host", host, "--port", "0")

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"registry-sync: won't listen on {host} while no API key exists")
    assert "create-key" in refused.stderr


def test_with_a_bootstrap_key_it_listens_everywhere_and_asks_for_that_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef" * 4 + "\n")

    with AppProcess(
        tmp_path,
        "serve",
        "--host",
        "0.0.0.0",  # noqa: S104 — that it asks for a key there is what is tested
        "--port",
        "0",
        settings={"BOOTSTRAP_KEY_FILE": str(file)},
    ) as process:
        url = serving(process)
        with_key = {"Authorization": f"Bearer {file.read_text().strip()}"}
        assert httpx.get(f"{url}/v1/jobs", trust_env=False).status_code == 401
        assert httpx.get(f"{url}/v1/keys", headers=with_key, trust_env=False).json()["items"][0]["name"] == "bootstrap"

    assert file.read_text().strip() not in process.log.read_text()


def test_create_key_prints_the_key_and_nothing_else_to_standard_output(tmp_path: Path) -> None:
    made = run(tmp_path, "create-key", "--name", "ci", "--scope", "submit", "--expires", "90d")

    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith(f"rsk_{read_api_key(key).id}_")
    assert made.stdout == f"{key}\n"
    assert key not in made.stderr
    assert made.stderr.splitlines()[-1].endswith(f"the database {tmp_path / 'registry-sync.db'}")
    again = run(tmp_path, "create-key", "--name", "ci", "--scope", "read")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.splitlines()[-1] == "registry-sync: there is a key 'ci' already"
    with AppProcess(tmp_path, "serve", "--port", "0", "--no-worker") as process:
        url = serving(process)
        assert httpx.get(f"{url}/v1/jobs", trust_env=False).status_code == 401
        header = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/v1/jobs", headers=header, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["serve"], {"PORT": "eighty"}, "REGISTRY_SYNC_PORT: Input should be a valid integer"),
        (["serve"], {"DATABASE_URL": "mysql://me:hunter22@h/x"}, "REGISTRY_SYNC_DATABASE_URL: it begins with"),
        (["serve"], {"SECRET_KEYS": "hunter22"}, "REGISTRY_SYNC_SECRET_KEYS: a key is 32 bytes in URL-safe base64"),
        (["serve"], {"SECRET_KEYS_FILE": "nowhere"}, "can't read nowhere: No such file or directory"),
        (["serve"], {"BOOTSTRAP_KEY": "hunter22"}, "REGISTRY_SYNC_BOOTSTRAP_KEY: a key has 32 characters or more"),
        (
            ["serve"],
            {"DATABASE_URL": "postgresql://me:hunter22@h/x"},
            "REGISTRY_SYNC_SECRET_KEYS or REGISTRY_SYNC_SECRET",
        ),
        (["work"], {}, "an SQLite database is for one host"),
        (["work", "--concurrency", "0"], {}, "REGISTRY_SYNC_WORKER_CONCURRENCY: Input should be greater than or"),
        (
            ["create-key", "--name", "x", "--scope", "read", "--expires", "soon"],
            {},
            "--expires: 'soon' is not a duration",
        ),
        (["migrate"], {"NOTHING": "1"}, "there is no setting REGISTRY_SYNC_NOTHING"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], said: str
) -> None:
    refused = run(tmp_path, *arguments, **settings)

    assert refused.returncode == 2, refused.stderr
    [line] = [line for line in refused.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith(f"registry-sync: {said}")
    assert "hunter22" not in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = run(tmp_path, "serve", "--port", str(port))

    assert refused.returncode == 2
    assert (
        refused.stderr.splitlines()[-1]
        == f"registry-sync: can't listen on 127.0.0.1 port {port}: Address already in use"
    )


def test_a_database_that_does_not_answer_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"postgresql://me:hunter22@127.0.0.1:{port}/x"

        refused = run(tmp_path, "serve", DATABASE_URL=url, SECRET_KEYS=Sealer.make_key())

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("registry-sync: the database does not answer")
    assert "hunter22" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_shared_database_is_brought_up_by_hand_and_an_old_one_is_refused(tmp_path: Path, postgres_url: str) -> None:
    settings = {"DATABASE_URL": postgres_url, "SECRET_KEYS": Sealer.make_key()}

    for command in ("serve", "work"):
        refused = run(tmp_path, command, **settings)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1] == (
            "registry-sync: the database has no tables yet; run `registry-sync migrate`"
        )
    migrated = run(tmp_path, "migrate", DATABASE_URL=postgres_url)

    assert migrated.returncode == 0, migrated.stderr
    assert run(tmp_path, "migrate", DATABASE_URL=postgres_url).returncode == 0
    with AppProcess(tmp_path, "serve", "--port", "0", "--no-worker", settings=settings) as process:
        serving(process)
    port = free_port()
    with AppProcess(tmp_path, "work", settings=settings | {"WORKER_METRICS_PORT": str(port)}) as worker:
        assert worker.program is not None
        worker.program.wait_until(lambda: '"workers_started"' in worker.log.read_text(), seconds=READY_SECONDS)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=READY_SECONDS) as client:
            assert client.get("/healthz").json() == {"status": "alive"}
            assert client.get("/readyz").json() == {"status": "ready", "unreadable_secrets": 0}
            metrics = client.get("/metrics").text
            assert client.get("/v1/jobs").status_code == 404
        assert "registry_sync_transferred_bytes_total" in metrics
        assert "registry_sync_queue_depth 0.0" in metrics
        assert 'process_resident_memory_bytes{process="worker-1"}' in metrics
        os.kill(worker.program.pid, signal.SIGTERM)
        assert worker.program.wait(seconds=90) == 0


def test_secret_keys_are_changed_by_putting_the_new_one_first_and_sealing_anew(tmp_path: Path) -> None:
    old, new = Sealer.make_key(), Sealer.make_key()

    def opens(keys: str) -> int:
        with AppProcess(tmp_path, "serve", "--port", "0", "--no-worker", settings={"SECRET_KEYS": keys}) as process:
            url = serving(process)
            if keys == old:
                entry = {"host": "a.example.com", "auth": {"type": "basic", "username": "a", "password": "b"}}
                httpx.put(f"{url}/v1/registries/a", json=entry, trust_env=False).raise_for_status()
            status = httpx.patch(f"{url}/v1/registries/a", json={"trusted_hosts": []}, trust_env=False).status_code
        process.log.unlink()
        return status

    assert (opens(old), opens(new)) == (200, 503)
    assert run(tmp_path, "reseal", SECRET_KEYS=new).returncode == 1

    resealed = run(tmp_path, "reseal", SECRET_KEYS=f"{new},{old}")

    assert resealed.returncode == 0, resealed.stderr
    assert opens(new) == 200


def test_the_documents_are_printed_without_anything_being_made(tmp_path: Path) -> None:
    document = run(tmp_path, "openapi")
    table = run(tmp_path, "settings")

    assert document.stdout == (PROJECT / "openapi" / "openapi.json").read_text()
    assert table.stdout.startswith("| Variable | Default | What |")
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help")

    assert shown.returncode == 0
    for command in ("serve", "work", "migrate", "create-key", "reseal", "openapi"):
        assert command in shown.stdout
