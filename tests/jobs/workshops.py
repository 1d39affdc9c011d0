"""A workshop without registries: what a request's tags are called says what happens to them.

    t1 …           copied at once, 100 bytes
    many-500       500 images
    slow-3s        takes three seconds, 100 bytes a tenth of one
    fails          fails for good
    thrice         arrives with the third try
    away           its registry does not answer now
    breaks         raises what nobody thought of
    kills          ends the process as a power cut would, the first time
    unlisted       can't be planned; `unlisted-once` the first time only
    clashes        two sources would become one destination
    warns          a warning beside the image

Everything that is begun and ended is written to a journal that several processes may share.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import InvalidRequestError, RegistryError
from app.domain.job import Job
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Reference, Tag
from app.domain.registry import RegistryEntry
from app.domain.report import CopyResult, ExecutionError, JobWarning, Tally
from app.domain.request import Options, SyncRequest
from app.jobs.workshop import HandsOn, Observe, Workshop

SIZE = 100
DIGEST = Digest(f"sha256:{'a' * 64}")
STEP_SECONDS = 0.1


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
        mark = self.file.with_name(f"{self.file.name}.{re.sub(r'[^A-Za-z0-9]', '-', str(what))}")
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Steered:
    """Opens workshops that do what the tags of a request say."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def open(self, _job: Job, _entries: tuple[RegistryEntry, ...], _hands_on: HandsOn) -> Workshop:
        return Workshop(self.plan, self.copy)

    async def plan(self, request: SyncRequest) -> AsyncIterator[PlannedCopy | JobWarning]:
        for rule in request.rules:
            source, destinations = rule.source_pattern, rule.destination_templates
            for tag in source.tags:
                self.journal.write("plan", tag)
                await self._disturb_planning(tag)
                if tag == "warns":
                    yield JobWarning("no_match", "something matched nothing")
                count = int(tag.removeprefix("many-")) if tag.startswith("many-") else 1
                for number in range(count):
                    name = Tag(tag if count == 1 else f"{tag}-{number}")
                    assert source.repository is not None
                    yield PlannedCopy(
                        Reference(source.repository, name),
                        tuple(
                            Reference.parse(f"{template.registry}/{template.path}:{name}") for template in destinations
                        ),
                    )

    async def _disturb_planning(self, tag: Tag) -> None:
        if tag == "clashes":
            raise InvalidRequestError("two sources would become one", code="destination_conflict")
        if tag == "unlisted" or (tag == "unlisted-once" and self.journal.is_first("listing")):
            raise RegistryError(
                "it does not answer",
                registry="src.example.com",
                operation="list_tags",
                code="registry_unreachable",
                temporary=tag == "unlisted-once",
            )
        if tag.startswith("slowly-"):
            await asyncio.sleep(float(tag.removeprefix("slowly-").removesuffix("s")))
        if tag == "kills-planner" and self.journal.is_first("planning"):
            os.kill(os.getpid(), signal.SIGKILL)

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
        if tag == "fails":
            return CopyResult(destination, "failed", error=ExecutionError("denied", "no", side="destination"))
        if tag == "away":
            error = ExecutionError("registry_unreachable", "no", side="destination", temporary=True)
            return CopyResult(destination, "failed", error=error, may_pass=True)
        if tag == "breaks":
            raise ZeroDivisionError
        if tag == "kills" and self.journal.is_first(destination):
            os.kill(os.getpid(), signal.SIGKILL)
        tally = Tally(blobs_transferred=1, bytes_total=SIZE, bytes_done=SIZE, bytes_transferred=SIZE)
        observe(destination, tally)
        await asyncio.sleep(0)
        attempts = 3 if tag == "thrice" else 1
        return CopyResult(
            destination, "copied", digest=DIGEST, destination_digest=DIGEST, tally=tally, attempts=attempts
        )

    async def _copy_slowly(self, tag: Tag, destination: Reference, observe: Observe) -> CopyResult:
        seconds = float(tag.split("-")[1].removesuffix("s"))
        steps = max(1, round(seconds / STEP_SECONDS))
        tally = Tally()
        for step in range(1, steps + 1):
            await asyncio.sleep(seconds / steps)
            tally = Tally(bytes_total=steps * SIZE, bytes_done=step * SIZE, bytes_transferred=step * SIZE)
            observe(destination, tally)
        return CopyResult(destination, "copied", digest=DIGEST, destination_digest=DIGEST, tally=tally)


def _names(tag: Tag) -> list[Tag]:
    if not tag.startswith("many-"):
        return [tag]
    return [Tag(f"{tag}-{number}") for number in range(int(tag.removeprefix("many-")))]
