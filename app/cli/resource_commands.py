"""`jobs` and `registry`: what a service does and knows, from a terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from app.cli.api_client import ApiClient
from app.cli.api_errors import in_words_of_commands
from app.cli.options import (
    FAILED,
    AsJson,
    Name,
    print_json,
    print_list,
    read_document,
    read_secret,
    with_client,
)

jobs = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at jobs, cancel and retry them.")
registry = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Enter registries, check and list them.")

JobId = Annotated[str, typer.Argument(help="The job's id.")]


def add_to(commands: typer.Typer) -> None:
    """Add these commands to the command line."""
    commands.add_typer(jobs, name="jobs")
    commands.add_typer(registry, name="registry")


# --- jobs -------------------------------------------------------------------------------------------------------------
_ALLOWED = {True: "may ", False: "NOT ", None: "?   "}


@jobs.command("ls", hidden=True)
@jobs.command("list")
@with_client
def list_jobs(
    client: ApiClient,
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="Only queued, running, succeeded, failed or cancelled ones; repeatable.")
    ] = None,
    policy_name: Annotated[str | None, typer.Option("--policy", help="Only those of a policy.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only those with KEY:VALUE; repeatable.")] = None,
    source: Annotated[str | None, typer.Option(help="Only those with a source that begins like this.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only those with a destination like this.")] = None,
    created_by: Annotated[str | None, typer.Option(help="Only those that this API key submitted.")] = None,
    trigger: Annotated[str | None, typer.Option(help="Only those of api, schedule, push or retry.")] = None,
    since: Annotated[str | None, typer.Option(help="Submitted then or later: 1h, 2026-11-25, a time.")] = None,
    until: Annotated[str | None, typer.Option(help="Submitted before that.")] = None,
    search: Annotated[str | None, typer.Option("--search", "-q", help="Only those with this text.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    filters = {"source": source, "destination": destination, "created_by": created_by, "trigger": trigger}
    filters |= {"since": since, "until": until, "q": search, "policy": policy_name}
    print_list(
        client.pages("/v1/jobs", limit=limit, state=state, label=label, **filters),
        ("ID", "KIND", "STATE", "SUBMITTED", "BY", "IMAGES", "ERROR"),
        lambda job: (
            job["id"],
            job["kind"],
            job["state"],
            job["created_at"],
            job["policy"] or job["created_by"],
            _counts(job),
            _why(client, job),
        ),
        as_json=as_json,
    )


@jobs.command("get")
@with_client
def get_job(client: ApiClient, job: JobId) -> None:
    """Print a job as the API shows it."""
    print_json(client.get(f"/v1/jobs/{job}"))


@jobs.command("explain")
@with_client
def explain_tag(
    client: ApiClient,
    job: JobId,
    tag: Annotated[str, typer.Argument(help="A tag, repository:tag or host/repository:tag.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say why a job's rules take or drop a tag, as the source is now, and what the job did with it."""
    from app.cli.plan_output import print_explanation

    found = client.get(f"/v1/jobs/{job}", explain=tag)["explanation"]
    names = {rule["tag"] for rule in found["rules"]} if found else set()
    rows = [one for name in names for one in client.pages(f"/v1/jobs/{job}/images", q=name) if one["source"] == name]
    if as_json:
        print_json({"explanation": found, "images": rows})
    else:
        print_explanation(client, found, rows)


@jobs.command("images")
@with_client
def list_images(
    client: ApiClient,
    job: JobId,
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="Only those in this state, such as failed; repeatable.")
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", "-q", help="Only those with this text in a name, digest or error.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many. [default: all]")] = None,
    as_json: AsJson = False,
) -> None:
    """List the images of a job."""
    print_list(
        client.pages(f"/v1/jobs/{job}/images", limit=limit, state=state, q=search),
        ("STATE", "SOURCE", "DESTINATION", "WHY"),
        lambda one: (one["state"], one["source"], one["destination"], one["reason"] or _why(client, one)),
        as_json=as_json,
    )


@jobs.command("cancel")
@with_client
def cancel_job(client: ApiClient, job: JobId) -> None:
    """Cancel a job."""
    typer.echo(client.post(f"/v1/jobs/{job}/cancel")["state"])


@jobs.command("retry")
@with_client
def retry_job(
    client: ApiClient,
    job: JobId,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All of it, not only what failed.")] = False,
) -> None:
    """Retry what failed of a job, as a new job; print its id."""
    typer.echo(client.post(f"/v1/jobs/{job}/retry", {"only": "all" if everything else "failed"})["id"])


@jobs.command("logs")
@with_client
def show_log(
    client: ApiClient,
    job: JobId,
    image: Annotated[str | None, typer.Argument(help="An image's id. [default: all that failed]")] = None,
) -> None:
    """Show what was done for images that failed, step by step."""
    failed = [] if image else [found["id"] for found in client.pages(f"/v1/jobs/{job}/images", state="failed")]
    if not image and not failed:
        typer.echo(
            "no image failed; name one to see its log: registry-sync jobs images ID --json has their ids", err=True
        )
    for one in [image] if image else failed:
        typer.echo(f"# {one}")
        for step in client.get(f"/v1/jobs/{job}/images/{one}/log")["steps"]:
            details = " ".join(f"{name}={value}" for name, value in step["details"].items() if value is not None)
            typer.echo(f"{step['at']} {step['event']} {details}")


@jobs.command("watch")
@with_client
def watch_job(client: ApiClient, job: JobId) -> None:
    """Show a job live until it is done; exit code 0 when it succeeded, 3 when it did not."""
    from rich.console import Console

    from app.cli.watch import watch

    if watch(client, job, console=Console())["state"] != "succeeded":
        raise typer.Exit(FAILED)


# --- registries -------------------------------------------------------------------------------------------------------


@registry.command("add")
@with_client
def add_registry(
    client: ApiClient,
    name: Name,
    host: Annotated[str, typer.Argument(help="host[:port][/prefix]")],
    *,
    kind: Annotated[str, typer.Option("--type", help="auto, acr, ecr, gar, ghcr, gitlab, harbor, quay, …")] = "auto",
    username: Annotated[str | None, typer.Option(help="User name of the login. [default: none, anonymous]")] = None,
    password: Annotated[
        str | None,
        typer.Option(help="Where the password is: env:NAME, or - for standard input. [default: asked for, or -]"),
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(help="Any other login, as the JSON of the entry's auth: in a file, or - for standard input."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="It speaks plain http.")] = False,
    create_missing: Annotated[
        bool, typer.Option("--create-missing", help="Make repositories (Harbor: projects) that a copy finds missing.")
    ] = False,
) -> None:
    """Enter a registry, or replace its entry, and check it; it stays where the check fails (exit code 3)."""
    entry: dict[str, Any] = {"host": host, "type": kind, "insecure": insecure, "create_missing": create_missing}
    if auth is not None:
        entry["auth"] = read_document(auth, what="--auth")
    elif username is not None:
        is_asked = password is None and sys.stdin.isatty()
        where = password or "-"
        secret = typer.prompt("Password", hide_input=True) if is_asked else read_secret(where, what="--password")
        entry["auth"] = {"type": "basic", "username": username, "password": secret}
    client.put(f"/v1/registries/{name}", entry)
    _check(client, name, {})


@registry.command("check")
@with_client
def check_registry(
    client: ApiClient,
    name: Name,
    *,
    repository: Annotated[str | None, typer.Option(help="A repository to list and read from.")] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Instead of a repository: what to list, and read the first of.")
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Open an upload there too, and take it back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try what a copy needs: reach it, log in, list, read, push; exit code 3 where something does not work."""
    asked = {"repository": repository, "namespace": namespace, "push": push or None}
    body = {field: value for field, value in asked.items() if value is not None}
    _check(client, name, body, as_json=as_json)


@registry.command("list", hidden=True)
@registry.command("ls")
@with_client
def list_registries(client: ApiClient, *, as_json: AsJson = False) -> None:
    """List registries and how they stand."""
    print_list(
        client.pages("/v1/registries"),
        ("NAME", "HOST", "TYPE", "LOGIN", "STATE"),
        lambda one: (one["name"], one["host"], one["type"], one["auth"]["type"], _state(one["state"])),
        as_json=as_json,
    )


@registry.command("rm")
@with_client
def remove_registry(
    client: ApiClient,
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also where policies copy from or to it.")] = False,
) -> None:
    """Delete a registry's entry."""
    client.delete(f"/v1/registries/{name}", force="true" if force else None)


# --- below ------------------------------------------------------------------------------------------------------------


def _check(client: ApiClient, name: str, body: dict[str, Any], *, as_json: bool = False) -> None:
    checked = client.post(f"/v1/registries/{name}/check", body)
    if as_json:
        print_json(checked)
    else:
        _print_check(checked)
    if not checked["ok"]:
        raise typer.Exit(FAILED)


def _print_check(checked: dict[str, Any]) -> None:
    for step in checked["steps"]:
        detail = in_words_of_commands(step["detail"], is_local=False)
        typer.echo(f"{'ok  ' if step['ok'] else 'FAIL'} {step['name']}: {detail}")
    if checked.get("may"):  # a service of an earlier release does not say
        typer.echo(f"who  {checked['identity'] or 'anonymous'}")
    if checked.get("valid_until"):
        typer.echo(f"until {checked['valid_until']}: the login ends then")
    for action, one in (checked.get("may") or {}).items():
        typer.echo(f"{_ALLOWED[one['allowed']]} {action}: {one['detail']}")


def _counts(job: dict[str, Any]) -> str:
    from app.cli.watch import counts

    return counts(job["progress"]["images"])


def _why(client: ApiClient, one: dict[str, Any]) -> str:
    return client.error_text(one["error"]) if one["error"] else ""


def _state(state: dict[str, Any] | None) -> str:
    if state is None:
        return "not asked lately"
    if state["paused_until"]:
        return f"paused until {state['paused_until']}: {state['reason']}"
    return f"last error {state['last_error']['code']}" if state["last_error"] else "ok"
