"""Registries: what is secret is sealed, each for its own place, and comes back to who asks for the entry."""

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.domain.errors import ConflictError, NotFoundError, UnavailableError
from app.domain.registry import BasicAuth, BearerAuth, NoAuth, RegistryEntry, RegistryLimits, TlsSettings
from app.security import Sealer
from app.store.db.database import Database
from app.store.registries import RegistryStore
from tests.support.clock import START

OLD, NEW = Sealer.make_key(), Sealer.make_key()
SEALER = Sealer([OLD])
PASSWORD = "hunter2-and-more"
ENTRY = RegistryEntry(
    name="hub",
    host="registry.example.com:5000/team",
    auth=BasicAuth(username="u", password=SecretStr(PASSWORD)),
    tls=TlsSettings(client_certificate="CERT", client_key=SecretStr("KEY-BYTES")),
    limits=RegistryLimits(connections=3, requests_per_second=1.5),
    trusted_hosts=("*.example.net",),
)


async def put(database: Database, entry: RegistryEntry, sealer: Sealer = SEALER) -> bool:
    async with database.transaction() as session:
        return await RegistryStore(session, sealer).put(entry, now=START)


async def get(database: Database, name: str, sealer: Sealer = SEALER) -> RegistryEntry:
    async with database.reading() as session:
        return await RegistryStore(session, sealer).get(name)


async def everything(database: Database) -> str:
    async with database.reading() as session:
        rows = await session.execute(text("SELECT entry, secrets FROM registries"))
        return "\n".join(str(row) for row in rows)


async def test_an_entry_comes_back_as_it_was_put_with_nothing_secret_in_sight(database: Database) -> None:
    assert await put(database, ENTRY)
    assert await get(database, "hub") == ENTRY
    stored = await everything(database)
    assert PASSWORD not in stored
    assert "KEY-BYTES" not in stored
    assert "CERT" in stored


async def test_putting_it_again_replaces_it_whole(database: Database) -> None:
    await put(database, ENTRY)
    plain = ENTRY.model_copy(update={"auth": NoAuth(), "tls": TlsSettings()})
    assert not await put(database, plain)
    assert await get(database, "hub") == plain


async def test_every_kind_of_secret_survives(database: Database) -> None:
    entry = RegistryEntry(name="b", host="b.example.com", auth=BearerAuth(token=SecretStr("t0ken")))
    await put(database, entry)
    await put(database, ENTRY)
    async with database.reading() as session:
        assert await RegistryStore(session, SEALER).list() == (entry, ENTRY)


async def test_one_host_has_one_entry_but_a_prefix_of_it_another(database: Database) -> None:
    await put(database, ENTRY)
    with pytest.raises(ConflictError) as refused:
        await put(database, ENTRY.model_copy(update={"name": "other"}))
    assert refused.value.code == "host_taken"
    await put(database, ENTRY.model_copy(update={"name": "other", "host": "registry.example.com:5000"}))


async def test_a_secret_moved_to_another_entry_does_not_open(database: Database) -> None:
    await put(database, ENTRY)
    await put(database, ENTRY.model_copy(update={"name": "other", "host": "o.example.com"}))
    async with database.transaction() as session:
        swapped = "UPDATE registries SET secrets = (SELECT secrets FROM registries WHERE name = 'hub')"
        await session.execute(text(f"{swapped} WHERE name = 'other'"))
    with pytest.raises(UnavailableError) as unreadable:
        await get(database, "other")
    assert unreadable.value.code == "secret_unreadable"


async def test_secrets_are_sealed_anew_with_a_new_key(database: Database) -> None:
    await put(database, ENTRY)
    async with database.transaction() as session:
        assert await RegistryStore(session, Sealer([NEW, OLD])).rotate() == 1
    assert await get(database, "hub", Sealer([NEW])) == ENTRY
    with pytest.raises(UnavailableError):
        await get(database, "hub", Sealer([OLD]))


async def test_versions_change_with_what_they_stand_for(database: Database) -> None:
    async def versions() -> object:
        async with database.reading() as session:
            return await RegistryStore(session, SEALER).read_versions()

    seen = [await versions()]
    for change in (put(database, ENTRY), put(database, ENTRY)):
        await change
        seen.append(await versions())
    async with database.transaction() as session:
        await RegistryStore(session, SEALER).delete("hub")
    seen.append(await versions())
    assert seen[0] == seen[3]
    assert len(set(map(str, seen))) == 3


async def test_what_is_not_there_can_not_be_read_or_removed(database: Database) -> None:
    with pytest.raises(NotFoundError):
        await get(database, "nobody")
    with pytest.raises(NotFoundError):
        async with database.transaction() as session:
            await RegistryStore(session, SEALER).delete("nobody")
