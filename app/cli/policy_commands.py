"""`policy` and `import`: recurring syncs as files, and other tools' files as recurring syncs."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from app.cli.api_client import ApiClient
from app.cli.options import (
    CHANGES,
    Name,
    WrongArgumentError,
    print_json,
    with_client,
)

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
    """Create or replace policies from files; show first what changes."""
    existing = {one["name"]: _sendable(one) for one in client.pages("/v1/policies")}
    changes = 0
    for name, document in _policies_in(place):
        before = _as_lines(existing.get(name))
        if before == _as_lines(document) or (name in existing and document.items() <= existing[name].items()):
            typer.echo(f"= {name}")
            continue
        changes += 1
        typer.echo(f"{'~' if name in existing else '+'} {name}")
        for line in difflib.unified_diff(before, _as_lines(document), "there", "file", lineterm=""):
            typer.echo(f"  {line}")
        if not dry_run:
            client.put(f"/v1/policies/{name}", document)
    if dry_run and changes:
        raise typer.Exit(CHANGES)


@policy.command("run")
@with_client
def run_policy(client: ApiClient, name: Name) -> None:
    """Run a policy now; print the job's id."""
    typer.echo(client.post(f"/v1/policies/{name}/run")["id"])


@policy.command("pause")
@with_client
def pause_policy(
    client: ApiClient,
    name: Name,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Let it run again.")] = False,
) -> None:
    """Pause a policy: neither its schedule nor pushes run it."""
    client.send("PATCH", f"/v1/policies/{name}", body={"enabled": resume})


@policy.command("export")
@with_client
def export_policies(
    client: ApiClient,
    names: Annotated[list[str] | None, typer.Argument(help="Which. [default: all]")] = None,
    *,
    folder: Annotated[Path | None, typer.Option(help="Write a file for each there. [default: standard output]")] = None,
) -> None:
    """Print policies as YAML that `policy apply` takes."""
    found = [client.get(f"/v1/policies/{name}") for name in names] if names else list(client.pages("/v1/policies"))
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
    write: Annotated[bool, typer.Option("--write", help="Make what is shown.")] = False,
) -> None:
    """Import another tool's configuration; without `--write` show what would be made of it."""
    try:
        content = ("text/plain" if tool == "list" else "application/yaml", file.read_bytes())
    except OSError as error:
        raise WrongArgumentError(f"{file} can't be read: {error.strerror}") from error
    query = {"format": tool, "dry_run": str(not write).lower()}
    print_json(client.send("POST", "/v1/policies/import", query=query, content=content))


def _sendable(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name not in _READ_ONLY}


def _policies_in(place: Path) -> list[tuple[str, dict[str, Any]]]:
    files = sorted([*place.glob("*.yaml"), *place.glob("*.yml")]) if place.is_dir() else [place]
    if not files:
        raise WrongArgumentError(f"there is no *.yaml in {place}")
    found = []
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError) as error:
            raise WrongArgumentError(f"{file} can't be read: {error}") from error
        for document in documents:
            if not isinstance(document, dict):
                raise WrongArgumentError(f"{file}: a policy is a mapping with `rules`")
            found.append((str(document.get("name", file.stem)), _sendable(document)))
    return found


def _as_lines(document: dict[str, Any] | None) -> list[str]:
    return [] if document is None else yaml.safe_dump(document, sort_keys=True).splitlines()
