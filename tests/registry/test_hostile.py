"""What a registry that means harm can't do: hold a request by trickling, or by lists that never end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Digest, Tag
from app.domain.retry_policy import RetryPolicy
from app.net.stream import Piece
from app.registry.client import RegistryClient
from app.registry.limits import MAX_PAGES, MAX_REFERRERS_PAGES, ClientSettings
from app.registry.listing.pages import ListWarnings
from tests.registry.conftest import Connect, descriptor
from tests.support.hostile_registry import IMAGE, hostile_registry
from tests.support.images import blob

LARGE = blob("large", size=32 * 1024 * 1024)
"""More than the buffers of both kernels take in."""
ENOUGH = 50
"""Seconds after which a test has hung: each of these would go on for hours."""


@pytest.fixture
def settings() -> ClientSettings:
    return ClientSettings(
        answer_seconds=0.3,
        page_trickle_seconds=0.2,
        trickle_seconds=0.2,
        trickle_bytes_per_second=100_000_000,
        idle_seconds=5,
        retry_policy=RetryPolicy(attempts=1),
        cancel_seconds=0.1,
    )


async def code_of(attempt: object) -> str:
    async with asyncio.timeout(ENOUGH):
        with pytest.raises(RegistryError) as refusal:
            await attempt  # type: ignore[misc]  # whatever a client's method returns
    return refusal.value.code


async def pieces() -> AsyncIterator[Piece]:
    for start in range(0, LARGE.size, 1024 * 1024):
        yield LARGE.data[start : start + 1024 * 1024]


async def upload(client: RegistryClient) -> None:
    session = await client.start_upload("team/app", descriptor(LARGE))
    await session.send(pieces(), size=LARGE.size, digest=Digest(LARGE.digest))


@pytest.mark.parametrize("act", ["silent", "dripping_head", "dripping_manifest"])
async def test_a_manifest_that_trickles_is_broken_off(connect: Connect, act: str) -> None:
    async with hostile_registry(act, drip_seconds=0.02) as registry:
        assert await code_of(connect(registry).get_manifest("team/app", Tag("1"))) == "timeout"


async def test_a_body_has_a_total_deadline_however_fast_it_comes(connect: Connect, settings: ClientSettings) -> None:
    async with hostile_registry("dripping_manifest", drip_seconds=0.01) as registry:
        object.__setattr__(settings, "trickle_bytes_per_second", 1)
        object.__setattr__(settings, "body_seconds", 0.3)
        assert await code_of(connect(registry).get_manifest("team/app", Tag("1"))) == "timeout"


async def test_an_upload_that_is_taken_a_byte_at_a_time_is_broken_off(connect: Connect) -> None:
    async with hostile_registry("sipping_uploads", drip_seconds=0.02) as registry:
        assert await code_of(upload(connect(registry, writing=True))) == "timeout"


async def test_referrers_that_lead_on_for_ever_are_not_followed(connect: Connect) -> None:
    async with hostile_registry("endless_referrers") as registry:
        client = connect(registry)
        asked = client.list_referrers("team/app", Digest(IMAGE.digest), list_warnings=ListWarnings())
        assert await code_of(asked) == "limit_exceeded"
        assert registry.requests["GET"] <= MAX_REFERRERS_PAGES + 2


@pytest.mark.parametrize("act", ["endless_tags", "many_values"])
async def test_lists_have_budgets(connect: Connect, act: str) -> None:
    async def tags(client: RegistryClient) -> None:
        async for _ in client.list_tags("team/app", list_warnings=ListWarnings()):
            pass

    async with hostile_registry(act) as registry:
        assert await code_of(tags(connect(registry))) == "limit_exceeded"
        assert registry.requests["GET"] <= MAX_PAGES + 2


@pytest.mark.parametrize(("limit", "most"), [("MAX_LIST_BYTES", 100), ("MAX_LIST_SECONDS", 0.0)])
async def test_a_list_has_a_budget_of_bytes_and_of_time(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, limit: str, most: float
) -> None:
    monkeypatch.setattr(f"app.registry.listing.pages.{limit}", most)
    async with hostile_registry("endless_referrers") as registry:
        client = connect(registry)
        asked = client.list_referrers("team/app", Digest(IMAGE.digest), list_warnings=ListWarnings())
        assert await code_of(asked) == "limit_exceeded"
        assert registry.requests["GET"] < MAX_REFERRERS_PAGES
