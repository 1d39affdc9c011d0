"""Every command: processes (serve, work), chores (migrate, create-key, reseal, doctor), and what speaks to a service.

What goes wrong before the work begins is shown in one line: exit code 2 for a wrong setting or argument, 1 for
everything else. Results go to standard output, everything said about them to standard error. What only some commands
need is imported by those: a key is made without loading the web application.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import policy_commands, resource_commands, sync_commands
from app.cli.api_errors import WrongArgumentError
from app.cli.options import Context, Key, Url, errors_in_one_line
from app.cli.resource_commands import JobId
from app.domain.duration import parse_duration
from app.domain.errors import SettingsError

if TYPE_CHECKING:
    from app.settings import Settings

_SERVE_PROCESSES = "Worker processes. [default: one a core less one, at least 1, at most 4; 2 on SQLite]"
_WORK_PROCESSES = "Worker processes. [default: one a core, at most 4]"

commands = typer.Typer(
    name="registry-sync",
    help="Copy container images from registry to registry, as jobs behind a REST API.",
    no_args_is_help=True,
    rich_markup_mode=None,  # which would take `[default: …]` for markup
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    sync_commands.add_to(commands)
    resource_commands.add_to(commands)
    policy_commands.add_to(commands)
    commands()


@commands.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8080]")] = None,
    processes: Annotated[int | None, typer.Option(help=_SERVE_PROCESSES)] = None,
    require_key: Annotated[
        bool, typer.Option("--require-key", help="Serve no caller without an API key, not even one on this machine.")
    ] = False,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Serve the API only; workers run elsewhere.")] = False,
) -> None:
    """Serve the API in one process, and unless `--no-worker` is given run workers in others."""
    with errors_in_one_line():
        settings = _start(
            host=host, port=port, worker_processes=processes, require_key=require_key or None, process="supervisor"
        )
        from app.cli import serving  # much to load, for nothing where a setting is wrong

        serving.serve(settings, is_working=not no_worker)


@commands.command()
def work(
    *,
    concurrency: Annotated[int | None, typer.Option(help="Units of work at once in each. [default: 4]")] = None,
    processes: Annotated[int | None, typer.Option(help=_WORK_PROCESSES)] = None,
) -> None:
    """Work on jobs, on as many machines as you like that reach the database."""
    with errors_in_one_line():
        overrides = {"worker_concurrency": concurrency, "worker_processes": processes}
        settings = _start(**overrides, process="supervisor")
        from app.cli import serving

        serving.work(settings)


@commands.command()
def migrate() -> None:
    """Bring the database to the current schema."""
    with errors_in_one_line():
        settings = _start()
        from app.store.db.migrate import migrate as migrate_database

        _run(migrate_database(settings.database_url))
        typer.echo("the schema is current", err=True)


@commands.command()
def create_key(
    *,
    name: Annotated[str, typer.Option(help="What to call it; jobs show it as `created_by`.")],
    scope: Annotated[
        list[str], typer.Option(help="What it allows: read, submit, admin, or scopes such as jobs:submit; repeatable.")
    ],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Bind it to HOST[/REPOSITORIES], `read:` or `write:` before it for one direction; repeatable."
        ),
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Policy it may see and run, or team-*; repeatable.")] = None,
    jobs: Annotated[str | None, typer.Option(help="Jobs it sees: own or all. [default: own where it is bound]")] = None,
    address: Annotated[list[str] | None, typer.Option(help="Network it may come from; repeatable.")] = None,
    expires: Annotated[str | None, typer.Option(help="Such as 90d. [default: never]")] = None,
) -> None:
    """Print a new API key, once."""
    with errors_in_one_line():
        settings = _start()
        from app.bootstrap.startup import create_key as make_key
        from app.bootstrap.startup import database_place
        from app.cli.key_options import read_grant, read_scopes

        scopes, grant = read_scopes(scope), read_grant(allow=allow, policies=policy, jobs=jobs, addresses=address)
        made = _run(make_key(settings, name=name, scopes=scopes, grant=grant, expires_seconds=_seconds(expires)))
        typer.echo(made.text)
        until = f" until {made.key.expires_at:%Y-%m-%d %H:%M} UTC" if made.key.expires_at else ""
        typer.echo(f"key {name!r} allows {', '.join(scope)}{until}; it is shown this once", err=True)
        typer.echo(f"it counts for services with the database {database_place(settings)}", err=True)


@commands.command()
def watch(job: JobId, *, url: Url = None, key: Key = None, context: Context = None) -> None:
    """Show a job live until it is done; exit code 0 when it succeeded, 3 when it did not. As `jobs watch`."""
    resource_commands.watch_job(job, url=url, key=key, context=context)


@commands.command()
def version() -> None:
    """Print the release."""
    from importlib.metadata import version as version_of

    typer.echo(version_of("registry-sync"))


@commands.command()
def man(folder: Annotated[Path, typer.Argument(help="Where to write them, such as ~/.local/share/man/man1.")]) -> None:
    """Write a man page for each command."""
    from importlib.metadata import version as version_of

    from app.cli.man_pages import write_man_pages

    with errors_in_one_line():
        release = version_of("registry-sync")
        try:
            pages = write_man_pages(typer.main.get_command(commands), folder, name="registry-sync", release=release)
        except OSError as error:
            raise WrongArgumentError(f"can't write to {folder}: {error.strerror}") from error
        typer.echo(f"wrote {len(pages)} pages to {folder}", err=True)


@commands.command()
def doctor(*, check_registries: Annotated[bool, typer.Option(help="Check every registry too.")] = True) -> None:
    """Look at settings, database, keys, clock and registries: a line each, with what to do; exit code 3 for trouble."""
    with errors_in_one_line():
        settings = _start()
        from app.cli.doctor import examine

        is_well = True
        for finding in _run(examine(settings, check_registries=check_registries)):
            is_well &= finding.ok
            typer.echo(finding.line)
        if not is_well:
            raise typer.Exit(3)


@commands.command()
def reseal() -> None:
    """Seal all stored secrets anew with the first of the secret keys; the others may go then."""
    with errors_in_one_line():
        from app.bootstrap.startup import reseal as seal_anew

        number = _run(seal_anew(_start()))
        typer.echo(f"sealed the secrets of {number} entries with the first key", err=True)


audit = typer.Typer(help="The audit log.", no_args_is_help=True)
commands.add_typer(audit, name="audit")


@audit.command("verify")
def verify_audit_log(
    head: Annotated[
        str | None, typer.Option(help="A link as it was seen once, `POSITION:HASH`: the chain has to have it.")
    ] = None,
) -> None:
    """Check every entry of the audit log against its chain; exit code 1 where one was changed or removed."""
    with errors_in_one_line():
        from app.bootstrap.startup import verify_audit

        check = _run(verify_audit(_start(), head=head))
        for finding in check.findings:
            typer.echo(finding)
        end = f"{check.head.position}:{check.head.hash}" if check.head else "none"
        typer.echo(f"{check.linked} entries in the chain, its end: {end}", err=True)
        if check.unlinked:
            typer.echo(f"{check.unlinked} entries are not in the chain yet", err=True)
        if check.unchecked:
            typer.echo(f"{check.unchecked} were linked with a secret key that is not here: not checked", err=True)
        if not check.ok:
            raise typer.Exit(1)


@commands.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app.main import create_app
    from app.settings import Settings

    document = create_app(Settings.model_construct()).openapi()
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@commands.command(hidden=True)
def settings() -> None:
    """Print the table of settings for docs/configuration.md, see `make docs`."""
    from app.settings import settings_table

    typer.echo(settings_table())


def _start(*, process: str | None = None, **overrides: Any) -> Settings:
    """Read the settings and log as they say; client commands do without, and without what it loads."""
    from app.observability import configure_logging
    from app.settings import load_settings

    settings = load_settings(**overrides)
    configure_logging(log_format=settings.log_format, level=settings.log_level, process=process)
    return settings


def _seconds(text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise SettingsError(f"--expires: {error}") from error


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    from uvicorn.loops.auto import auto_loop_factory

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(work)
