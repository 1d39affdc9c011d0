"""`policy apply`: what is in files is what is stored, no more and no less, and all of it or nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.api_client import ApiClient
from app.cli.policy_commands import _checked, _Wanted
from tests.cli.commands import run_command
from tests.support.service import ServiceProcess

RULE = {"source": "a.example.com/x", "destination": "b.example.com/x"}
NIGHTLY = {"rules": [RULE], "schedule": {"cron": "0 3 * * *"}, "labels": {"team": "a"}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, service: ServiceProcess) -> Path:
    """Make a folder for files, and delete all policies."""
    for one in service.client.get("/v1/policies").json()["items"]:
        service.client.delete(f"/v1/policies/{one['name']}")
    folder = tmp_path / "policies"
    folder.mkdir()
    return folder


def write(folder: Path, **policies: dict[str, Any]) -> None:
    for name, document in policies.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))


def policy(service: ServiceProcess, *arguments: str) -> Any:
    return run_command("policy", *arguments, "--url", str(service.client.base_url), home=Path("/nonexistent"))


def stored(service: ServiceProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = service.client.get(f"/v1/policies/{name}").json()
    return found


def test_a_file_written_by_hand_settles_and_what_is_taken_out_of_it_goes(service: ServiceProcess, folder: Path) -> None:
    write(folder, nightly=NIGHTLY)
    assert policy(service, "apply", "-f", str(folder)).exit_code == 0
    for more in (["--dry-run"], []):
        again = policy(service, "apply", "-f", str(folder), *more)
        assert (again.exit_code, again.stdout) == (0, "= nightly\n")
    assert stored(service, "nightly")["version"] == 1

    write(folder, nightly={"rules": [RULE]})
    shown = policy(service, "apply", "-f", str(folder), "--dry-run")
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (4, "~ nightly")
    changes = [line.strip() for line in shown.stdout.splitlines() if line.startswith(("  -", "  +"))]
    assert "-  cron: 0 3 * * *" in changes
    assert "-  team: a" in changes
    assert "source" not in shown.stdout, "what stays is no difference"
    assert stored(service, "nightly")["version"] == 1
    assert policy(service, "apply", "-f", str(folder)).exit_code == 0
    assert (stored(service, "nightly")["schedule"], stored(service, "nightly")["labels"]) == (None, {})


def test_a_date_in_a_file_is_one_however_yaml_reads_it(service: ServiceProcess, folder: Path) -> None:
    (folder / "old.yaml").write_text("rules: [{source: a.io/x, destination: b.io/x, created_since: 2026-01-01}]\n")
    assert policy(service, "apply", "-f", str(folder)).exit_code == 0
    assert policy(service, "apply", "-f", str(folder), "--dry-run").stdout == "= old\n"


def test_a_file_that_does_not_say_enabled_leaves_a_pause_alone(service: ServiceProcess, folder: Path) -> None:
    write(folder, nightly=NIGHTLY)
    policy(service, "apply", "-f", str(folder))
    policy(service, "pause", "nightly")
    write(folder, nightly={**NIGHTLY, "on_push": True})
    assert policy(service, "apply", "-f", str(folder)).exit_code == 0
    assert (stored(service, "nightly")["enabled"], stored(service, "nightly")["on_push"]) == (False, True)
    write(folder, nightly={**NIGHTLY, "enabled": True})
    assert policy(service, "apply", "-f", str(folder)).exit_code == 0
    assert stored(service, "nightly")["enabled"] is True


def test_one_bad_file_stores_nothing_and_each_is_named(service: ServiceProcess, folder: Path) -> None:
    write(folder, good=NIGHTLY, worse={"rules": []}, wrong={**NIGHTLY, "shedule": None})
    refused = policy(service, "apply", "-f", str(folder))
    assert refused.exit_code == 2
    first, second, last = refused.stderr.splitlines()
    assert first.startswith(f"registry-sync: {folder}/worse.yaml: /rules: ")
    assert second.startswith(f"registry-sync: {folder}/wrong.yaml: /shedule: ")
    assert last == "registry-sync: nothing was stored"
    assert service.client.get("/v1/policies/good").status_code == 404

    write(folder, worse=NIGHTLY, wrong={**NIGHTLY, "name": "good"})
    twice = policy(service, "apply", "-f", str(folder))
    assert (twice.exit_code, "good.yaml too" in twice.stderr) == (2, True)


def test_an_edit_between_the_difference_and_the_change_is_a_conflict(
    service: ServiceProcess, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, nightly=NIGHTLY)
    policy(service, "apply", "-f", str(folder))
    write(folder, nightly={"rules": [RULE]})

    def edited(client: ApiClient, *given: Any) -> list[_Wanted]:
        checked = _checked(client, *given)
        service.client.patch("/v1/policies/nightly", json={"labels": {"team": "b"}})
        return checked

    monkeypatch.setattr("app.cli.policy_commands._checked", edited)
    conflict = policy(service, "apply", "-f", str(folder))
    assert conflict.exit_code == 1
    assert "nightly.yaml: nightly was changed by another caller" in conflict.stderr
    assert stored(service, "nightly")["labels"] == {"team": "b"}


@pytest.mark.parametrize("word", ["ls", "list"])
def test_policies_are_listed_and_deleted(service: ServiceProcess, folder: Path, word: str) -> None:
    write(folder, nightly=NIGHTLY)
    policy(service, "apply", "-f", str(folder))
    policy(service, "run", "nightly")
    head, row = policy(service, word).stdout.splitlines()
    assert head.split()[:2] == ["NAME", "STATE"]
    assert row.split()[:2] == ["nightly", "enabled"]
    assert '"name": "nightly"' in policy(service, word, "--json").stdout
    assert policy(service, "rm", "nightly").exit_code == 0
    gone = policy(service, "rm", "nightly")
    assert (gone.exit_code, "there is no policy" in gone.stderr) == (1, True)
