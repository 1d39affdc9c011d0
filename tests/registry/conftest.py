"""What the tests of the road share: a pool that loses no time, and clients of whatever registry a test runs."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.manifest import Descriptor, Manifest, parse_manifest
from app.domain.reference import Digest, Repository
from app.domain.registry import RegistryEntry
from app.registry.client import ClientPool, RegistryClient
from app.registry.limits import REQUEST_RETRIES, ClientSettings
from tests.support import images
from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry
from tests.support.registries import RegistryProcess

ACCOUNT = ("ann", "secret")
QUICK = replace(REQUEST_RETRIES, first_delay=0.01, max_delay=0.02)
SETTINGS = ClientSettings(
    retry_policy=QUICK,
    cancel_seconds=0.3,
    settle_seconds=0.01,
    chunk_bytes=2 * 1024 * 1024,
)

Connect = Callable[..., RegistryClient]


@pytest.fixture
def settings() -> ClientSettings:
    """Return what the pool is made with; a test module may say otherwise."""
    return SETTINGS


@pytest.fixture
async def pool(clock: SettableClock, settings: ClientSettings) -> AsyncIterator[ClientPool]:
    """Return a pool that is closed after the test."""
    pool = ClientPool(settings=settings, clock=clock)
    yield pool
    await pool.aclose()


@pytest.fixture
def connect(pool: ClientPool) -> Connect:
    """Return a function that enters a registry, with what a test wants in the entry, and gives a client of it."""

    def connect(registry: FakeRegistry | RegistryProcess, *, writing: bool = False, **fields: Any) -> RegistryClient:
        entry = entry_of(registry, **fields)
        path = f"{entry.prefix or 'any'}/repository"
        return pool.clients((entry,)).for_repository(Repository(entry.registry, path), writing=writing)

    return connect


def entry_of(registry: FakeRegistry | RegistryProcess, **fields: Any) -> RegistryEntry:
    """Enter a registry as its operator would."""
    is_tls = registry.url.startswith("https:")
    if registry.ca_file is not None and "tls" not in fields:
        fields["tls"] = {"ca": registry.ca_file.read_text()}
    return RegistryEntry.model_validate({"name": "registry", "host": registry.host, "insecure": not is_tls, **fields})


def basic(account: tuple[str, str] = ACCOUNT) -> dict[str, str]:
    """Return an entry's `auth` for a user and password."""
    return {"type": "basic", "username": account[0], "password": account[1]}


def descriptor(blob: images.Blob) -> Descriptor:
    """Return the domain's word for a blob of the tests."""
    return Descriptor(blob.media_type, Digest(blob.digest), blob.size)


def parsed(manifest: images.Manifest) -> Manifest:
    """Return the domain's word for a manifest of the tests."""
    return parse_manifest(manifest.raw, media_type=manifest.media_type, digest=Digest(manifest.digest))


async def pieces(data: bytes, *, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """Yield bytes as a blob's reader would."""
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


async def upload(client: RegistryClient, repository: str, blob: images.Blob) -> None:
    """Write a blob the way `sync.transfer` does: go on where the registry says, or anew when a session is lost."""
    session = await client.start_upload(repository, descriptor(blob))
    for _ in range(12):
        rest = pieces(blob.data[session.offset :])
        try:
            await session.send(rest, size=blob.size, digest=Digest(blob.digest))
        except RegistryError as error:
            if not error.temporary:
                await session.cancel()
                raise
        else:
            return
        try:
            await session.status()
        except RegistryError:
            await session.cancel()
            session = await client.start_upload(repository, descriptor(blob))
    raise AssertionError("the upload never ends")
