"""What `plan`, `verify` and `sync --dry-run` show: a coloured difference with sizes and reasons, or why of one tag.

A plan that does not fit into one answer is made as a job; of such a plan only what differs is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from app.cli.api_client import ApiClient
from app.cli.options import CHANGES, FAILED, print_json
from app.cli.watch import left_out, watch

_SIGNS = {"copy": ("+", "green"), "update": ("~", "yellow"), "refused": ("!", "red"), "failed": ("!", "red")}
_OUTCOMES = {"takes": ("+", "green"), "drops": ("-", "yellow"), "unknown": ("?", "red"), "passes": (" ", "dim")}
_ACTIONS = ("copy", "update", "up_to_date", "refused", "failed")
_DIFFERING = ["planned", "failed", "cancelled"]
"""States of a plan job's images that are shown."""
_SHORT_DIGEST = 19


@dataclass(slots=True)
class _Totals:
    """What a plan comes to."""

    counts: Counter[str]
    to_send: int
    there: int
    is_cut: bool = False

    @property
    def exit_code(self) -> int:
        if self.counts["failed"] or self.counts["refused"]:
            return FAILED
        return CHANGES if self.counts["copy"] or self.counts["update"] or self.is_cut else 0

    def __str__(self) -> str:
        counted = [f"{self.counts[name]:,} {name.replace('_', ' ')}" for name in _ACTIONS if self.counts[name]]
        if not counted:
            return "nothing to copy"
        amounts = f"; {decimal(self.to_send)} to send, {decimal(self.there)} there" if self.to_send else ""
        return f"{', '.join(counted)}{amounts}{'; the plan was cut, there is more' if self.is_cut else ''}"


def show_plan(client: ApiClient, request: dict[str, Any], *, as_json: bool) -> int:
    """Print what a request would do, as a job where it is large; return the exit code for it."""
    is_large = str(request["source"]).endswith("/**")
    planned = None if is_large else client.post("/v1/plan", request)
    if planned is None or not planned["is_complete"]:
        return _show_job(client, client.post("/v1/plan", request | {"as_job": True}), as_json=as_json)
    if as_json:
        print_json(planned)
    totals = _totals_of(planned["images"])
    if not as_json:
        _print(client, planned["images"], planned, totals=totals)
    return totals.exit_code


def show_explanation(client: ApiClient, request: dict[str, Any], tag: str, *, as_json: bool) -> int:
    """Print why one tag is taken or dropped, and what would become of it; return the exit code for that."""
    planned = client.post("/v1/plan", request, explain=tag)
    totals = _totals_of(planned["images"])
    if as_json:
        print_json(planned)
    else:
        print_explanation(client, planned["explanation"], planned["images"])
    is_unknown = planned["explanation"] is None or any(
        rule["outcome"] == "unknown" for rule in planned["explanation"]["rules"]
    )
    return FAILED if is_unknown else totals.exit_code


def print_explanation(client: ApiClient, explanation: dict[str, Any] | None, images: Iterable[dict[str, Any]]) -> None:
    """Print what each rule, and each part of it, says of a tag."""
    console = Console(highlight=False, soft_wrap=True)
    if explanation is None:
        console.print(Text("the source took too long to answer; ask again", style="red"))
        return
    console.print(
        f"{explanation['tag']} is {'taken' if explanation['taken'] else 'not taken'}: {explanation['message']}"
    )
    for rule in explanation["rules"]:
        sign, color = _OUTCOMES[rule["outcome"]]
        console.print(Text(f"{sign} rule {rule['rule']} ({rule['source']}): {rule['reason']}", style=color))
        for step in rule["steps"]:
            sign, color = _OUTCOMES[step["effect"]]
            matcher = f" {step['matcher']}" if step["matcher"] else ""
            place = step["pointer"].removeprefix(f"/rules/{rule['rule']}/")
            console.print(Text(f"    {sign} {place}{matcher}: {step['message']}", style=color))
    for image in images:
        console.print(_line(image, client))


def _show_job(client: ApiClient, job: dict[str, Any], *, as_json: bool) -> int:
    if not job["done"]:
        job = watch(client, job["id"], console=Console(stderr=True))
    counts = Counter({name: job["totals"][name] for name in _ACTIONS})
    amounts, is_cut = job["progress"]["bytes"], job["state"] == "cancelled" or not job["progress"]["planned"]
    totals = _Totals(counts, amounts["to_send"], amounts["done"], is_cut)
    path = f"/v1/jobs/{job['id']}/images"
    if as_json:
        rows = list(client.pages(path))
        shown = {name: job[name] for name in ("totals", "selection", "warnings", "error")}
        print_json({"plan": job["id"], "images": rows, "is_complete": not is_cut, **shown})
    else:
        _print(client, client.pages(path, state=_DIFFERING), job, totals=totals)
        Console(highlight=False, soft_wrap=True).print(f"as a job: {job['id']}")
    return FAILED if job["state"] == "failed" else totals.exit_code


def _totals_of(images: Iterable[dict[str, Any]]) -> _Totals:
    totals = _Totals(Counter(), 0, 0)
    for image in images:
        totals.counts[image["action"]] += 1
        totals.to_send += image["bytes"]["to_send"]
        totals.there += image["bytes"]["there"]
    return totals


def _print(client: ApiClient, images: Iterable[dict[str, Any]], planned: dict[str, Any], *, totals: _Totals) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for image in images:
        console.print(_line(image, client))
    for warning in planned["warnings"]:
        console.print(Text(f"warning: {warning['message']}", style="yellow"))
    for line in left_out(planned["selection"]):
        console.print(Text(line, style="dim"))
    console.print(str(totals))


def _line(image: dict[str, Any], client: ApiClient) -> Text:
    sign, color = _SIGNS.get(image["action"] or "failed", ("=", "dim"))
    said = []
    if image["action"] in {"copy", "update"}:
        said.append(decimal(image["bytes"]["to_send"]))
    if image["action"] == "update" and image["previous_digest"]:
        said.append(
            f"{image['previous_digest'][:_SHORT_DIGEST]} → {(image['destination_digest'] or '?')[:_SHORT_DIGEST]}"
        )
    if image["error"]:
        said.append(client.error_text(image["error"]))
    elif image["reason"]:
        said.append(image["reason"])
    why = f"  {', '.join(said)}" if said else ""
    return Text(f"{sign} {image['source']} → {image['destination']}{why}", style=color)
