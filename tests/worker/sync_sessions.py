"""A sync_session without registries: what a request's tags are called says what happens to them.

    t1 …           copied at once, 100 bytes
    many-500       500 images
    slow-3s        takes three seconds, 100 bytes a tenth of one
    gate-2-17      waits until the test opens gate 2
    fails          fails for good
    thrice         arrives with the third try
    away           its registry does not answer now
    paused         its registry asks for a pause, the first time only; `unlisted-paused` while listing
    breaks         raises what nobody thought of
    kills          ends the process as a power cut would, the first time
    unlisted       a list that can't be had; `unlisted-once` the first time only, `unlisted-twice` the first two
    clashes        its destination is that of the tag before it
    unplannable    ends the planning with what nobody thought of
    warns          a warning beside the image

Everything that is begun and ended is written to a journal that several processes may share.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import RegistryError
from app.domain.job import Job
from app.domain.plan import FailedListing, Listing, PlannedCopy
from app.domain.reference import Digest, Reference, Tag
from app.domain.registry import RegistryEntry
from app.domain.report import CopyResult, ExecutionError, JobWarning, Tally
from app.domain.request import Options, SyncRequest
from app.sync.destination import Observe
from app.sync.planner import Planned, PlanScope
from app.worker.runner import SyncSession, WillBeResumed

SIZE = 100
DIGEST = Digest(f"sha256:{'a' * 64}")
STEP_SECONDS = 0.1
PAUSE_SECONDS = 6.0
"""Longer than a planning rests, so that it shows which of the two is kept to."""


@dataclass(frozen=True)
class Line:
    """What happened to a destination, in which process."""

    event: str
    pid: int
    destination: str


class Journal:
    """A file that all processes of a test write to, a line at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()

    def write(self, event: str, destination: object) -> None:
        with self.file.open("a") as output:
            output.write(f"{event} {os.getpid()} {destination}\n")

    def lines(self) -> list[Line]:
        found = [line.split(" ", 2) for line in self.file.read_text().splitlines()]
        return [Line(event, int(pid), destination) for event, pid, destination in found]

    def events(self, destination: str) -> list[str]:
        """List what happened to the destinations that end so."""
        return [line.event for line in self.lines() if line.destination.endswith(destination)]

    def is_first(self, what: object) -> bool:
        """Say whether nobody has asked this before."""
        try:
            self._mark(what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def was_asked(self, what: object) -> bool:
        """Say whether somebody has asked whether this is the first."""
        return self._mark(what).exists()

    def open_gate(self, gate: int) -> None:
        """Let the images end that wait at a gate."""
        self._mark(f"gate {gate}").touch()

    async def wait_at_gate(self, gate: int) -> None:
        """Wait until a gate is open."""
        while not self._mark(f"gate {gate}").exists():  # noqa: ASYNC110 — another process opens it
            await asyncio.sleep(STEP_SECONDS)

    def _mark(self, what: object) -> Path:
        return self.file.with_name(f"{self.file.name}.{re.sub(r'[^A-Za-z0-9]', '-', str(what))}")


class Steered:
    """Opens workshops that do what the tags of a request say."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def open(self, _job: Job, _entries: tuple[RegistryEntry, ...], _hands_on: WillBeResumed) -> SyncSession:
        return SyncSession(self.plan, self.copy)

    async def plan(self, request: SyncRequest, scope: PlanScope) -> AsyncGenerator[Planned]:
        for number, rule in enumerate(request.rules):
            source = rule.source_pattern
            assert source.repository is not None
            for position, tag in enumerate(source.tags):
                listing = Listing(number, f"{source.repository}:{tag}")
                if not scope.wants(listing):
                    continue
                self.journal.write("plan", tag)
                if (error := await self._disturb_planning(tag)) is not None:
                    yield FailedListing(listing, rule.destination[0], error)
                elif tag == "warns":
                    yield JobWarning("no_match", ("something",), rule=number)
                for name in [] if error else _names(tag):
                    lands_as = source.tags[position - 1] if tag == "clashes" else name
                    places = [f"{place.registry}/{place.path}:{lands_as}" for place in rule.destination_templates]
                    copy = PlannedCopy(
                        Reference(source.repository, name), tuple(Reference.parse(place) for place in places)
                    )
                    for planned in scope.claims.take(copy):
                        yield planned

    async def _disturb_planning(self, tag: Tag) -> RegistryError | None:
        if tag == "unplannable":
            raise ZeroDivisionError
        times = {"unlisted-once": 1, "unlisted-twice": 2}.get(tag, 0)
        is_away = any(self.journal.is_first(f"{tag} {time}") for time in range(times))
        if tag == "unlisted-paused" and self.journal.is_first(tag):
            return RegistryError(
                "leave me alone",
                registry="src.example.com",
                operation="list_tags",
                code="rate_limited",
                temporary=True,
                retry_after=PAUSE_SECONDS,
            )
        if tag == "unlisted" or is_away:
            return RegistryError(
                "it does not answer",
                registry="src.example.com",
                operation="list_tags",
                code="registry_unreachable",
                temporary=is_away,
            )
        if tag.startswith("slowly-"):
            await asyncio.sleep(float(tag.removeprefix("slowly-").removesuffix("s")))
        if tag == "holds-planner" and self.journal.is_first("planning"):
            await asyncio.Event().wait()
        return None

    async def copy(self, copy: PlannedCopy, _options: Options, *, observe: Observe) -> tuple[CopyResult, ...]:
        for destination in copy.destinations:
            self.journal.write("begin", destination)
        try:
            results = [await self._copy(copy.source.tag or Tag("none"), each, observe) for each in copy.destinations]
        except asyncio.CancelledError:
            for destination in copy.destinations:
                self.journal.write("stop", destination)
            raise
        for result in results:
            self.journal.write("end", result.destination)
        return tuple(results)

    async def _copy(self, tag: Tag, destination: Reference, observe: Observe) -> CopyResult:
        if tag.startswith("slow-"):
            return await self._copy_slowly(tag, destination, observe)
        if tag.startswith("gate-"):
            await self.journal.wait_at_gate(int(tag.split("-")[1]))
        if tag == "fails":
            return CopyResult(destination, "failed", "failed", error=ExecutionError("denied", "no", side="destination"))
        if tag == "away":
            error = ExecutionError("registry_unreachable", "no", side="destination", temporary=True)
            return CopyResult(destination, "failed", "failed", error=error, retry_later=True)
        if tag == "paused" and self.journal.is_first(destination):
            error = ExecutionError("rate_limited", "leave me alone", registry="src.example.com", temporary=True)
            return CopyResult(destination, "failed", "failed", error=error, retry_after=PAUSE_SECONDS)
        if tag == "breaks":
            raise ZeroDivisionError
        if tag == "kills" and self.journal.is_first(destination):
            os.kill(os.getpid(), signal.SIGKILL)
        tally = Tally(blobs_transferred=1, bytes_total=SIZE, bytes_done=SIZE, bytes_transferred=SIZE)
        observe(destination, tally)
        await asyncio.sleep(0)
        attempts = 3 if tag == "thrice" else 1
        return CopyResult(
            destination, "copied", "copy", digest=DIGEST, destination_digest=DIGEST, tally=tally, attempts=attempts
        )

    async def _copy_slowly(self, tag: Tag, destination: Reference, observe: Observe) -> CopyResult:
        seconds = float(tag.split("-")[1].removesuffix("s"))
        steps = max(1, round(seconds / STEP_SECONDS))
        tally = Tally()
        for step in range(1, steps + 1):
            await asyncio.sleep(seconds / steps)
            tally = Tally(bytes_total=steps * SIZE, bytes_done=step * SIZE, bytes_transferred=step * SIZE)
            observe(destination, tally)
        return CopyResult(destination, "copied", "copy", digest=DIGEST, destination_digest=DIGEST, tally=tally)


def _names(tag: Tag) -> list[Tag]:
    if not tag.startswith("many-"):
        return [tag]
    return [Tag(f"{tag}-{number}") for number in range(int(tag.removeprefix("many-")))]
