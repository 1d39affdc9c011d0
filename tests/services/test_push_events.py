"""Pushes that our own copies cause: what goes round in circles is found out, whatever the sender tells."""

import json
from collections.abc import AsyncIterator

import pytest
import uuid_utils

from app.domain.hook_event import HookEvent, HookEventFilter
from app.domain.job import JobState
from app.domain.page import PageRequest
from app.domain.policy import Policy
from app.domain.push_event import HookSettings
from app.domain.registry import RegistryEntry
from app.jobs.policy_jobs import PolicyJobs
from app.jobs.push_jobs import MAX_UNPROVEN_ROUNDS, PushMatcher
from app.net.address_guard import AddressRules
from app.services.policies import PolicyService
from app.services.push_deduplication import PushEventLog
from app.services.push_events import PushEventService
from app.store.db.database import Database
from app.store.registries import RegistryStore
from app.webhooks.google_keys import GoogleKeys
from app.webhooks.inbound import RawDelivery
from tests.worker.house import CALLER, SEALER, House, now
from tests.worker.sync_sessions import DIGEST, Journal

SECRET = "a secret of both hooks"
LEFT, RIGHT = "left.example.com", "right.example.com"
OTHER = f"sha256:{'b' * 64}"
OURS, THEIRS = "registry-sync", "docker/27.1.1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
async def house(database_url: str, journal: Journal) -> AsyncIterator[House]:
    database = Database(database_url)
    house = House(database, journal)
    async with database.transaction() as session:
        for name, host in (("left", LEFT), ("right", RIGHT)):
            auth = {"type": "header", "header": "X-Secret", "secret": SECRET}
            hook = HookSettings.model_validate({"format": "distribution", "auth": auth})
            await RegistryStore(session, SEALER).put(RegistryEntry(name=name, host=host, hook=hook), now=now())
    yield house
    await database.aclose()


@pytest.fixture
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("journal") / "journal")


def policy_jobs(house: House) -> PolicyJobs:
    return PolicyJobs(house.queue, clock=now, new_id=new_id)


def new_id() -> str:
    return str(uuid_utils.uuid7())


async def keep(house: House, name: str, source: str, destination: str) -> None:
    policy = Policy.model_validate(
        {"name": name, "rules": [{"source": source, "destination": destination}], "on_push": True}
    )
    policies = PolicyService(house.database, policy_jobs(house), admission=house.admission, now=now, new_id=new_id)
    await policies.put(policy, expected_version=None, caller=CALLER)


async def push(
    house: House, registry: str, image: str, *, by: str | None = THEIRS, digest: str | None = DIGEST
) -> HookEvent:
    """Tell of a push as a registry does; without `by` and `digest` as one that tells less."""
    repository, _, tag = image.partition(":")
    target = {"mediaType": MANIFEST, "repository": repository, "tag": tag, "digest": digest}
    event = {"id": new_id(), "action": "push", "target": target, "request": {"useragent": by}}
    keys = GoogleKeys(AddressRules())
    log = PushEventLog(house.database, matcher := PushMatcher(house.database, policy_jobs(house), SEALER))
    service = PushEventService(house.database, log, sealer=SEALER, google_keys=keys, now=now, new_id=new_id)
    body = json.dumps({"events": [event]}).encode()
    try:
        receipt = await service.receive(registry, RawDelivery(body, {"x-secret": SECRET}))
        while await matcher.match_next():
            pass
    finally:
        await keys.aclose()
    stored = await service.list(HookEventFilter(), PageRequest(), caller=CALLER)
    return next(event for event in stored.items if event.id == receipt.events[0])


async def done(house: House, event: HookEvent) -> None:
    for job_id in event.jobs:
        job = await house.done(await house.jobs.get(job_id, caller=CALLER))
        assert job.state is JobState.SUCCEEDED


async def point_at_each_other(house: House) -> None:
    await keep(house, "there", f"{LEFT}/**", f"{RIGHT}/l")
    await keep(house, "back", f"{RIGHT}/**", f"{LEFT}/r")


@pytest.mark.parametrize("by", [OURS, None])
async def test_a_push_that_comes_back_to_a_rule_it_went_through_ends_there(house: House, by: str | None) -> None:
    await point_at_each_other(house)
    async with house.worker():
        first = await push(house, "left", "app:t1")
        await done(house, first)
        second = await push(house, "right", "l/app:t1", by=by)
        await done(house, second)
        third = await push(house, "left", "r/l/app:t1", by=by)
    assert (len(first.jobs), len(second.jobs)) == (1, 1)
    assert (third.jobs, third.reason) == ((), "loop")


@pytest.mark.parametrize(("by", "digest"), [(THEIRS, DIGEST), (OURS, OTHER), (None, OTHER)])
async def test_what_somebody_else_pushes_to_where_we_wrote_is_a_push_like_any(
    house: House, by: str | None, digest: str
) -> None:
    await point_at_each_other(house)
    async with house.worker():
        await done(house, await push(house, "left", "app:t1"))
        await done(house, await push(house, "right", "l/app:t1", by=OURS))
        anew = await push(house, "left", "r/l/app:t1", by=by, digest=digest)
        assert len(anew.jobs) == 1


async def test_a_sender_that_tells_next_to_nothing_goes_round_for_a_while_and_no_longer(house: House) -> None:
    await keep(house, "there", f"{LEFT}/app", f"{RIGHT}/app")
    await keep(house, "back", f"{RIGHT}/app", f"{LEFT}/app")
    rounds = 0
    async with house.worker():
        receipt = await push(house, "left", "app:t1", by=None, digest=None)
        while receipt.jobs:
            rounds += 1
            assert rounds <= 2 * MAX_UNPROVEN_ROUNDS
            await done(house, receipt)
            side = "right" if rounds % 2 else "left"
            receipt = await push(house, side, "app:t1", by=None, digest=None)
    assert receipt.reason == "loop"
    assert rounds == 2 * MAX_UNPROVEN_ROUNDS


async def test_a_push_by_somebody_shortens_the_way_of_a_job_that_waits(house: House) -> None:
    await point_at_each_other(house)
    async with house.worker():
        await done(house, await push(house, "left", "app:t1"))
    ours = await push(house, "right", "l/app:t1", by=OURS)
    theirs = await push(house, "right", "l/app:t1", by=THEIRS)
    assert ours.jobs == theirs.jobs
    async with house.worker():
        await done(house, theirs)
        onward = await push(house, "left", "r/l/app:t1", by=OURS)
    assert len(onward.jobs) == 1, "somebody pushed this, so the rule from left to right has not seen it"
