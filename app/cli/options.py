"""Options that client commands share, and how what they say is shown: errors in one line, results as text or JSON."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from app.cli.api_client import ApiClient, OnCommandLine, open_client
from app.cli.api_errors import WrongArgumentError
from app.domain.errors import RegistrySyncError, SettingsError
from app.redaction import without_secrets

FAILED, CHANGES = 3, 4
"""Exit codes: something did not succeed; a plan, or a file, differs from what is there."""

Name = Annotated[str, typer.Argument(help="Its name.")]


def _typed(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """Mark what was typed: it goes before what the environment says."""
    source = ctx.get_parameter_source(param.name or "")
    return OnCommandLine(value) if value is not None and source and source.name == "COMMANDLINE" else value


Url = Annotated[
    str | None,
    typer.Option(
        envvar="REGISTRY_SYNC_URL",
        callback=_typed,
        help="Where the API is. [default: the context's, http://127.0.0.1:8080]",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(envvar="REGISTRY_SYNC_KEY", callback=_typed, help="API key; better in the environment than here."),
]
Context = Annotated[
    str | None,
    typer.Option(
        envvar="REGISTRY_SYNC_CONTEXT",
        callback=_typed,
        help="A context of ~/.config/registry-sync/config.yaml; goes before URL and key of the environment.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers.")]


P = ParamSpec("P")
_WHERE = [
    Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for name, annotation in {"url": Url, "key": Key, "context": Context}.items()
]


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a function, their annotations evaluated."""
    return list(inspect.signature(function, eval_str=True).parameters.values())


def as_command(run: Callable[..., None], command: Callable[..., Any], parameters: Sequence[Parameter]) -> None:
    """Have Typer show a function as `command`, with these parameters and those that say where the service is."""
    shown = [*parameters, *_WHERE]
    wraps(command)(run)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    vars(run)["__signature__"] = inspect.Signature(shown)


def with_client(command: Callable[Concatenate[ApiClient, P], None]) -> Callable[..., None]:
    """Give a command the options that say where the service is, and the client they name; its errors take one line."""

    def run(
        *args: Any, url: str | None = None, key: str | None = None, context: str | None = None, **given: Any
    ) -> None:
        with errors_in_one_line(), open_client(url, key, context) as client:
            command(client, *args, **given)

    as_command(run, command, parameters_of(command)[1:])
    return run


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print what goes wrong in one line, and exit: 2 for a wrong argument or setting, 1 for everything else."""
    try:
        yield
    except (WrongArgumentError, SettingsError) as error:
        for line in str(error).splitlines():
            typer.echo(f"registry-sync: {without_secrets(line)}", err=True)
        raise typer.Exit(2) from None
    except RegistrySyncError as error:
        typer.echo(f"registry-sync: {without_secrets(error.message)}", err=True)
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        if (error.name or "app").partition(".")[0] == "app":
            raise
        typer.echo(f"registry-sync: this needs the service, and the client alone is installed ({error.name})", err=True)
        raise typer.Exit(2) from None


def docker_config() -> Path:
    """Return where docker's configuration is, of the user who runs this."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker").absolute() / "config.json"


def print_json(document: Any) -> None:
    """Print a document to standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows below a head, each column as wide as its widest text."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_list(
    found: Iterable[dict[str, Any]],
    head: tuple[str, ...],
    row: Callable[[dict[str, Any]], tuple[str, ...]],
    *,
    as_json: bool,
) -> None:
    """Print what was found: as JSON, or as a table with `row` of each below a head."""
    if as_json:
        print_json(list(found))
    else:
        print_table(head, [row(one) for one in found])


def read_secret(source: str, *, what: str) -> str:
    """Return a secret from where `source` says: `-` for standard input, `env:NAME` for the environment.

    Raise `WrongArgumentError` for the secret itself: a command line is seen by every process of the machine.
    """
    import os

    if source == "-":
        return sys.stdin.readline().strip()
    kind, _, name = source.partition(":")
    if kind == "env" and name:
        if name not in os.environ:
            raise WrongArgumentError(f"{what}: there is no variable {name} in the environment")
        return os.environ[name]
    raise WrongArgumentError(
        f"{what}: say - for standard input or env:NAME; a secret does not belong on a command line"
    )


def read_document(source: str, *, what: str) -> Any:
    """Return the JSON in a file, or of standard input (`-`); raise `WrongArgumentError`, which does not repeat it."""
    try:
        return json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongArgumentError(f"{what}: {source} can't be read: {error.strerror}") from None
    except ValueError:
        raise WrongArgumentError(f"{what}: this is not JSON") from None
