"""`sync`, `plan` and `verify`: by a service, or with `--local` by this process alone.

Exit codes: 0 done, or nothing to do; 1 refused or unreachable; 2 a wrong argument; 3 a job that did not succeed;
4 a plan with changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.api_client import ApiClient, open_client
from app.cli.api_errors import WrongArgumentError
from app.cli.options import (
    FAILED,
    AsJson,
    as_command,
    docker_config,
    errors_in_one_line,
    parameters_of,
    print_json,
    read_secret,
)

Source = Annotated[str, typer.Argument(help="What to copy: host/repository:tag, host/repository, host/namespace/**.")]
Destinations = Annotated[
    list[str], typer.Argument(help="Where to: host/repository, or a namespace for a `/**` source.")
]
Tags = Annotated[
    list[str] | None, typer.Option("--tags", help="Only tags like this: v*, semver:>=1.2, /regex/. Again for more.")
]
ExcludeTags = Annotated[list[str] | None, typer.Option(help="No tags like this. Again for more.")]
Platforms = Annotated[
    list[str] | None, typer.Option("--platform", help="Only this platform, such as linux/amd64. Again for more.")
]
Overwrite = Annotated[str, typer.Option(help="What becomes of other content at the destination: always, never, fail.")]
Force = Annotated[bool, typer.Option("--force", help="Check everything down to the blobs, and send what is gone.")]
Explain = Annotated[
    str | None,
    typer.Option(metavar="TAG", help="Say why this tag, or repository:tag, is copied or not; copy nothing."),
]
Local = Annotated[bool, typer.Option("--local", help="Copy in this process, without a service.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="With --local: both sides speak plain http.")]
InsecureSource = Annotated[bool, typer.Option("--insecure-source", help="With --local: the source speaks plain http.")]
InsecureDestination = Annotated[
    bool, typer.Option("--insecure-destination", help="With --local: the destinations speak plain http.")
]
SourceCreds = Annotated[
    str | None,
    typer.Option(help="With --local: USER:PASSWORD of the source, by `-` (standard input) or `env:NAME`."),
]
DestinationCreds = Annotated[
    str | None,
    typer.Option(help="With --local: USER:PASSWORD of the destinations, by `-` (standard input) or `env:NAME`."),
]


@dataclass(frozen=True, slots=True)
class _Side:
    """What a local copy has to know of the registries of one side."""

    references: Sequence[str]
    is_insecure: bool
    creds: str | None
    option: str


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides, and whether the copy is local."""

    source: _Side
    destination: _Side
    is_local: bool


def _request(
    source: Source,
    destinations: Destinations,
    *,
    tags: Tags = None,
    exclude_tags: ExcludeTags = None,
    platform: Platforms = None,
) -> dict[str, Any]:
    """Say which images; the parameters are options of every command here."""
    request: dict[str, Any] = {"source": source, "destination": list(destinations)}
    if tags or exclude_tags:
        request["tags"] = {"include": list(tags or ()), "exclude": list(exclude_tags or ())}
    if platform:
        request["platforms"] = list(platform)
    return request


def _sides(
    source: str,
    destinations: Sequence[str],
    *,
    local: Local = False,
    insecure: Insecure = False,
    insecure_source: InsecureSource = False,
    insecure_destination: InsecureDestination = False,
    source_creds: SourceCreds = None,
    destination_creds: DestinationCreds = None,
) -> _Sides:
    """Say how both sides are reached; the parameters are options of every command here."""
    return _Sides(
        is_local=local,
        source=_Side((source,), insecure or insecure_source, source_creds, "--source-creds"),
        destination=_Side(destinations, insecure or insecure_destination, destination_creds, "--destination-creds"),
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """What a command is to do: a request, and the client of the service that does it."""

    request: dict[str, Any]
    client: ApiClient
    is_local: bool


def about_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments and options that say which images, and who copies them; its errors take one line."""
    what, who = parameters_of(_request), parameters_of(_sides)[2:]

    def run(
        source: str,
        destinations: list[str],
        *,
        url: str | None = None,
        key: str | None = None,
        context: str | None = None,
        **given: Any,
    ) -> None:
        request = _request(source, destinations, **{one.name: given.pop(one.name) for one in what[2:]})
        sides = _sides(source, destinations, **{one.name: given.pop(one.name) for one in who})
        with errors_in_one_line(), _client(sides, url=url, key=key, context=context) as client:
            command(_Task(request, client, sides.is_local), **given)

    as_command(run, command, [*what, *parameters_of(command)[1:], *who])
    return run


@about_images
def sync(
    task: _Task,
    *,
    overwrite: Overwrite = "always",
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only, as `plan` does.")] = False,
    explain: Explain = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show the job until it is done, or print its id.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Copy images: one tag, tags of a repository, a namespace or a whole registry, to one or more places."""
    from rich.console import Console

    from app.cli.watch import watch

    request = task.request | _options(overwrite=overwrite, force=force)
    if dry_run or explain:
        raise typer.Exit(_plan(task.client, request, explain=explain, as_json=as_json))
    job = task.client.post("/v1/jobs", request)
    if not wait and not task.is_local:
        print_json(job) if as_json else typer.echo(job["id"])
        return
    job = watch(task.client, job["id"], console=Console(stderr=as_json))
    if as_json:
        print_json(job)
    if job["state"] != "succeeded":
        raise typer.Exit(FAILED)


@about_images
def plan(task: _Task, *, overwrite: Overwrite = "always", explain: Explain = None, as_json: AsJson = False) -> None:
    """Show what `sync` would do, and copy nothing; exit code 0 for nothing, 4 for changes, 3 for what can't be done."""
    request = task.request | _options(overwrite=overwrite)
    raise typer.Exit(_plan(task.client, request, explain=explain, as_json=as_json))


@about_images
def verify(task: _Task, *, as_json: AsJson = False) -> None:
    """Compare both sides tag by tag; exit code 0 where every digest is the same, 3 where one is not."""
    raise typer.Exit(FAILED if _plan(task.client, task.request, explain=None, as_json=as_json) else 0)


def add_to(commands: typer.Typer) -> None:
    """Add these commands to the command line."""
    commands.command()(sync)
    commands.command()(plan)
    commands.command()(verify)


def _plan(client: ApiClient, request: dict[str, Any], *, explain: str | None, as_json: bool) -> int:
    """Print a plan, or what it says of one tag; return the exit code for it."""
    from app.cli.plan_output import show_explanation, show_plan

    if explain is not None:
        return show_explanation(client, request, explain, as_json=as_json)
    return show_plan(client, request, as_json=as_json)


# --- below ------------------------------------------------------------------------------------------------------------


def _options(*, overwrite: str, force: bool = False) -> dict[str, Any]:
    options = ({"overwrite": overwrite} if overwrite != "always" else {}) | ({"force": True} if force else {})
    return {"options": options} if options else {}


@contextmanager
def _client(sides: _Sides, *, url: str | None, key: str | None, context: str | None) -> Iterator[ApiClient]:
    """Open a client of a service, or of the one inside this process with both sides entered."""
    if not sides.is_local:
        if any(side.is_insecure or side.creds for side in (sides.source, sides.destination)):
            message = "--insecure and credentials go with --local; a service knows its registries: registry add"
            raise WrongArgumentError(message)
        with open_client(url, key, context) as client:
            yield client
        return
    from app.cli.local_service import local_service
    from app.observability import configure_logging

    configure_logging(log_format="console", level="CRITICAL")
    with local_service() as client:
        for side in (sides.source, sides.destination):
            for reference in side.references:
                _enter(client, reference, side)
        yield client


def _enter(client: ApiClient, reference: str, side: _Side) -> None:
    """Enter the registry of a reference, unless that was done: with these credentials, or docker's own."""
    host = _host(reference)
    name = re.sub(r"[^a-z0-9._-]", "-", host.lower())
    if side.creds is None and any(entry["name"] == name for entry in client.pages("/v1/registries")):
        return
    entry: dict[str, Any] = {"host": host, "insecure": side.is_insecure}
    config = docker_config()
    if side.creds is not None:
        username, colon, password = read_secret(side.creds, what=side.option).partition(":")
        if not colon:
            raise WrongArgumentError(f"{side.option}: credentials are USER:PASSWORD")
        entry["auth"] = {"type": "basic", "username": username, "password": password}
    elif _is_in(config, host):
        entry["auth"] = {"type": "docker_config", "path": str(config)}
    client.put(f"/v1/registries/{name}", entry)


def _host(reference: str) -> str:
    from app.domain.reference import InvalidReferenceError, refuse_foreign_notation, split_host

    try:
        refuse_foreign_notation(reference)  # before anything repeats a password
        return split_host(reference)[0]
    except InvalidReferenceError as error:
        raise WrongArgumentError(str(error)) from error


def _is_in(config: Path, host: str) -> bool:
    """Return whether docker's configuration has a login for a host."""
    try:
        logins = json.loads(config.read_text(encoding="utf-8")).get("auths", {})
    except (OSError, ValueError, AttributeError):
        return False
    return host in logins or (host == "docker.io" and "https://index.docker.io/v1/" in logins)
