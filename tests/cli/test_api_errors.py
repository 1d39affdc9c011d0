"""What goes wrong is told with what to type, not with what to send; and the exit code says whose fault it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.api_errors import in_words_of_commands
from tests.cli.commands import run_command
from tests.conftest import Namespace
from tests.support.images import oci_image
from tests.support.service import ServiceProcess


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as running:
        yield running


def run(service: ServiceProcess, *arguments: str) -> Any:
    return run_command(*arguments, "--url", str(service.client.base_url), home=Path("/nonexistent"))


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "SOURCE: tags are chosen with --tags: ", ["sync", "a.example.com/x:v*", "b.example.com/x"]),
        (2, "--tags: ", ["plan", "a.example.com/x", "b.example.com/x", "--tags", "/(/"]),
        (2, "--platform: ", ["verify", "a.example.com/x:1", "b.example.com/x", "--platform", "amiga"]),
        (2, "--overwrite: ", ["sync", "a.example.com/x:1", "b.example.com/x", "--overwrite", "perhaps"]),
        (2, "DESTINATION: ", ["sync", "a.example.com/x:1", "https://b.example.com/x"]),
        (2, "--since: ", ["jobs", "list", "--since", "whenever"]),
        (2, "--limit", ["jobs", "list", "--limit", "0"]),
        (2, "NAME: ", ["registry", "add", "No Name", "a.example.com"]),
        (1, "enter it: registry-sync registry add NAME HOST", ["sync", "127.0.0.1:5000/x:1", "b.example.com/x"]),
        (1, "there is no registry", ["registry", "rm", "nothing"]),
    ],
)
def test_what_is_wrong_names_the_option(service: ServiceProcess, code: int, words: str, arguments: list[str]) -> None:
    wrong = run(service, *arguments)
    assert (wrong.exit_code, words in wrong.stderr) == (code, True), wrong.stderr
    assert "/v1/" not in wrong.stderr


def test_refusals_say_which_option_would_do(service: ServiceProcess) -> None:
    assert run(service, "registry", "add", "used", "used.invalid").exit_code == 3
    body = {"rules": [{"source": "used.invalid/x", "destination": "b.invalid/x"}]}
    assert service.client.put("/v1/policies/mirror", json=body).is_success
    in_use = run(service, "registry", "rm", "used")
    assert (in_use.exit_code, "--force removes it" in in_use.stderr) == (1, True)
    assert run(service, "registry", "rm", "used", "--force").exit_code == 0


def test_a_missing_key_says_where_it_goes(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as keyed:
        made = keyed.client.post("/v1/keys", json={"name": "a", "scopes": ["keys"]})
        assert made.status_code == 201, made.text
        refused = run(keyed, "jobs", "list")
    assert refused.exit_code == 1
    assert "an API key is needed: --key, REGISTRY_SYNC_KEY, or" in refused.stderr


def test_plain_http_is_told_as_options_where_there_is_no_service() -> None:
    said = "it speaks plain http, not TLS: set insecure at PUT /v1/registries/{name} (--insecure on the command line)"
    assert "--insecure-source or --insecure-destination" in in_words_of_commands(said, is_local=True)
    assert "registry add NAME HOST --insecure" in in_words_of_commands(said, is_local=False)


def test_the_service_still_says_what_is_translated(service: ServiceProcess, source: Namespace) -> None:
    """The words that are looked for are the service's own."""
    registry = source.registry.host
    assert run(service, "registry", "add", "tls", registry).exit_code == 3
    checked = run(service, "registry", "check", "tls")
    assert "registry-sync registry add NAME HOST --insecure" in checked.stdout
    failed = run(service, "sync", source.reference("app", "1"), f"{registry}/other/app")
    assert (failed.exit_code, "registry add NAME HOST --insecure" in failed.stdout) == (3, True)
    assert service.client.delete("/v1/registries/tls").is_success


def test_a_day_with_plans_lists_and_logs(service: ServiceProcess, source: Namespace, destination: Namespace) -> None:
    source.push("app", oci_image("words"), "v1")
    service.enter("source", source.registry)
    service.enter("destination", destination.registry)
    here, there = source.reference("app"), destination.reference("app")

    nothing = run(service, "sync", here, there, "--tags", "zzz*")
    assert nothing.exit_code == 0
    assert f"left out by rule 0, not_included: 1 ({here}:v1)" in nothing.stdout

    body = {"source": here, "destination": there, "as_job": True}
    job = service.client.post("/v1/plan", json=body, params={"wait": "30s"}).json()["id"]
    assert run(service, "jobs", "watch", job).exit_code == 0
    for word in ("ls", "list"):
        rows = run(service, "jobs", word).stdout.splitlines()
        assert rows[0].split()[:3] == ["ID", "KIND", "STATE"]
        [row] = [row for row in rows if row.startswith(job)]
        assert (row.split()[1], "1 planned of 1 images" in row) == ("plan", True)

    logs = run(service, "jobs", "logs", job)
    assert (logs.exit_code, logs.stdout, "no image failed; name one to see its log" in logs.stderr) == (0, "", True)

    other = run(service, "verify", here, there, "--platform", "linux/s390x")
    assert other.exit_code == 3
    listed = run(service, "registry", "check", "source", "--namespace", source.prefix, "--json")
    assert (listed.exit_code, '"name": "list"' in listed.stdout) == (0, True)
    for word in ("ls", "list"):
        assert "source" in run(service, "registry", word).stdout


def test_files_of_other_tools_are_taken_over_with_what_stood_beside_them(
    service: ServiceProcess, tmp_path: Path
) -> None:
    images, pods = tmp_path / "images.txt", tmp_path / "pods.yaml"
    images.write_text("docker.io/library/redis:7\n")
    pods.write_text("kind: Pod\nspec: {containers: [{image: 'nginx:1.27'}]}\n")
    template = ("--destination", "b.example.com/mirror/{repository}")
    missing = run(service, "import", str(pods), "--format", "kubernetes")
    assert (missing.exit_code, "destination" in missing.stderr) == (2, True)
    for file, tool in ((images, "list"), (pods, "kubernetes")):
        shown = run(service, "import", str(file), "--format", tool, *template, "--name", "mine")
        assert (shown.exit_code, '"name": "mine' in shown.stdout) == (0, True), shown.stderr
        assert "b.example.com/mirror" in shown.stdout
    job = run(service, "import", str(images), "--format", "list", *template, "--as", "job")
    assert (job.exit_code, '"policies": []' in job.stdout) == (0, True)
    harbor = tmp_path / "harbor.json"
    harbor.write_text("[]")
    assert "host" in run(service, "import", str(harbor), "--format", "harbor").stderr
    beside = ("--format", "harbor", "--host", "h.example.com")
    empty = run(service, "import", str(harbor), *beside)
    assert (empty.exit_code, "replication policies" in empty.stderr) == (2, True)
    harbor.write_text('[{"name": "p", "dest_registry": {"id": 1, "url": "https://b.example.com"}, "enabled": true}]')
    assert run(service, "import", str(harbor), *beside).exit_code == 0
