"""Client commands without the service's dependencies, and the man pages made from the commands."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Namespace
from tests.support.images import oci_image
from tests.support.service import ServiceProcess

SERVER_ONLY = [
    "aiosqlite",
    "alembic",
    "asyncpg",
    "cachetools",
    "cronsim",
    "cryptography",
    "fastapi",
    "fastapi_offline",
    "jinja2",
    "jwt",
    "natsort",
    "opentelemetry",
    "pgqueuer",
    "prometheus_client",
    "publicsuffixlist",
    "pydantic_settings",
    "re2",
    "semver",
    "sqlalchemy",
    "sqlite3",
    "sse_starlette",
    "stamina",
    "standardwebhooks",
    "starlette",
    "structlog",
    "uuid_utils",
    "uvicorn",
    "uvloop",
]
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({SERVER_ONLY!r}))
from app.cli.main import main
main()
"""
POLICY = """
rules: [{source: a.example.com/x, destination: b.example.com/x}]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as running:
        yield running


def light(service: ServiceProcess | None, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(PROJECT), "HOME": str(folder), "PATH": ""}
    if service is not None:
        environment["REGISTRY_SYNC_URL"] = f"http://127.0.0.1:{service.port}"
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["version"]),
        (0, ["sync", "a.example.com/x:1", "b.example.com/x", "--no-wait"]),
        (4, ["policy", "apply", "-f", "nightly.yaml", "--dry-run"]),
        (0, ["policy", "apply", "-f", "nightly.yaml"]),
        (0, ["policy", "pause", "nightly"]),
        (0, ["jobs", "list"]),
        (3, ["registry", "add", "a", "a.invalid"]),  # entered, and not reached
        (0, ["registry", "ls"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_client_commands_load_nothing_of_the_service(
    service: ServiceProcess, tmp_path: Path, code: int, arguments: list[str]
) -> None:
    (tmp_path / "nightly.yaml").write_text(POLICY)

    ran = light(service, tmp_path, *arguments)

    assert ran.returncode == code, ran.stderr


def test_an_image_is_planned_and_copied_by_the_client_alone(
    service: ServiceProcess, tmp_path: Path, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("light"), "1")
    service.enter("source", source.registry)
    service.enter("destination", destination.registry)
    places = [source.reference("app", "1"), destination.reference("app")]

    planned = light(service, tmp_path, "plan", *places)
    copied = light(service, tmp_path, "sync", *places)

    assert (planned.returncode, planned.stdout.splitlines()[-1][:8]) == (4, "1 copy; "), planned.stderr
    assert copied.returncode == 0, copied.stderr
    assert "1" in destination.tags("app")


@pytest.mark.parametrize(
    "command", [["serve"], ["work"], ["doctor"], ["migrate"], ["sync", "a.io/x", "b.io/x", "--local"]]
)
def test_what_needs_the_service_says_so_in_one_line(tmp_path: Path, command: list[str]) -> None:
    ran = light(None, tmp_path, *command)

    assert ran.returncode == 2
    assert ran.stderr.startswith("registry-sync: this needs the service")
    assert ran.stderr.count("\n") == 1


def test_each_command_has_a_man_page(tmp_path: Path) -> None:
    ran = light(None, tmp_path, "man", "pages")

    assert ran.returncode == 0, ran.stderr
    pages = {page.name: page.read_text() for page in (tmp_path / "pages").iterdir()}
    assert {"registry-sync.1", "registry-sync-sync.1", "registry-sync-jobs-list.1"} <= pages.keys()
    assert "registry-sync-settings.1" not in pages
    assert r"\fB\-\-platform <list[str]>\fR" in pages["registry-sync-sync.1"]
    assert r"registry\-sync\-sync(1)" in pages["registry-sync.1"]
    assert all(".SH EXIT STATUS" in page for page in pages.values())


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not on this machine")
def test_man_pages_are_well_formed(tmp_path: Path) -> None:
    light(None, tmp_path, "man", "pages")

    pages = [str(page) for page in (tmp_path / "pages").iterdir()]
    checked = subprocess.run(
        [str(shutil.which("groff")), "-man", "-ww", "-z", "-Tutf8", *pages], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
