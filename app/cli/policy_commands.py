"""`policy` and `import`: recurring syncs as files, and other tools' files as recurring syncs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
import yaml

from app.cli.api_client import ApiClient
from app.cli.api_errors import RefusedError, WrongArgumentError
from app.cli.options import CHANGES, AsJson, Name, print_json, print_list, with_client

_READ_ONLY = {"created_at", "updated_at", "version", "next_run_at", "last_job", "name"}
"""What a policy is shown with and can't be sent."""

policy = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Apply, run, pause and export policies.")


def add_to(commands: typer.Typer) -> None:
    """Add these commands to the command line."""
    commands.add_typer(policy, name="policy")
    commands.command("import")(import_file)


@policy.command("apply")
@with_client
def apply_policies(
    client: ApiClient,
    place: Annotated[
        Path, typer.Option("--file", "-f", help="A YAML file, or a folder of them; its name is the policy's.")
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference only; exit code 4 where there is one.")
    ] = False,
) -> None:
    """Create or replace policies from files; show first what changes. Nothing is stored where one can't be."""
    existing = {one["name"]: one for one in client.pages("/v1/policies")}
    changed = []
    for one in _checked(client, _policies_in(place), existing):
        if one.before == one.after:
            typer.echo(f"= {one.name}")
            continue
        changed.append(one)
        typer.echo(f"{'~' if one.before else '+'} {one.name}")
        after = one.after if one.before else one.document
        for line in difflib.unified_diff(_as_lines(one.before), _as_lines(after), "there", "file", lineterm=""):
            typer.echo(f"  {line}")
    if dry_run and changed:
        raise typer.Exit(CHANGES)
    for one in changed:
        with _naming_file(one):
            client.put(_path(one.name), one.document, version=one.version)


@policy.command("list", hidden=True)
@policy.command("ls")
@with_client
def list_policies(client: ApiClient, *, as_json: AsJson = False) -> None:
    """List policies, when they run next, and how their last job went."""
    print_list(
        client.pages("/v1/policies"),
        ("NAME", "STATE", "NEXT RUN", "LAST JOB"),
        lambda one: (one["name"], _state_of(one), one["next_run_at"] or "", _last_of(one)),
        as_json=as_json,
    )


@policy.command("rm")
@with_client
def remove_policy(client: ApiClient, name: Name) -> None:
    """Delete a policy; its jobs stay, and go on."""
    client.delete(_path(name))


@policy.command("run")
@with_client
def run_policy(client: ApiClient, name: Name) -> None:
    """Run a policy now; print the job's id."""
    typer.echo(client.post(f"{_path(name)}/run")["id"])


@policy.command("pause")
@with_client
def pause_policy(
    client: ApiClient,
    name: Name,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Let it run again.")] = False,
) -> None:
    """Pause a policy: neither its schedule nor pushes run it."""
    client.send("PATCH", _path(name), body={"enabled": resume})


@policy.command("export")
@with_client
def export_policies(
    client: ApiClient,
    names: Annotated[list[str] | None, typer.Argument(help="Which. [default: all]")] = None,
    *,
    folder: Annotated[Path | None, typer.Option(help="Write a file for each there. [default: standard output]")] = None,
) -> None:
    """Print policies as YAML that `policy apply` takes."""
    found = [client.get(_path(name)) for name in names] if names else list(client.pages("/v1/policies"))
    for one in found:
        text = yaml.safe_dump({"name": one["name"], **_sendable(one)}, sort_keys=False)
        if folder is None:
            typer.echo(f"---\n{text}", nl=False)
        else:
            _write(folder / f"{one['name']}.yaml", text)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WrongArgumentError(f"{file} can't be written: {error.strerror}") from error


@with_client
def import_file(
    client: ApiClient,
    file: Annotated[Path, typer.Argument(help="The other tool's file.")],
    *,
    tool: Annotated[
        str, typer.Option("--format", help="skopeo, regsync, image-syncer, dregsy, harbor, list, kubernetes")
    ],
    destination: Annotated[
        str | None, typer.Option(help="Where images go, such as registry.example.com/mirror/{repository}.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the policy. [default: as the tool]")] = None,
    host: Annotated[str | None, typer.Option(help="The Harbor that the file is of.")] = None,
    made: Annotated[str | None, typer.Option("--as", help="policies, or job: once, now. [default: policies]")] = None,
    write: Annotated[bool, typer.Option("--write", help="Make what is shown.")] = False,
) -> None:
    """Import another tool's configuration; without `--write` show what would be made of it."""
    try:
        content = ("text/plain" if tool == "list" else "application/yaml", file.read_bytes())
    except OSError as error:
        raise WrongArgumentError(f"{file} can't be read: {error.strerror}") from error
    query = {"format": tool, "dry_run": str(not write).lower(), "as": made}
    query |= {"destination": destination, "name": name, "host": host}
    print_json(client.send("POST", "/v1/policies/import", query=query, content=content))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A policy of a file, and as it is stored and would be."""

    file: Path
    name: str
    document: dict[str, Any]
    version: int | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def _checked(client: ApiClient, wanted: list[_Wanted], existing: Mapping[str, dict[str, Any]]) -> list[_Wanted]:
    """Ask the service what it would store of each, which checks it; raise `WrongArgumentError` for all that is wrong.

    A file that is silent about `enabled` leaves a policy as it is: paused, or not.
    """
    checked, wrong = [], []
    for one in wanted:
        there = existing.get(one.name)
        document = one.document if there is None else {"enabled": there["enabled"], **one.document}
        version = None if there is None else there["version"]
        try:
            with _naming_file(one):
                after = client.put(_path(one.name), document, version=version, dry_run="true")
        except WrongArgumentError as error:
            wrong.append(error.message)
            continue
        before = None if there is None else _sendable(there)
        checked.append(replace(one, document=document, version=version, before=before, after=_sendable(after)))
    if wrong:
        raise WrongArgumentError("\n".join([*wrong, "nothing was stored"]))
    return checked


@contextmanager
def _naming_file(one: _Wanted) -> Iterator[None]:
    """Say in an error which file it is about, and in a conflict what happened."""
    try:
        yield
    except (RefusedError, WrongArgumentError) as error:
        text = error.message
        if error.code == "precondition_failed":
            text = f"{one.name} was changed by another caller meanwhile, and is left as it is now: apply again"
        raise type(error)(f"{one.file}: {text}", code=error.code) from error


def _path(name: str) -> str:
    return f"/v1/policies/{quote(name, safe='')}"


def _state_of(one: dict[str, Any]) -> str:
    return "enabled" if one["enabled"] else "paused"


def _last_of(one: dict[str, Any]) -> str:
    last = one["last_job"]
    return f"{last['state']} {last['created_at']} {last['id']}" if last else ""


def _sendable(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name not in _READ_ONLY}


def _policies_in(place: Path) -> list[_Wanted]:
    files = sorted([*place.glob("*.yaml"), *place.glob("*.yml")]) if place.is_dir() else [place]
    if not files:
        raise WrongArgumentError(f"there is no *.yaml in {place}")
    found: dict[str, _Wanted] = {}
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise WrongArgumentError(f"{file} can't be read: {error}") from error
        for document in documents:
            if not isinstance(document, dict):
                raise WrongArgumentError(f"{file}: a policy is a mapping with `rules`")
            one = _Wanted(file, str(document.get("name", file.stem)), _sendable(_as_json(document)))
            if one.name in found:
                raise WrongArgumentError(f"{file}: {one.name} is in {found[one.name].file} too")
            found[one.name] = one
    return list(found.values())


def _as_json(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of YAML as JSON has it: a date is a text."""
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return found


def _as_lines(document: dict[str, Any] | None) -> list[str]:
    return [] if document is None else yaml.safe_dump(document, sort_keys=True).splitlines()
