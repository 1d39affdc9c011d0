"""Every process and chore: serve, work, migrate, create-key, reseal, watch, openapi.

What goes wrong before the work begins is told in one line: exit code 2 for a wrong setting or argument, 1 for
everything else. Results go to standard output, everything said about them to standard error. What only some commands
need is imported by those: a key is made without loading the web application.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Annotated, Any

import typer
import uvicorn
from prometheus_client import start_http_server
from uvicorn.loops.auto import auto_loop_factory

from app.domain.access import Scope
from app.domain.errors import RegistrySyncError
from app.domain.trigger import parse_duration
from app.observability import configure_logging, get_logger, without_secrets
from app.settings import Settings, SettingsError, load_settings, settings_table
from app.store.migrate import migrate as migrate_database
from app.wiring.preparing import check_may_listen, load_sealer, prepare
from app.wiring.preparing import create_key as make_key
from app.wiring.preparing import reseal as seal_anew

HTTP_DRAIN_SECONDS = 5
"""How long answers may take after SIGTERM; those that wait for a job are given at once then."""
BACKLOG = 2_048

log = get_logger(__name__)
commands = typer.Typer(
    name="registry-sync",
    help="Copy container images from registry to registry, as jobs behind a REST API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    commands()


@commands.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8080]")] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Serve the API only; workers run elsewhere.")] = False,
) -> None:
    """Serve the API, and unless told otherwise work in the same process."""
    with _told_in_one_line():
        settings = _started(load_settings(host=host, port=port))
        _run(_serve(settings, is_working=not no_worker))


@commands.command()
def work(
    *,
    concurrency: Annotated[int | None, typer.Option(help="Units of work at once. [default: 4]")] = None,
) -> None:
    """Work on jobs; as many such processes as you like, on any machine that reaches the database."""
    with _told_in_one_line():
        settings = _started(load_settings(worker_concurrency=concurrency))
        _run(_work(settings))


@commands.command()
def migrate() -> None:
    """Bring the database to the current schema."""
    with _told_in_one_line():
        settings = _started(load_settings())
        _run(migrate_database(settings.database_url))
        typer.echo("the schema is current", err=True)


@commands.command()
def create_key(
    *,
    name: Annotated[str, typer.Option(help="What to call it; jobs show it as `created_by`.")],
    scope: Annotated[Scope, typer.Option(help="What it allows; each scope implies those before it.")],
    expires: Annotated[str | None, typer.Option(help="Such as 90d. [default: never]")] = None,
) -> None:
    """Print a new API key, once."""
    with _told_in_one_line():
        settings = _started(load_settings())
        made = _run(make_key(settings, name=name, scope=scope, expires_seconds=_seconds(expires)))
        typer.echo(made.text)
        until = f" until {made.key.expires_at:%Y-%m-%d %H:%M} UTC" if made.key.expires_at else ""
        typer.echo(f"key {name!r} allows {scope}{until}; it is shown this once", err=True)


@commands.command()
def watch(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    *,
    url: Annotated[str, typer.Option(envvar="REGISTRY_SYNC_URL", help="Where the API is.")] = "http://127.0.0.1:8080",
    key: Annotated[
        str | None, typer.Option(envvar="REGISTRY_SYNC_KEY", help="API key; better in the environment than here.")
    ] = None,
) -> None:
    """Show a job live until it is done; exit code 0 when it succeeded, 3 when it did not."""
    from rich.console import Console

    from app.watch import watch as watch_job

    with _told_in_one_line():
        if not watch_job(url, job, key=key, console=Console()):
            raise typer.Exit(3)


@commands.command()
def reseal() -> None:
    """Seal all stored secrets anew with the first of the secret keys; the others may go then."""
    with _told_in_one_line():
        number = _run(seal_anew(_started(load_settings())))
        typer.echo(f"sealed the secrets of {number} entries with the first key", err=True)


@commands.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app.main import create_app

    document = create_app(Settings.model_construct()).openapi()
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@commands.command(hidden=True)
def settings() -> None:
    """Print the table of settings, as the README shows it."""
    typer.echo(settings_table())


async def _serve(settings: Settings, *, is_working: bool) -> None:
    from app.main import create_app

    load_sealer(settings)  # once more when it is needed: here it can be told in one line
    await prepare(settings)
    await check_may_listen(settings)
    with _listening(settings.host, settings.port) as listener:
        app = create_app(settings, is_working=is_working)
        address, port = listener.getsockname()[:2]
        log.info("listening", address=address, port=port, is_working=is_working)
        await _Server(server_config(app), stopping=app.state.stopping).serve(sockets=[listener])


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    """Say how the application is served: who asks is the peer of the connection, whatever headers say."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        http="h11",  # a little slower than httptools, but it bounds how long a request's head may be
        backlog=BACKLOG,
        timeout_graceful_shutdown=HTTP_DRAIN_SECONDS,
    )


class _Server(uvicorn.Server):
    """Ends well on a signal, and tells those who wait for a job at once that it does."""

    def __init__(self, config: uvicorn.Config, *, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 — uvicorn's signature
        """Drain; a second Ctrl-C ends it without waiting."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._stopping.set)


async def _work(settings: Settings) -> None:
    from app.wiring.service import open_service

    if settings.database_url.startswith("sqlite"):
        raise SettingsError("an SQLite database is for one process, which is `serve`; separate workers need PostgreSQL")
    load_sealer(settings)
    await prepare(settings)
    _show_metrics(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_service(settings) as service, service.working(stop):
        log.info("working", concurrency=settings.worker_concurrency)
        await stop.wait()


def _show_metrics(settings: Settings) -> None:
    if settings.worker_metrics_port is not None:
        try:
            start_http_server(settings.worker_metrics_port, addr=settings.host)
        except OSError as error:
            place = f"{settings.host} port {settings.worker_metrics_port}"
            raise SettingsError(f"can't show metrics at {place}: {error.strerror or error}") from error


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
    with listener:
        yield listener


def _started(settings: Settings) -> Settings:
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    return settings


def _seconds(text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise SettingsError(f"--expires: {error}") from error


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(work)


@contextlib.contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        typer.echo(f"registry-sync: {error}", err=True)
        raise typer.Exit(2) from None
    except RegistrySyncError as error:
        typer.echo(f"registry-sync: {without_secrets(error.message)}", err=True)
        raise typer.Exit(1) from None
