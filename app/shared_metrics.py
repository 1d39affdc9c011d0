"""Metrics of several processes as one: each keeps its values in files that the process which is asked adds up.

Prometheus' multiprocess mode (prometheus_client docs, "Multiprocess Mode"), begun after a fork instead of by the
environment, with files named after the process: a process that is started again goes on counting where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector, values
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue, MutexValue

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class _Value:
    """One number of a metric: in memory, and in a file once metrics are shared."""

    _multiprocess = False
    _made: list[_Value] = []  # noqa: RUF012 — all that there are, shared by intent
    _kind: Any = MutexValue

    def __init__(self, *params: Any, **options: Any) -> None:
        self._params, self._options = params, options
        self._begin()
        self._made.append(self)

    @classmethod
    def share(cls, process: str) -> None:
        """Keep all values in files of the folder that the environment names, under the name of this process."""
        cls._kind = MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]  # it has no types
        for value in cls._made:
            value._begin()  # noqa: SLF001 — its own kind

    def inc(self, amount: float) -> None:
        self._real.inc(amount)

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._real.set(value, timestamp)

    def get(self) -> float:
        return float(self._real.get())

    def set_exemplar(self, exemplar: Any) -> None:
        self._real.set_exemplar(exemplar)

    def get_exemplar(self) -> Any:
        return self._real.get_exemplar()

    def _begin(self) -> None:
        self._real = self._kind(*self._params, **self._options)


values.ValueClass = _Value  # before the first metric is made


def share_metrics(folder: Path, *, process: str) -> None:
    """Keep this process's metrics where the others of the host find them.

    - `folder`: the same for all processes of a supervisor, and for no one else
    - `process`: a name that no other process has at the same time
    """
    os.environ[_FOLDER_VARIABLE] = str(folder)
    _Value.share(process)


def render_metrics(pids: Mapping[str, int], restarts: Mapping[str, int], gauges: Sequence[Metric]) -> bytes:
    """Write the metrics of all processes in Prometheus' text format; of this one alone where none are shared.

    - `pids`: the process ids of the processes, by name: their memory and CPU time are shown too (on Linux)
    - `restarts`: how often each was started again, by name
    - `gauges`: metrics of the whole service, as they were read just now
    """
    registry = CollectorRegistry()
    registry.register(_Ready(gauges))
    if _FOLDER_VARIABLE not in os.environ:
        return generate_latest(REGISTRY) + generate_latest(registry)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
    registry.register(_ProcessesCollector(pids, restarts))
    return generate_latest(registry)


class _Ready:
    """Metrics that were read already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _ProcessesCollector:
    """What the kernel knows of each process, under Prometheus' own names with the label `process`."""

    def __init__(self, pids: Mapping[str, int], restarts: Mapping[str, int]) -> None:
        self._pids = pids
        self._restarts = restarts

    def collect(self) -> list[Metric]:
        families: dict[str, Metric] = {}
        for process, pid in self._pids.items():
            for found in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, {**sample.labels, "process": process}, sample.value)
        restarts = CounterMetricFamily(
            "registry_sync_process_restarts", "How often a process was started again", labels=["process"]
        )
        for process, number in self._restarts.items():
            restarts.add_metric([process], number)
        return [*families.values(), restarts]
