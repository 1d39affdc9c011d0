"""Gauges: what the metrics tell of the whole service, read from the database when they are asked for.

Every process that answers `/metrics` shows the same jobs, queue, workers, deliveries and policies; what is gone has no
sample any more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version

from prometheus_client.core import GaugeMetricFamily, Metric

from app.net.http_headers import PRODUCT
from app.security import Sealer
from app.store.backlog import Backlog, BacklogStore, PolicyState
from app.store.db.database import Database
from app.store.registries import RegistryStore

MAX_POLICIES = 1_000
"""Policies that have gauges of their own, by name: more series than that are of no use."""


class GaugeService:
    """Reads the gauges of the whole service.

    - `sealer`: tries which stored secrets can be opened
    - `now`: the clock, in UTC
    """

    def __init__(self, database: Database, *, sealer: Sealer, now: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._now = now
        self._unreadable: tuple[object, tuple[str, ...]] | None = None
        """What was found last, and what says whether it still holds."""

    async def read(self) -> list[Metric]:
        """Return the gauges as the database has them now; raise `UnavailableError`."""
        now = self._now()
        backlog, runs = await self.read_backlog()
        unreadable = await self.read_unreadable()
        return [_build_info(), *_of_backlog(backlog, now), *_of_policies(runs, now), _of_secrets(unreadable)]

    async def read_unreadable(self) -> tuple[str, ...]:
        """List the registries with a secret that can't be opened; they are tried anew when one was changed."""
        async with self._database.reading() as session:
            store = RegistryStore(session, self._sealer)
            versions = await store.read_versions()
            if self._unreadable is None or self._unreadable[0] != versions:
                self._unreadable = versions, await store.list_unreadable()
        return self._unreadable[1]

    async def read_backlog(self) -> tuple[Backlog, tuple[PolicyState, ...]]:
        """Return what waits and who works, and how policies stand; raise `UnavailableError`."""
        async with self._database.reading() as session:
            store = BacklogStore(session)
            return await store.read(now=self._now()), await store.list_policy_runs(limit=MAX_POLICIES)


def _build_info() -> Metric:
    info = GaugeMetricFamily("registry_sync_build_info", "The release that runs: 1", labels=["version"])
    info.add_metric([version(PRODUCT)], 1)
    return info


def _of_secrets(unreadable: tuple[str, ...]) -> Metric:
    text = "1 for a registry with a stored secret that can't be opened: its key is not among the secret keys"
    gauge = GaugeMetricFamily("registry_sync_secret_unreadable", text, labels=["registry"])
    for name in unreadable:
        gauge.add_metric([name], 1)
    return gauge


def _of_backlog(backlog: Backlog, now: datetime) -> list[Metric]:
    jobs = GaugeMetricFamily("registry_sync_jobs", "Jobs that are not done, by state", labels=["state"])
    for state, number in backlog.jobs.items():
        jobs.add_metric([state], number)
    waited = (now - backlog.oldest_queued_at).total_seconds() if backlog.oldest_queued_at else 0.0
    values = {
        "queue_depth": ("Units of work that wait for a worker", backlog.queued_units),
        "queue_oldest_seconds": ("How long the longest waiting unit that may begin has waited", max(0.0, waited)),
        "workers": ("Worker processes whose heartbeat is fresh", backlog.workers),
        "deliveries_pending": ("Notifications that are not delivered yet", backlog.pending_deliveries),
        "hook_events_pending": ("Push events that are not matched with policies yet", backlog.unmatched_events),
    }
    return [
        jobs,
        *(GaugeMetricFamily(f"registry_sync_{name}", text, value=number) for name, (text, number) in values.items()),
    ]


def _of_policies(runs: tuple[PolicyState, ...], now: datetime) -> list[Metric]:
    success = GaugeMetricFamily(
        "registry_sync_policy_last_success_timestamp_seconds",
        "When the last job of a policy that succeeded had ended",
        labels=["policy"],
    )
    state = GaugeMetricFamily(
        "registry_sync_policy_last_run_state", "1 for the state of a policy's last job", labels=["policy", "state"]
    )
    lag = GaugeMetricFamily(
        "registry_sync_policy_lag_seconds", "How long a scheduled run of a policy is overdue", labels=["policy"]
    )
    drift = GaugeMetricFamily(
        "registry_sync_policy_drift_images",
        "Images and lists of a policy's last job that failed: what the destination may lack",
        labels=["policy"],
    )
    for run in runs:
        if run.succeeded_at is not None:
            success.add_metric([run.policy], run.succeeded_at.timestamp())
        if run.state is not None:
            state.add_metric([run.policy, run.state], 1)
            drift.add_metric([run.policy], run.failed_images)
        if run.next_run_at is not None:
            lag.add_metric([run.policy], max(0.0, (now - run.next_run_at).total_seconds()))
    return [success, state, lag, drift]
