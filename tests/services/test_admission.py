"""Which hosts without an entry may be copied from and to: a key must be no way out to any host there is."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from app.domain.access import Caller, Scope, ScopePreset
from app.domain.errors import InvalidRequestError
from app.domain.registry import RegistryEntry
from app.domain.request import SyncRequest
from app.net.address_guard import AddressRules
from app.security import Sealer
from app.services.admission import Admission
from app.services.api_keys import ApiKeyService
from app.services.registries import RegistryService
from app.store.db.database import Database
from app.webhooks.outbound import Outbound

ADMIN = Caller("admin", frozenset(Scope))
SEALER = Sealer([Sealer.make_key()])


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.aclose()


def admission_of(database: Database, *unregistered_hosts: str) -> Admission:
    return Admission(
        database,
        SEALER,
        rules=AddressRules(),
        outbound=Outbound(AddressRules()),
        unregistered_hosts=unregistered_hosts,
    )


async def enter(database: Database, host: str) -> None:
    service = RegistryService(database, sealer=SEALER, admission=admission_of(database, "allow"), now=now)
    await service.put(RegistryEntry(name=host, host=host), expected_version=None, caller=ADMIN)


async def refused(admission: Admission, source: str, destination: str) -> list[str]:
    """Return the fields that are refused."""
    request = SyncRequest.model_validate({"rules": [{"source": source, "destination": destination}]})
    try:
        await admission.check(request, caller=ADMIN)
    except InvalidRequestError as error:
        return [field.pointer for field in error.errors if field.code == "host_not_allowed"]
    return []


SOURCE, DESTINATION = "/rules/0/source", "/rules/0/destination/0"


@pytest.mark.parametrize(
    ("unregistered_hosts", "source", "destination", "expected"),
    [
        (["allow"], "a.example.com/x:1", "b.example.com/x", []),
        (["deny"], "a.example.com/x:1", "b.example.com/x", [SOURCE, DESTINATION]),
        (["deny"], "known.example.com/x:1", "known.example.com/y", []),
        (["sources"], "a.example.com/x:1", "known.example.com/x", []),
        (["sources"], "a.example.com/x:1", "b.example.com/x", [DESTINATION]),
        (["sources"], "a.example.com:8443/x:1", "known.example.com/x", [SOURCE]),
        (["sources"], "a.example.com:443/x:1", "known.example.com/x", []),
        (["a.example.com", "*.mirror.example.com"], "a.example.com/x:1", "eu.mirror.example.com/x", []),
        (["a.example.com"], "a.example.com/x:1", "b.example.com/x", [DESTINATION]),
        (["a.example.com"], "evil-a.example.com/x:1", "known.example.com/x", [SOURCE]),
    ],
)
async def test_unregistered_hosts_are_reached_as_the_setting_says(
    database: Database, unregistered_hosts: Sequence[str], source: str, destination: str, expected: list[str]
) -> None:
    await enter(database, "known.example.com")
    assert await refused(admission_of(database, *unregistered_hosts), source, destination) == expected


async def test_by_default_they_are_reached_until_there_is_a_key(database: Database) -> None:
    admission = admission_of(database, "auto")
    assert await refused(admission, "a.example.com/x:1", "b.example.com/x") == []
    await ApiKeyService(database, now=now).create(
        name="ci", scopes=ScopePreset.ADMIN.scopes, expires_seconds=None, caller=ADMIN
    )
    async with asyncio.timeout(60):
        while await refused(admission, "a.example.com/x:1", "b.example.com/x") == []:  # noqa: ASYNC110 — nobody tells it
            await asyncio.sleep(0.1)
    assert await refused(admission, "a.example.com/x:1", "b.example.com/x") == [SOURCE, DESTINATION]
    for host in ("a.example.com", "b.example.com"):
        await enter(database, host)
    assert await refused(admission, "a.example.com/x:1", "b.example.com/x") == []
