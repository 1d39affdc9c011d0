"""A policy's day as people read it, whatever format it is put into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def summary_title(data: Mapping[str, Any]) -> str:
    """Return the one line: the policy, and whether its day was good."""
    runs, images = data["runs"], data["images"]
    if not runs["total"]:
        return f"⚠ policy {data['policy']}: no run ended"
    failed = runs["failed"] or images["failed"]
    outcome = (
        f"{runs['failed']} of {_counted(runs['total'], 'run')} failed" if failed else _counted(runs["total"], "run")
    )
    return (
        f"{'❌' if failed else '✅'} policy {data['policy']}: {outcome}, {_counted(images['copied'], 'image')} copied"
    )


def summary_facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what there is to tell, by name."""
    yield "From", f"{data['since']} to {data['until']}"
    yield "Runs", _listed({name: count for name, count in data["runs"].items() if name != "total"})
    yield "Images", _listed(data["images"])
    yield "Sent", _bytes(data["bytes"]["transferred"])
    yield "Last run", f"{data['last_state']}, of {data['last_run_at']}" if data["last_state"] else "never"
    if data["next_run_at"]:
        yield "Next run", data["next_run_at"]
    if not data["enabled"]:
        yield "Paused", "neither its schedule nor pushes run it"


def summary_failures(data: Mapping[str, Any]) -> str:
    """Return what failed first, a line each."""
    return "\n".join(_failure(failure) for failure in data["failures"])


def _failure(failure: Mapping[str, Any]) -> str:
    side = f" at the {failure['side']}" if failure["side"] else ""
    first = f" (first: {failure['source']})" if failure["source"] else ""
    return f"{failure['count']} x {failure['code']}{side}: {failure['message']}{first}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "none"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _bytes(number: int) -> str:
    value, unit = float(number), _UNITS[0]
    for unit in _UNITS:  # noqa: B007 — the last one reached is what it is written in
        if value < _STEP:
            break
        value /= _STEP
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"
