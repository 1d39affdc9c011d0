"""The command line as people use it: the real command, against the real service and between real registries."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import Namespace
from tests.support.images import oci_image
from tests.support.plain_client import PlainClient
from tests.support.processes import free_port
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.service import ROOT, ServiceProcess

Done = subprocess.CompletedProcess[str]


def cli(*arguments: str, home: Path, said: str = "", **environment: str) -> Done:
    """Run a command in an empty home, with what is `said` to it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_SYNC_")}
    return subprocess.run(  # noqa: S603 — our own command
        [sys.executable, "-m", "app", *arguments],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        cwd=ROOT,
        env={**clean, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), **environment},
    )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path) as service:
        yield service


@pytest.fixture
def home(tmp_path: Path, service: ServiceProcess) -> Path:
    """Make a home whose context is the service."""
    folder = tmp_path / "home"
    file = folder / ".config/registry-sync/config.yaml"
    file.parent.mkdir(parents=True)
    contexts = {"here": {"url": str(service.client.base_url)}, "there": {"url": f"http://127.0.0.1:{free_port()}"}}
    file.write_text(yaml.safe_dump({"current": "here", "contexts": contexts}))
    return folder


def test_a_first_day_with_a_service(home: Path, source: Namespace, destination: Namespace, tmp_path: Path) -> None:
    image = oci_image("cli")
    source.push("app", image, "v1")
    source.push("app", image, "edge")
    here, there = source.reference("app"), destination.reference("app")

    for name, side in (("source", source), ("destination", destination)):
        added = cli("registry", "add", name, side.registry.host, "--insecure", home=home)
        assert (added.returncode, added.stdout.split()[:2]) == (0, ["ok", "reach:"]), added.stderr
    assert "source" in cli("registry", "ls", home=home).stdout

    planned = cli("plan", here, there, "--tags", "v*", home=home)
    assert planned.returncode == 4, planned.stderr
    line, left_out, total = planned.stdout.splitlines()
    assert line.startswith(f"+ {here}:v1 → {there}:v1  ")
    assert left_out == f"left out by rule 0, not_included: 1 ({here}:edge)"
    assert (total[:8], total.endswith(" to send, 0 bytes there")) == ("1 copy; ", True)
    many = source.registry.host, destination.registry.host
    as_job = cli("plan", f"{many[0]}/{source.prefix}/**", many[1], "--tags", "v*", home=home)
    assert (as_job.returncode, "1 copy; " in as_job.stdout, f"+ {here}:v1 → " in as_job.stdout) == (4, True, True)
    why = cli("plan", here, there, "--tags", "v*", "--explain", "edge", home=home)
    assert (why.returncode, why.stdout.splitlines()[0]) == (
        0,
        f"edge is not taken: rule 0 ({here}): no include matches edge",
    )
    assert "tags/include/0 v*: does not match edge" in why.stdout
    assert cli("sync", here, there, "--explain", "v1", home=home).returncode == 4
    assert destination.tags("app") == {}
    assert cli("verify", here, there, "--tags", "v*", home=home).returncode == 3

    synced = cli("sync", here, there, "--tags", "v*", home=home)
    assert (synced.returncode, synced.stderr) == (0, "")
    assert "succeeded: 1 copied of 1 images" in synced.stdout
    assert destination.tags("app") == {"v1": image.digest}
    assert cli("plan", here, there, "--tags", "v*", home=home).returncode == 0
    assert cli("verify", here, there, "--tags", "v*", home=home).returncode == 0

    submitted = cli("sync", source.reference("app", "nothing"), there, "--no-wait", home=home)
    job = submitted.stdout.strip()
    assert cli("jobs", "watch", job, home=home).returncode == 3
    filters = ("--state", "failed", "--state", "queued", "--source", "127.", "--since", "1h", "--trigger", "api")
    listed = cli("jobs", "list", *filters, home=home).stdout
    assert job in listed
    assert "images_failed" in listed
    assert "reference_not_found" in cli("jobs", "images", job, home=home).stdout
    assert "reference_not_found" not in cli("jobs", "images", job, "-q", "no such text", home=home).stdout
    assert "until: no time is" in cli("jobs", "list", "--until", "2d", "--since", "1d", home=home).stderr
    assert (
        "attempt_failed" in cli("jobs", "logs", job, home=home).stdout
        or "# " in cli("jobs", "logs", job, home=home).stdout
    )
    assert json.loads(cli("jobs", "get", job, home=home).stdout)["state"] == "failed"
    assert "1 is not taken: " in cli("jobs", "explain", job, "1", home=home).stdout
    again = cli("jobs", "retry", job, home=home)
    assert cli("jobs", "watch", again.stdout.strip(), home=home).returncode == 3

    folder = tmp_path / "policies"
    folder.mkdir()
    rule = {"source": here, "destination": there, "tags": {"include": ["edge"]}}
    (folder / "mirror.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
    shown = cli("policy", "apply", "-f", str(folder), "--dry-run", home=home)
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (4, "+ mirror"), shown.stderr
    assert cli("policy", "apply", "-f", str(folder), home=home).returncode == 0
    exported = cli("policy", "export", home=home).stdout
    (folder / "mirror.yaml").write_text(exported)
    assert cli("policy", "apply", "-f", str(folder), "--dry-run", home=home).stdout == "= mirror\n"
    run = cli("policy", "run", "mirror", home=home)
    assert cli("watch", run.stdout.strip(), home=home).returncode == 0
    assert destination.tags("app") == {"v1": image.digest, "edge": image.digest}
    assert cli("policy", "pause", "mirror", home=home).returncode == 0
    assert "enabled: false" in cli("policy", "export", "mirror", home=home).stdout
    new = tmp_path / "not" / "there-yet"
    assert cli("policy", "export", "--folder", str(new), home=home).returncode == 0
    assert cli("policy", "apply", "-f", str(new), "--dry-run", home=home).stdout == "= mirror\n"
    into_a_file = cli("policy", "export", "--folder", str(new / "mirror.yaml"), home=home)
    assert (into_a_file.returncode, "can't be written" in into_a_file.stderr) == (2, True)
    in_use = cli("registry", "rm", "source", home=home)
    assert (in_use.returncode, "mirror" in in_use.stderr) == (1, True)
    assert cli("registry", "rm", "source", "--force", home=home).returncode == 0


def test_a_file_of_another_tool_is_shown_and_then_made(home: Path) -> None:
    file = home / "images.txt"
    file.write_text("docker.io/library/redis:7 127.0.0.1:5000/redis\n")
    shown = json.loads(cli("import", str(file), "--format", "list", home=home).stdout)
    assert shown["dry_run"] is True
    assert len(shown["policies"]) == 1


def test_a_copy_needs_no_service(tmp_path: Path, source: Namespace, destination: Namespace) -> None:
    image = oci_image("local")
    source.push("app", image, "1")
    here, there = source.reference("app", "1"), destination.reference("app")
    done = cli("sync", here, there, "--local", "--insecure", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["progress"]["images"]["copied"] == 1
    assert destination.tags("app") == {"1": image.digest}
    assert cli("plan", here, there, "--local", "--insecure", home=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_local_copy_takes_credentials_from_the_environment_or_standard_input_only(
    tmp_path: Path, start_registry: Callable[[RegistryOptions], RegistryProcess], destination: Namespace
) -> None:
    registry = start_registry(RegistryOptions(users={"puller": "open sesame"}))
    with PlainClient(registry.url, account=("puller", "open sesame")) as client:
        client.push("private/app", oci_image("private"), tags=("1",))
    here, there = f"{registry.host}/private/app:1", destination.reference("app")
    local = ("sync", here, there, "--local", "--insecure")
    assert cli(*local, home=tmp_path).returncode == 3
    refused = cli(*local, "--source-creds", "puller:open sesame", home=tmp_path)
    assert (refused.returncode, "command line" in refused.stderr) == (2, True)
    assert "sesame" not in refused.stderr
    said = cli(*local, "--source-creds", "-", home=tmp_path, said="puller:open sesame\n")
    assert said.returncode == 0, said.stdout + said.stderr
    given = cli(*local, "--source-creds", "env:CREDS", home=tmp_path, CREDS="puller:open sesame")
    assert given.returncode == 0, given.stdout + given.stderr


def test_wrong_arguments_and_addresses_are_told_in_one_line(home: Path) -> None:
    nowhere = cli("jobs", "list", "--context", "there", home=home)
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (1, 1)
    assert "does not answer" in nowhere.stderr
    assert "does not answer" in cli("watch", "x", "--context", "there", home=home).stderr
    unknown = cli("jobs", "list", "--context", "elsewhere", home=home)
    assert "there are: here, there" in unknown.stderr
    wrong = cli("sync", "docker://redis:7", "127.0.0.1/x", home=home)
    assert (wrong.returncode, "SOURCE: " in wrong.stderr) == (2, True)
    assert cli("sync", "a", "b", "--insecure", home=home).returncode == 2


def test_the_doctor_says_what_is_well_and_what_is_not(tmp_path: Path, source: Namespace) -> None:
    folder = tmp_path / "service"
    folder.mkdir()
    with ServiceProcess(folder) as service:
        service.enter("good", source.registry)
        service.client.put("/v1/registries/gone", json={"host": f"127.0.0.1:{free_port()}", "insecure": True})
        database = f"sqlite+aiosqlite:///{folder / 'registry-sync.db'}"
        found = cli("doctor", home=tmp_path, REGISTRY_SYNC_DATABASE_URL=database)
    assert found.returncode == 3, found.stderr
    lines = dict(line.split(": ", 1) for line in found.stdout.splitlines())
    assert {"ok   settings", "ok   secret keys", "ok   database", "ok   registry good", "FAIL registry gone"} <= set(
        lines
    )
    missing = cli("doctor", home=tmp_path, REGISTRY_SYNC_DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path}/none/x.db")
    assert (missing.returncode, "FAIL" in missing.stdout) == (3, True)
