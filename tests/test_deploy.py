"""What is shipped beside the service: the dashboard and the alerts name only metrics that there are."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from app.domain.job import JobState
from app.observability import render_metrics
from app.security import Sealer
from app.services.gauges import GaugeService
from app.store.db.database import Database
from tests.conftest import PROJECT

DASHBOARD = PROJECT / "deploy/grafana/registry-sync.json"
RULES = PROJECT / "deploy/prometheus/registry-sync.rules.yml"
_OF_PROCESSES = {"process_resident_memory_bytes", "registry_sync_process_restarts_total"}
"""Told of processes that a supervisor has."""


@pytest.fixture
async def metrics(migrated_sqlite: Path) -> set[str]:
    """Return the names of all metrics there are, as they are shown."""
    database = Database(f"sqlite+aiosqlite:///{migrated_sqlite}")
    try:
        gauges = await GaugeService(database, sealer=Sealer([Sealer.make_key()]), now=lambda: datetime.now(UTC)).read()
    finally:
        await database.aclose()
    text = render_metrics({}, {}, gauges).decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | _OF_PROCESSES
    return names | {f"{name}_bucket" for name in names} | {metric.name for metric in REGISTRY.collect()}


def expressions() -> dict[str, str]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    return found


async def test_the_dashboard_and_the_alerts_name_metrics_that_there_are(metrics: set[str]) -> None:
    for place, expression in expressions().items():
        named = set(re.findall(r"\b(?:registry_sync|process)_\w+", expression))
        assert named, place
        assert named <= metrics, place


def test_states_in_expressions_are_states_of_jobs() -> None:
    states = {state for text in expressions().values() for state in re.findall(r'state="(\w+)"', text)}
    assert states <= set(JobState)


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


@NEEDS_PROMTOOL
def test_prometheus_takes_the_alerts() -> None:
    subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True)  # noqa: S603, S607 — our own command, found by PATH


@NEEDS_PROMTOOL
@pytest.mark.parametrize(("values", "fires"), [("0x10", True), (None, True), ("2x10", False)])
def test_no_worker_is_an_alert_and_so_is_no_api_that_counts_them(
    tmp_path: Path, values: str | None, *, fires: bool
) -> None:
    series = {'registry_sync_workers{instance="a"}': values} if values else {}
    expect_alerts(tmp_path, "RegistrySyncNoWorker", series, [{"severity": "critical"}] if fires else [])


DAY = 24 * 3600


@NEEDS_PROMTOOL
@pytest.mark.parametrize(
    ("alert", "metric"),
    [
        ("RegistrySyncRegistryLoginEnds", "registry_sync_registry_login_expires_timestamp_seconds"),
        ("RegistrySyncRegistryCertificateEnds", "registry_sync_registry_certificate_expires_timestamp_seconds"),
    ],
)
def test_an_end_within_a_week_is_an_alert_once_for_all_processes_that_tell_of_it(
    tmp_path: Path, alert: str, metric: str
) -> None:
    series = {f'{metric}{{registry="near",instance="{instance}"}}': f"{6 * DAY}x10" for instance in ("a", "b")} | {
        f'{metric}{{registry="far",instance="a"}}': f"{9 * DAY}x10"
    }
    expect_alerts(tmp_path, alert, series, [{"severity": "warning", "registry": "near"}])


def expect_alerts(folder: Path, alert: str, series: dict[str, str], labels: list[dict[str, str]]) -> None:
    """Have promtool see which alerts fire five minutes after the beginning of time."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    (rule,) = (rule for rule in rules if rule["alert"] == alert)
    expected = [{"exp_labels": some, "exp_annotations": annotations(rule, some)} for some in labels]
    test = {
        "rule_files": [str(RULES.resolve())],
        "tests": [
            {
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": "5m", "alertname": alert, "exp_alerts": expected}],
            }
        ],
    }
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    ran = subprocess.run(  # noqa: S603 — our own commands
        ["promtool", "test", "rules", folder / "test.yml"],  # noqa: S607 — found by PATH, as by its users
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def annotations(rule: dict[str, dict[str, str]], labels: dict[str, str]) -> dict[str, str]:
    """Return a rule's annotations with the names of its labels filled in."""
    return {
        name: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
        for name, text in rule["annotations"].items()
    }
