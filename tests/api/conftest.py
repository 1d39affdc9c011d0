"""The application, served in the test's own event loop; no worker unless a test wants one."""

import asyncio
import contextlib
import io
import logging
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog
import uvicorn

from app.bootstrap.service import Service
from app.cli.serving import server_config
from app.main import create_app
from app.observability import configure_logging
from app.security import Sealer
from app.settings import Settings
from app.store.db.migrate import migrate

SHORT = {"source": "docker.io/library/redis:7", "destination": "registry.example.com/mirror/redis"}


@dataclass(frozen=True, slots=True)
class Api:
    """A served application: `client` asks it as a local caller without a key."""

    client: httpx.AsyncClient
    service: Service
    settings: Settings
    stop: Callable[[], None]
    """Begin to stop, as a signal does."""

    async def enter(self, *hosts: str) -> None:
        """Enter registries, each called as its host: once there is a key, no others are copied from or to."""
        for host in hosts:
            (await self.client.put(f"/v1/registries/{host}", json={"host": host})).raise_for_status()

    async def submit(self, **changes: Any) -> dict[str, Any]:
        """Submit a request and return the job."""
        answer = await self.client.post("/v1/jobs", json=SHORT | changes)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def make_key(self, scope: str, *, name: str | None = None, **body: Any) -> dict[str, str]:
        """Make an API key of a preset, or of the `scopes` in `body`, and return the header that shows it."""
        named = {"name": name or scope.replace(":", "-")} | ({} if "scopes" in body else {"scope": scope})
        answer = await self.client.post("/v1/keys", json=named | body)
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {answer.json()['key']}"}


Serve = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database with the current schema, to be copied."""
    file = tmp_path_factory.mktemp("migrated") / "empty.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture(autouse=True)
def logged() -> Iterator[io.StringIO]:
    """Log as the service does, into a text that is returned."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with contextlib.redirect_stderr(io.StringIO()) as text:
        configure_logging(log_format="json", level="DEBUG")
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def serve(migrated: Path, tmp_path: Path) -> Serve:
    """Return a function that serves the application with settings of one's own."""
    return serving_beside(migrated, tmp_path)


def serving_beside(migrated: Path, folder: Path) -> Serve:
    """Make a function that serves the application with its database in a folder."""

    @asynccontextmanager
    async def serving(*, is_working: bool = False, **given: Any) -> AsyncIterator[Api]:
        file = folder / "registry-sync.db"
        if not file.exists():
            shutil.copyfile(migrated, file)
        values = {"database_url": f"sqlite+aiosqlite:///{file}", "secret_keys": (Sealer.make_key(),)}
        settings = Settings(**(values | given))
        app = create_app(settings, is_working=is_working)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(app))
        task = asyncio.create_task(server._serve([listener]))

        def stop() -> None:
            app.state.stopping.set()
            server.should_exit = True

        try:
            while not server.started:
                if task.done():
                    await task
                await asyncio.sleep(0.005)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # A connection that both ends give up after the same five seconds is one that a request may find closing.
            limits = httpx.Limits(keepalive_expiry=1)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, limits=limits) as client:
                yield Api(client, app.state.service, settings, stop)
        finally:
            stop()
            await task

    return serving


@pytest.fixture
async def api(serve: Serve) -> AsyncIterator[Api]:
    """Serve the application as it is by default, without a worker."""
    async with serve() as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """Serve the application once for a module whose tests leave nothing behind that others could see."""
    async with serving_beside(migrated, tmp_path_factory.mktemp("shared"))() as served:
        yield served


@pytest.fixture
def client(api: Api) -> httpx.AsyncClient:
    """Return a local caller without a key."""
    return api.client


def pointers(answer: httpx.Response) -> dict[str, str]:
    """Return which field has which problem."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    return {error.get("pointer", error.get("parameter")): error["code"] for error in answer.json().get("errors", [])}
