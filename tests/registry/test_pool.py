"""What one process holds: the right entry for a repository, one set of connections for it, nothing left at the end."""

import asyncio

import pytest

from app.domain.reference import Registry, Repository, Tag
from app.domain.registry import RegistryEntry
from app.registry.client import ClientPool
from app.registry.limits import MAX_IDLE_REGISTRIES
from tests.registry.conftest import basic, descriptor, entry_of
from tests.support.clock import SettableClock
from tests.support.fake_registry import Quirks, fake_registry
from tests.support.images import blob, oci_image

HOST = Registry("registry.example.com")
IMAGE = oci_image("app")
V1 = Tag("v1")


def entry(name: str, host: str) -> RegistryEntry:
    return RegistryEntry(name=name, host=host)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("team/app", "team"),
        ("team/deep/app", "deep"),
        ("team/deep", "deep"),
        ("team/deeper/app", "team"),
        ("teams/app", "all"),
        ("app", "all"),
    ],
)
async def test_the_longest_prefix_decides(pool: ClientPool, path: str, name: str) -> None:
    entries = (entry("all", HOST), entry("team", f"{HOST}/team"), entry("deep", f"{HOST}/team/deep"))
    assert pool.clients(entries).for_repository(Repository(HOST, path)).entry.name == name


async def test_a_host_nobody_entered_is_asked_anonymously(pool: ClientPool) -> None:
    entries = (entry("team", f"{HOST}/team"),)
    client = pool.clients(entries).for_repository(Repository(HOST, "other/app"))
    assert (client.entry.is_registered, client.entry.auth.type) == (False, "none")


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "all"), ("team", "team"), ("team/deep", "team"), ("teams", "all"), ("x", "all")]
)
async def test_listing_uses_the_entry_of_the_namespace(pool: ClientPool, namespace: str, name: str) -> None:
    entries = (entry("all", HOST), entry("team", f"{HOST}/team"))
    assert pool.clients(entries).for_registry(HOST, namespace).entry.name == name


async def test_listing_a_host_with_prefixed_entries_only_is_anonymous(pool: ClientPool) -> None:
    assert not pool.clients((entry("team", f"{HOST}/team"),)).for_registry(HOST).entry.is_registered


async def test_the_same_entry_has_the_same_connections(pool: ClientPool) -> None:
    entries = (entry("all", HOST),)
    first, second = (pool.clients(entries).for_registry(HOST) for _ in range(2))
    assert first.executor is second.executor
    assert pool.clients(entries).for_repository(Repository(HOST, "a"), writing=True).executor is first.executor


async def test_a_changed_entry_has_new_logins_and_the_old_pressure(pool: ClientPool) -> None:
    async with fake_registry(Quirks(auth="token"), accounts={"ann": "secret", "bob": "hidden"}) as registry:
        registry.load("team/app", IMAGE, "v1")
        before = entry_of(registry, auth=basic())
        old = pool.clients((before,)).for_registry(before.registry)
        assert await old.head_manifest("team/app", V1)
        after = entry_of(registry, auth=basic(("bob", "hidden")), limits={"connections": 2})
        new = pool.clients((after,)).for_registry(after.registry)
        assert new.executor.window is old.executor.window
        assert new.executor.window.connections == 2
        assert await new.head_manifest("team/app", V1)
        assert [token.account for token in registry.auth.tokens] == ["ann", "bob"]
        assert list(pool._parts) == [after]
        assert await old.head_manifest("team/app", V1)  # a job that began with the old one goes on


async def test_a_transfer_survives_the_change_of_its_entry(pool: ClientPool) -> None:
    layer = blob("layer", size=400_000)
    async with fake_registry(Quirks(blob_pause_seconds=0.005)) as registry:
        registry.content.put_blob("team/app", layer.data)
        before = entry_of(registry)
        client = pool.clients((before,)).for_registry(before.registry)
        async with client.open_blob("team/app", descriptor(layer)) as reader:
            parts = aiter(reader)
            data = bytes(await anext(parts))
            pool.clients((entry_of(registry, limits={"connections": 3}),))
            await asyncio.sleep(0.02)
            data += b"".join([part async for part in parts])
        assert data == layer.data


async def test_registries_out_of_use_are_let_go(pool: ClientPool) -> None:
    clients = pool.clients(())
    for number in range(MAX_IDLE_REGISTRIES + 20):
        clients.for_registry(Registry(f"r{number}.example.com"))
    assert len(pool._parts) == MAX_IDLE_REGISTRIES
    assert len(pool._windows) == MAX_IDLE_REGISTRIES


async def test_connections_that_nobody_used_for_long_are_closed_and_made_again(pool: ClientPool) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        made = entry_of(registry)
        client = pool.clients((made,)).for_registry(made.registry)
        assert await client.head_manifest("team/app", V1)
        await pool.close_idle(60)
        assert pool._parts[made].http._pools
        await pool.close_idle(0)
        assert not pool._parts[made].http._pools
        assert await client.head_manifest("team/app", V1)


async def test_connections_in_use_are_not_idle(pool: ClientPool) -> None:
    layer = blob("layer", size=400_000)
    async with fake_registry(Quirks(blob_pause_seconds=0.005)) as registry:
        registry.content.put_blob("team/app", layer.data)
        made = entry_of(registry)
        client = pool.clients((made,)).for_registry(made.registry)
        async with client.open_blob("team/app", descriptor(layer)) as reader:
            parts = aiter(reader)
            data = bytes(await anext(parts))
            await pool.close_idle(0)
            data += b"".join([part async for part in parts])
        assert data == layer.data


async def test_a_closed_pool_holds_no_connections(clock: SettableClock) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        pool = ClientPool(clock=clock)
        made = entry_of(registry)
        client = pool.clients((made,)).for_registry(made.registry)
        await asyncio.gather(*(client.head_manifest("team/app", V1) for _ in range(5)))
        await pool.aclose()
        await pool.aclose()
