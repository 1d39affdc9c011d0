"""Client commands in this process: quicker than a process each, for what is not about processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from app.cli import policy_commands, resource_commands, sync_commands


def run_command(*arguments: str, home: Path, **environment: str | None) -> Any:
    """Run a client command with nothing of this user's: `exit_code`, `stdout`, `stderr`."""
    commands = typer.Typer()
    for module in (policy_commands, resource_commands, sync_commands):
        module.add_to(commands)
    mine: dict[str, str | None] = {name: None for name in os.environ if name.startswith("REGISTRY_SYNC_")}
    given = mine | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")} | environment
    return CliRunner().invoke(commands, list(arguments), env=given)
