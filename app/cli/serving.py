"""`serve` and `work`: a supervisor, and what each of its processes does.

    serve   the API in one process, workers in others
    work    workers, and beside them the port that tells how they are, where one is set

The supervisor loads the program, prepares the database, listens, and forks; it answers no request itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from app.bootstrap.service import open_service
from app.bootstrap.startup import check_may_listen, load_sealer, prepare
from app.cli.http_protocol import SEND_BUFFER_BYTES, BoundedProtocol, raise_file_limit
from app.cli.temporary_folder import temporary_folder
from app.domain.errors import SettingsError
from app.jobs.submission import new_id
from app.observability import configure_logging, get_logger, share_metrics
from app.process_channel import ProcessChannel, ProcessStart, Topic, open_channel
from app.processes.cores import default_workers, usable_cores
from app.processes.supervisor import ChildMain, ProcessRole, Supervisor
from app.processes.unit_dispatcher import UnitDispatcher
from app.settings import Settings
from app.store.db.database import Database
from app.tracing import TracingError, check_tracing, refuse_leaking_instrumentation, start_tracing, stop_tracing

HTTP_DRAIN_SECONDS = 5
"""How long answers may take after SIGTERM; those that wait for a job are given at once then."""
BACKLOG = 2_048
HEARTBEAT_SECONDS = 1.0
METRICS_FOLDER = "registry-sync-metrics-"

log = get_logger(__name__)

Work = Callable[[ProcessChannel, asyncio.Event, str], Coroutine[Any, Any, None]]
"""What a process does until the event is set, over its channel and under its worker id."""


def serve(settings: Settings, *, is_working: bool) -> None:
    """Serve the API, with workers beside it, until SIGTERM or SIGINT; raise `SettingsError`, `UnavailableError`."""
    _check_tracing(settings)
    with asyncio.Runner() as runner:
        load_sealer(settings)  # once more when it is needed: here it can be told in one line
        runner.run(prepare(settings))
        runner.run(check_may_listen(settings))
    from app.main import create_app  # loaded once, for all processes; workers alone need no web framework

    workers = _worker_processes(settings, has_api=True) if is_working else 0
    with _listening(settings.host, settings.port) as listener, temporary_folder(METRICS_FOLDER) as metrics:
        host = _Host(settings, listener, metrics)
        roles = [ProcessRole("api", host.serving_main("api", create_app)), *host.worker_roles(workers)]
        address, port = listener.getsockname()[:2]
        log.info("api_listening", address=address, port=port, worker_processes=workers)
        _supervise(settings, roles, on_drain=listener.close)


def work(settings: Settings) -> None:
    """Work on jobs until SIGTERM or SIGINT; raise `SettingsError`, `UnavailableError`."""
    if settings.database_url.startswith("sqlite"):
        raise SettingsError("an SQLite database is for one host, with `serve`; separate workers need PostgreSQL")
    _check_tracing(settings)
    with asyncio.Runner() as runner:
        load_sealer(settings)
        runner.run(prepare(settings))
    workers, port = _worker_processes(settings, has_api=False), settings.worker_metrics_port
    with contextlib.ExitStack() as stack:
        listener = None if port is None else stack.enter_context(_listening(settings.host, port))
        host = _Host(settings, listener, stack.enter_context(temporary_folder(METRICS_FOLDER)))
        roles = host.worker_roles(workers)
        if listener is not None:
            from app.main import create_status_app

            roles.append(ProcessRole("status", host.serving_main("status", create_status_app)))
        log.info("workers_started", concurrency=settings.worker_concurrency, worker_processes=workers)
        _supervise(settings, roles, on_drain=listener.close if listener else lambda: None)


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    """Return uvicorn's configuration: the client is the peer of the connection, whatever forwarded headers say."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        http=BoundedProtocol,  # on h11: a little slower than httptools, but it bounds how long a head may be
        backlog=BACKLOG,
        timeout_graceful_shutdown=HTTP_DRAIN_SECONDS,
    )


def _check_tracing(settings: Settings) -> None:
    try:
        if settings.tracing:
            check_tracing()
        else:
            refuse_leaking_instrumentation()
    except TracingError as error:
        raise SettingsError(str(error)) from error


def _supervise(settings: Settings, roles: list[ProcessRole], *, on_drain: Callable[[], None]) -> None:
    database = Database(settings.database_url)  # never connected to: it tells which kind it is
    supervisor = Supervisor(
        roles,
        grace_seconds=settings.grace_period,
        new_id=new_id,
        dispatcher=UnitDispatcher() if database.is_sqlite else None,
        lock_file=database.file,
        on_drain=on_drain,
    )
    with asyncio.Runner() as runner:
        runner.run(supervisor.run())


def _worker_processes(settings: Settings, *, has_api: bool) -> int:
    is_sqlite = settings.database_url.startswith("sqlite")
    return settings.worker_processes or default_workers(usable_cores(), has_api=has_api, is_sqlite=is_sqlite)


@dataclass(frozen=True, slots=True)
class _Host:
    """What the processes of this host are made from."""

    settings: Settings
    listener: socket.socket | None
    metrics: Path

    def worker_roles(self, number: int) -> list[ProcessRole]:
        """Name the worker processes."""
        names = [f"worker-{index}" for index in range(1, number + 1)]
        return [ProcessRole(name, self.child_main(name, self.run_worker), is_worker=True) for name in names]

    def child_main(self, name: str, run: Work) -> ChildMain:
        """Make what a process does between its fork and its end."""

        def main(start: ProcessStart) -> int:
            configure_logging(log_format=self.settings.log_format, level=self.settings.log_level, process=name)
            share_metrics(self.metrics, process=name)
            if self.settings.tracing:
                start_tracing(process=name)
            try:
                with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                    runner.run(_until_stopped(start, run))
            finally:
                stop_tracing()
            return 0

        return main

    def serving_main(self, name: str, create: Callable[..., Any]) -> ChildMain:
        """Make what a process does that answers HTTP requests, with an application of its own."""

        async def serve(channel: ProcessChannel, stop: asyncio.Event, _worker_id: str) -> None:
            raise_file_limit()
            app = create(self.settings, channel=channel)
            server = _Server(server_config(app), stopping=app.state.stopping)
            channel.on(Topic.HURRY, lambda _: server.hurry())
            stopping = asyncio.create_task(_when_set(stop, server.drain))
            try:
                await server.serve(sockets=[self.listener] if self.listener else None)
            finally:
                stopping.cancel()

        return self.child_main(name, serve)

    async def run_worker(self, channel: ProcessChannel, stop: asyncio.Event, worker_id: str) -> None:
        """Work on jobs."""
        if self.listener is not None:
            self.listener.close()  # else the port would be taken for as long as this process lives
        async with (
            open_service(self.settings, channel=channel, worker_id=worker_id) as service,
            service.working(stop),
        ):
            await stop.wait()


class _Server(uvicorn.Server):
    """Ends when the supervisor says so, and answers those who wait for a job at once then."""

    def __init__(self, config: uvicorn.Config, *, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 — uvicorn's signature
        """Drain on SIGTERM; Ctrl-C reaches the supervisor too, which says when."""
        if sig == signal.SIGTERM:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Take no more requests, and answer those that are there."""
        self.should_exit = True
        self._stopping.set()

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self.force_exit = self.should_exit = True
        self._stopping.set()


async def _until_stopped(start: ProcessStart, run: Work) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches the supervisor too, which says when
    channel = await open_channel(start.end, writes=start.writes)
    channel.on(Topic.STOP, lambda _: stop.set())
    async with _heartbeat_sent(channel):
        await run(channel, stop, start.worker_id)
    channel.close()


@contextlib.asynccontextmanager
async def _heartbeat_sent(channel: ProcessChannel) -> AsyncIterator[None]:
    async def send() -> None:
        while True:
            channel.send(Topic.HEARTBEAT)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()


async def _when_set(event: asyncio.Event, action: Callable[[], None]) -> None:
    await event.wait()
    action()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]  # it goes on with the address, once more
        raise SettingsError(f"can't listen on {host} port {port}: {reason}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # its connections have it too
    with listener:
        yield listener
