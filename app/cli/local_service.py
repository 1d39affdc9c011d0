"""A service for the time of one command: the whole engine in this process, its database in a folder that is removed.

Commands speak to it by a Unix socket in that folder, so that a copy with `--local` goes the same way as one by a
service: the same requests, progress and errors. Nothing listens on the network.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from pydantic import SecretStr

from app.bootstrap.startup import prepare
from app.cli.api_client import ApiClient
from app.cli.options import docker_config
from app.cli.temporary_folder import temporary_folder
from app.domain.errors import UnavailableError
from app.main import create_app
from app.settings import Settings

START_SECONDS = 30.0


@contextmanager
def local_service() -> Iterator[ApiClient]:
    """Run a service inside this process; hand out a client of it. Raise `UnavailableError` where it does not start."""
    with temporary_folder("registry-sync-local-") as place:
        key = secrets.token_urlsafe(32)
        settings = Settings(
            database_url=f"sqlite+aiosqlite:///{place / 'jobs.db'}",
            bootstrap_key=SecretStr(key),
            docker_config_folders=(str(docker_config().parent),),  # of the user who runs this command
            grace_period=0.1,
        )
        asyncio.run(prepare(settings))
        server = _Server(settings, place / "api.sock")
        server.start()
        try:
            transport = httpx.HTTPTransport(uds=str(server.socket))
            with ApiClient("http://localhost", key=key, transport=transport, is_local=True) as client:
                yield client
        finally:
            server.stop()


class _Server:
    """uvicorn in a thread, with a worker in the same event loop."""

    def __init__(self, settings: Settings, socket: Path) -> None:
        self.socket = socket
        app = create_app(settings, is_working=True)
        self._stopping: asyncio.Event = app.state.stopping
        config = uvicorn.Config(app, uds=str(socket), log_config=None, access_log=False, lifespan="on")
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Start, and wait until requests are taken; raise `UnavailableError`."""
        self._thread.start()
        if not self._started.wait(START_SECONDS) or not self._server.started:
            raise UnavailableError("the service inside this process did not start; its words are above")

    def stop(self) -> None:
        """Stop what still runs, and wait for the end."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started and not serving.done():  # noqa: ASYNC110 — it is uvicorn's flag
            await asyncio.sleep(0.01)
        self._started.set()
        await serving
