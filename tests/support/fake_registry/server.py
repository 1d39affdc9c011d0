"""The fake registry on real sockets: uvicorn's HTTP protocol, several loopback ports, plain or TLS."""

import asyncio
import atexit
import functools
import shutil
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tests.support.certificates import ServerCertificate, make_server_certificate
from tests.support.fake_registry.application import Application
from tests.support.fake_registry.auth import Auth
from tests.support.fake_registry.content import Content, Session, Violation
from tests.support.fake_registry.faults import Faults
from tests.support.fake_registry.journal import Entry, Journal, Origin
from tests.support.fake_registry.quirks import Quirks
from tests.support.fake_registry.site import Site
from tests.support.images import Manifest

LOOPBACK = "127.0.0.1"
ORIGINS: tuple[Origin, ...] = ("registry", "auth", "storage", "stranger", "plain")
ACCOUNT = ("ann", "secret")
STOP_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Findings:
    """What a registry has to complain about after a test."""

    violations: tuple[Violation, ...]
    """Tags that were put while something below them was missing."""
    open_sessions: tuple[Session, ...]
    """Uploads neither closed nor cancelled."""
    leaks: tuple[Entry, ...]
    """Credentials that reached a server they do not belong to."""
    bugs: tuple[BaseException, ...]
    """Errors of the fake itself."""


class Options(TypedDict, total=False):
    """What a fake registry is, beside its switches."""

    tls: bool
    """Serve https on all servers but `plain`, with a certificate for 127.0.0.1 and localhost; trust `ca_file`."""
    accounts: Mapping[str, str]
    """Name → password of those who may do everything; `ann`, `secret` unless given."""
    identity_tokens: Mapping[str, str]
    """Refresh token → name."""
    anonymous_actions: frozenset[str]
    """What a token without credentials is good for; `pull` unless given."""
    entra: Callable[[str], str | None]
    """Whose a token of Microsoft Entra is (`EntraServer.owner_of`); makes it a registry of ACR that exchanges them for
    accounts that it has."""
    clock: Callable[[], datetime]
    """Tells when tokens end and windows roll; the real time unless given."""
    hostnames: Mapping[Origin, str]
    """How servers are named in URLs, all of which listen on 127.0.0.1; 127.0.0.1 unless given."""


class FakeRegistry:
    """A registry in memory, from `start` to `stop`; both may be called again, content and port stay."""

    def __init__(
        self,
        quirks: Quirks | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.site = Site(
            quirks or Quirks(),
            clock=options.get("clock", _now),
            accounts=options.get("accounts", dict([ACCOUNT])),
            identity_tokens=dict(options.get("identity_tokens", {})),
            anonymous_actions=options.get("anonymous_actions", frozenset({"pull"})),
            entra=options.get("entra"),
        )
        self.application = Application(self.site)
        self._certificate = _certificate() if options.get("tls") else None
        self._hostnames = options.get("hostnames", {})
        self._ports: dict[Origin, int] = {}
        self._servers: list[_Server] = []

    @property
    def quirks(self) -> Quirks:
        return self.site.quirks

    @property
    def content(self) -> Content:
        """What it holds, to read and to change."""
        return self.site.content

    @property
    def made(self) -> dict[str, Any]:
        """What was made by the registry's own API."""
        return self.application.site.made

    @property
    def journal(self) -> Journal:
        return self.site.journal

    @property
    def faults(self) -> Faults:
        return self.application.faults

    @property
    def auth(self) -> Auth:
        """The tokens issued so far, and `revoke_all()`."""
        return self.application.auth

    @property
    def url(self) -> str:
        return self.site.urls["registry"]

    @property
    def host(self) -> str:
        """The registry as references name it: `127.0.0.1:34567`."""
        return self.url.partition("//")[2]

    @property
    def urls(self) -> Mapping[Origin, str]:
        """The base URL of each server."""
        return self.site.urls

    @property
    def ca_file(self) -> Path | None:
        """The authority to trust, when it serves https."""
        return self._certificate.ca_file if self._certificate else None

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """What httpx wants as `verify` to talk to it."""
        return ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else True

    def change(self, **switches: Any) -> None:
        """Turn switches while it runs."""
        self.site.quirks = replace(self.site.quirks, **switches)

    def load(self, repository: str, manifest: Manifest, *tags: str) -> str:
        """Put a manifest of `tests.support.images`, everything below it and its tags; return its digest."""
        return self.content.load(repository, manifest, *tags)

    def reference(self, repository: str, tag: str = "") -> str:
        """Return a reference as callers write it; a digest is told by its colon."""
        return f"{self.host}/{repository}{'@' if ':' in tag else ':' if tag else ''}{tag}"

    def basic(self, name: str = ACCOUNT[0]) -> str:
        """Return the `Authorization` header of an account."""
        return self.site.basic(name)

    def findings(self) -> Findings:
        """Return everything that should not have happened, see `check`."""
        sessions = tuple(self.content.sessions.values())
        leaks = tuple(self.journal.leaks())
        return Findings(tuple(self.content.violations), sessions, leaks, tuple(self.application.bugs))

    def check(self, *, sparse: bool = False, open_sessions: bool = False) -> None:
        """Raise AssertionError for anything in the findings; sparse indexes and open uploads may be allowed."""
        found = self.findings()
        violations = [one for one in found.violations if one.missing_blobs or not sparse]
        assert not violations, f"tags put too early: {violations}"
        assert open_sessions or not found.open_sessions, f"uploads left open: {found.open_sessions}"
        assert not found.leaks, f"credentials leaked: {[(str(entry), entry.secrets) for entry in found.leaks]}"
        assert not found.bugs, f"the fake registry failed: {found.bugs}"

    async def start(self) -> None:
        """Listen on all ports, those of before if there were any."""
        for origin in ORIGINS:
            certificate = None if origin == "plain" else self._certificate
            server = _Server(self.application.at(origin), certificate=certificate)
            self._ports[origin] = await server.start(self._ports.get(origin, 0))
            self._servers.append(server)
            scheme = "https" if certificate else "http"
            self.site.urls[origin] = f"{scheme}://{self._hostnames.get(origin, LOOPBACK)}:{self._ports[origin]}"

    async def stop(self) -> None:
        """Break all connections and stop listening."""
        for server in self._servers:
            await server.stop()
        self._servers.clear()


@asynccontextmanager
async def fake_registry(quirks: Quirks | None = None, **options: Unpack[Options]) -> AsyncIterator[FakeRegistry]:
    """Run a fake registry in this event loop; options as of `FakeRegistry`."""
    registry = FakeRegistry(quirks, **options)
    try:
        await registry.start()
        yield registry
    finally:
        await registry.stop()


@contextmanager
def fake_registry_thread(quirks: Quirks | None = None, **options: Unpack[Options]) -> Iterator[FakeRegistry]:
    """Run a fake registry in a thread of its own, for tests without an event loop."""
    registry = FakeRegistry(quirks, **options)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-registry")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(registry.start(), loop).result()
        yield registry
    finally:
        asyncio.run_coroutine_threadsafe(registry.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Protocol(H11Protocol):
    """uvicorn's protocol, which an application finds in its scope to break the connection."""

    def __init__(self, config: Config, server_state: ServerState) -> None:
        super().__init__(config, server_state, {"protocol": self})


class _Server:
    """One listening socket; `uvicorn.Server` would take the process's signals and poll."""

    def __init__(self, app: ASGIApp, *, certificate: ServerCertificate | None) -> None:
        self._state = ServerState()
        self._config = Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_certfile=certificate.certificate_file if certificate else None,
            ssl_keyfile=certificate.key_file if certificate else None,
        )
        self._config.load()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> int:
        """Listen; return the port."""
        loop = asyncio.get_running_loop()
        make = functools.partial(_Protocol, self._config, self._state)
        self._server = await loop.create_server(make, LOOPBACK, port, ssl=self._config.ssl)
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    async def stop(self) -> None:
        """Break the connections, and end what is in work."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if tasks := list(self._state.tasks):
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
        if self._server is not None:
            await self._server.wait_closed()


@functools.cache
def _certificate() -> ServerCertificate:
    """Make a certificate once per process; making keys takes long."""
    folder = Path(tempfile.mkdtemp(prefix="registry-sync-fake-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_server_certificate(folder)


def _now() -> datetime:
    return datetime.now(UTC)
