"""What `registry-sync watch` shows: a job's live bars on a terminal, from any machine that reaches the API.

A client of the contract and nothing else: it reads the event stream, reconnects where it broke off, and knows none of
the service's insides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import httpx
import httpx_sse
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from app.cli.api_client import ApiClient
from app.cli.api_errors import check
from app.domain.errors import UnavailableError

LOST_SECONDS = 120.0
"""How long a service that answered before is asked again."""
RECONNECT_SECONDS = 1.0
LINE_SECONDS = 30.0
"""How often a line is written where there is no terminal."""
SHOWN_IMAGES = 8
"""Bars of images at work; more of them would scroll."""
SHOWN_FAILURES = 20

Event = tuple[str, dict[str, Any]]


def watch(client: ApiClient, job_id: str, *, console: Console) -> dict[str, Any]:
    """Show a job until it is done; return it.

    Raise `NotFoundError`, `RefusedError`, or `UnavailableError` where the service does not answer, or stays away.
    """
    job: dict[str, Any] = {}
    with _shown(console, client) as display:
        for name, data in follow(client.http, job_id):
            display.show(name, data)
            job = data if name == "end" else job
        if job["progress"]["images"]["failed"]:
            display.show_failures(list(client.pages(f"/v1/jobs/{job_id}/images", limit=SHOWN_FAILURES, state="failed")))
    return job


def _shown(console: Console, client: ApiClient) -> _Bars:
    return (
        _Bars(console, error_text=client.error_text)
        if console.is_terminal
        else _Lines(console, error_text=client.error_text)
    )


def follow(
    client: httpx.Client,
    job_id: str,
    *,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Yield a job's events until the last one, connecting again from where the stream broke off."""
    last_id, alive_at = "", now()
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with httpx_sse.connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
                check(source.response)
                for event in source.iter_sse():
                    last_id, alive_at = event.id or last_id, now()
                    yield event.event, json.loads(event.data)
                    if event.event == "end":
                        return
        except (httpx.TransportError, httpx_sse.SSEError, UnavailableError) as error:
            reason = f"{client.base_url} does not answer: {error}"
        else:
            reason = f"{client.base_url} ends the stream again and again"
        if not last_id or now() - alive_at > LOST_SECONDS:
            raise UnavailableError(reason)
        pause(RECONNECT_SECONDS)


class _Bars:
    """A bar for the whole job, and one for each image at work, as many as fit.

    - `error_text`: returns an error as it is shown
    """

    def __init__(self, console: Console, *, error_text: Callable[[dict[str, Any]], str]) -> None:
        self.state = ""
        self._error_text = error_text
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            SpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bytes = Progress(*columns, console=console, disable=not console.is_terminal)
        self._all = self._bytes.add_task("bytes", total=None)
        self._images: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bytes.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bytes.stop()

    def show(self, name: str, data: dict[str, Any]) -> None:
        """Take in one event."""
        match name:
            case "image":
                self._show_image(data)
            case "progress":
                self._show_progress(data)
            case "job" | "end":
                self.state = data["state"]
                self._show_progress(data["progress"])
                if name == "end":
                    self._show_end(data)
            case _:
                pass  # events of a later release

    def show_failures(self, images: list[dict[str, Any]]) -> None:
        """List images that failed, and why."""
        for image in images:
            text = f"{image['source']} → {image['destination']}: {self._error_text(image['error'])}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show_progress(self, progress: dict[str, Any]) -> None:
        amounts = progress["bytes"]
        self._bytes.update(
            self._all,
            description=f"{self.state}: {counts(progress['images'])}",
            completed=amounts["done"],
            total=amounts["total"] or None,
        )

    def _show_image(self, image: dict[str, Any]) -> None:
        bar = self._images.get(image["id"])
        if image["state"] != "running":
            if bar is not None:
                self._bytes.remove_task(self._images.pop(image["id"]))
            return
        if bar is None:
            if len(self._images) >= SHOWN_IMAGES:
                return
            bar = self._images[image["id"]] = self._bytes.add_task(f"  {image['source']}", total=None)
        self._bytes.update(bar, completed=image["bytes"]["done"], total=image["bytes"]["total"] or None)

    def _show_end(self, job: dict[str, Any]) -> None:
        for bar in self._images.values():
            self._bytes.remove_task(bar)
        self._images.clear()
        images = job["progress"]["images"]
        for line in () if images["total"] else left_out(job["selection"]):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        text = f": {self._error_text(job['error'])}" if job["error"] else ""
        self._console.print(f"{job['state']}: {counts(images)}{text}", markup=False, highlight=False)


class _Lines(_Bars):
    """A line every half minute, for pipes and logs."""

    def __init__(
        self,
        console: Console,
        *,
        error_text: Callable[[dict[str, Any]], str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, error_text=error_text)
        self._now = now
        self._said_at = now()

    def _show_progress(self, progress: dict[str, Any]) -> None:
        if self._now() - self._said_at < LINE_SECONDS:
            return
        self._said_at = self._now()
        amounts = progress["bytes"]
        left = amounts["total"] - amounts["done"]
        eta = f", {left / amounts['per_second']:.0f} s left" if amounts["per_second"] and progress["planned"] else ""
        text = f"{self.state}: {counts(progress['images'])}, {amounts['done']} of {amounts['total']} bytes{eta}"
        self._console.print(text, markup=False, highlight=False)

    def _show_image(self, image: dict[str, Any]) -> None:
        pass


def counts(images: dict[str, int]) -> str:
    """Return how far a job's images are, leaving out what is zero."""
    words = ("copied", "planned", "up_to_date", "failed", "cancelled", "running")
    text = [f"{images[word]} {word.replace('_', ' ')}" for word in words if images.get(word)]
    return f"{', '.join(text) or 'none done'} of {images['total']} images"


def left_out(selection: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield how many tags and repositories each rule of a job or a plan leaves out, for what, and the first of them."""
    for count in selection:
        if not count["taken"]:
            names = f" ({', '.join(count['first'])}{', …' if count['count'] > len(count['first']) else ''})"
            what = "repository " if count["kind"] == "repository" else ""
            shown = names if count["first"] else ""
            yield f"left out by rule {count['rule']}, {what}{count['reason']}: {count['count']:,}{shown}"
