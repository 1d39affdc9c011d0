"""A plan of any number of tags takes the memory of a small one: counted in bytes held by the code that remembers."""

import gc
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from app.clock import now
from app.domain.job import Job, JobKind, JobState
from app.domain.manifest import Descriptor
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Reference, Registry, Repository, Tag
from app.domain.registry import RegistryEntry
from app.domain.request import SyncRequest
from app.registry import client as registry_client
from app.registry.client import ClientPool, RegistryClient, RegistryClients
from app.registry.listing.digest_lists import ListedTag
from app.sync import compare, dry_run, planner
from app.sync.compare import DigestLists
from app.sync.destination import DestinationNotes
from app.sync.dry_run import DryRun
from app.sync.known_blobs import KnownBlobs, UploadNotes
from app.sync.planner import Planner
from app.worker import runner

TAGS = tuple(Tag(f"v{number}") for number in range(50))
THERE = Registry("new.example.com:5000")


@dataclass(slots=True)
class Holding:
    """Bytes held by some files, since it began."""

    files: tuple[str, ...]

    def read(self) -> int:
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, file) for file in self.files])
        return sum(found.size for found in snapshot.statistics("filename"))


@contextmanager
def holding(*files: str | None) -> Iterator[Holding]:
    """Count what code of these files allocates and goes on holding."""
    tracemalloc.start()
    try:
        yield Holding(tuple(str(Path(file)) for file in files if file))
    finally:
        tracemalloc.stop()


class ManyRepositories(RegistryClients):
    """The clients of a job whose source has many repositories, each with the same tags; nothing is asked."""

    def __init__(self, repositories: int) -> None:
        self.repositories = repositories

    def for_registry(self, *_: object, **__: object) -> "ManyRepositories":  # type: ignore[override]  # it takes whatever is asked
        return self

    def for_repository(self, *_: object, **__: object) -> "ManyRepositories":  # type: ignore[override]  # it takes whatever is asked
        return self

    async def list_repositories(self, _namespace: str, **_: object) -> AsyncIterator[str]:
        for number in range(self.repositories):
            yield f"team/app-{number}"

    async def list_tags(self, _path: str, **_: object) -> AsyncIterator[Tag]:
        for tag in TAGS:
            yield tag


async def held_by_planning(repositories: int, *rules: dict[str, object]) -> int:
    """Plan, and return what is held when the last image was planned."""
    request = SyncRequest.model_validate({"rules": rules})
    planned = 0
    with holding(planner.__file__) as held:
        async with aclosing(Planner(ManyRepositories(repositories)).plan(request)) as found:
            async for item in found:
                planned += isinstance(item, PlannedCopy)
                if planned == repositories * len(TAGS):
                    return held.read()
    raise AssertionError(planned)


async def test_planning_10_000_images_holds_what_planning_2_500_does() -> None:
    rule: dict[str, object] = {"source": "old.example.com/**", "destination": THERE}
    elsewhere: dict[str, object] = {"source": "other.example.com/a:1", "destination": f"{THERE}/other/a:1"}
    few, many = [await held_by_planning(repositories, rule, elsewhere) for repositories in (50, 200)]
    assert many < 1.2 * few, (few, many)


@pytest.mark.parametrize(
    ("destination", "later"),
    [
        ("new.example.com:5000/flat/{name}", None),
        ("new.example.com:5000", "new.example.com:5000"),
        ("new.example.com:5000", "new.example.com:5000/team/{name}"),
    ],
)
async def test_claims_stay_where_another_source_may_go_to_the_same_place(destination: str, later: str | None) -> None:
    rules: list[dict[str, object]] = [{"source": "old.example.com/**", "destination": destination}]
    rules += [{"source": "old.example.com/**", "destination": later}] if later else []
    few, many = [await held_by_planning(repositories, *rules) for repositories in (10, 40)]
    assert many > 2 * few, (few, many)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}")


def test_a_dry_run_of_many_images_holds_what_one_of_fewer_does_and_knows_what_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 500
    monkeypatch.setattr(dry_run, "MAX_REMEMBERED", most)
    shared, found = digest(-1), []
    with holding(dry_run.__file__) as held:
        remembered = DryRun()
        for number in range(8 * most):
            place = Repository(THERE, f"team/app-{number // 100}")
            image = Reference(place, Tag(f"v{number}"))
            look = remembered.look([image])
            found.append(look.find_blob(place, shared, mounts=True))
            look.add_blob(image, shared)
            look.add_blob(image, digest(number))
            if number == 2 * most:
                full = held.read()
        assert held.read() < full * 1.1
    assert found.count(None) == 1, "a layer that all images share is sent once"


async def test_comparing_by_lists_holds_the_lists_of_few_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MAX_LISTED_TAGS", 20 * len(TAGS))
    read: list[str] = []

    class Listing:
        """A client of a registry whose lists have each the same tags."""

        entry = RegistryEntry(name="old", host="old.example.com")
        has_digest_list = True

        async def head_manifest(self, _path: str, tag: Tag) -> Descriptor:
            return Descriptor("", digest(TAGS.index(tag)), 0)

        async def list_digests(self, path: str) -> AsyncIterator[ListedTag]:
            read.append(path)
            for number, tag in enumerate(TAGS):
                yield ListedTag(tag, digest(number))

    with holding(__file__, compare.__file__) as held:
        lists, client = DigestLists(), cast("RegistryClient", Listing())
        for number in range(120):
            place = Repository(Registry("old.example.com"), f"team/app-{number}")
            found = [await lists.find(client, Reference(place, tag)) for tag in TAGS[:3]]
            assert [one.digest for one in found if one] == [digest(position) for position in range(3)]
            if number == 40:
                full = held.read()
        assert held.read() < full * 1.1
    assert len(read) == len(set(read)) == 120, "each is read once as long as its copies are made"


async def test_what_plans_looked_at_is_forgotten_after_a_few_more_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_PLANS_REMEMBERED", 2)

    async def nothing(*_: object) -> None:
        return

    uploads = UploadNotes(take=nothing, put=nothing, leave=nothing, drop=nothing)
    notes = DestinationNotes.in_memory()
    sessions = runner.SyncSessions(ClientPool(clock=now), KnownBlobs(), uploads, destination_notes=notes)
    request = SyncRequest.model_validate({"rules": [{"source": "old.example.com/a:1", "destination": THERE}]})
    kinds, before = [JobKind.PLAN, JobKind.COPY] * 4, dry_runs_held()
    for number, kind in enumerate(kinds):
        job = Job(f"job-{number}", JobState.RUNNING, request, now(), "ann", kind=kind)
        sessions.open(job, (), lambda: False)
    assert dry_runs_held() - before == 2


def dry_runs_held() -> int:
    gc.collect()
    return sum(isinstance(held, DryRun) for held in gc.get_objects())


def test_clients_of_many_repositories_hold_no_more_than_those_of_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_client, "MAX_REPOSITORIES_KNOWN", 100)
    entry = RegistryEntry(name="old", host="old.example.com")
    with holding(__file__, registry_client.__file__) as held:
        clients = RegistryClients(ClientPool(clock=now), (entry,))
        for number in range(1_000):
            assert clients.for_repository(Repository(entry.registry, f"team/app-{number}")).entry == entry
            if number == 199:
                full = held.read()
        assert held.read() < full * 1.2
