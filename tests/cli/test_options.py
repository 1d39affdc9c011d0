"""Options that every client command has, whichever way they are given to it."""

from typing import Any

import pytest
import typer

from app.cli import policy_commands, resource_commands, sync_commands
from app.cli.options import with_client


def made_of(*modules: Any) -> dict[str, Any]:
    """List the commands that modules add, with those of groups, by name."""
    commands = typer.Typer()
    for module in modules:
        module.add_to(commands)
    found: dict[str, Any] = {}
    for name, one in typer.main.get_command(commands).commands.items():  # type: ignore[attr-defined]  # a group
        below = getattr(one, "commands", None)
        found |= {f"{name} {word}": command for word, command in below.items()} if below else {name: one}
    return found


COMMANDS = made_of(policy_commands, resource_commands, sync_commands)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_client_command_can_be_told_where_the_service_is(name: str) -> None:
    variables = {param.name: param.envvar for param in COMMANDS[name].params}
    expected = {word: f"REGISTRY_SYNC_{word.upper()}" for word in ("url", "key", "context")}
    assert expected.items() <= variables.items()
    assert "client" not in variables


def test_a_command_is_told_what_is_wrong_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @with_client
    def ask(client: Any, job: str) -> None:
        client.get(f"/v1/jobs/{job}")

    with pytest.raises(typer.Exit) as ended:
        ask("x", url="http://127.0.0.1:1")
    assert ended.value.exit_code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("registry-sync: ")
