"""`registry add --auth`: logins of every kind, from a file or standard input, never on the command line."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.cli.resource_commands import add_to
from tests.support.loopback_server import LoopbackServer, Said, json_handler

AUTH = {"type": "github_app", "app_id": "1", "installation_id": 2, "private_key": "canary"}


@pytest.fixture
def sent() -> Iterator[list[Any]]:
    """Run what answers as the service does; yield its URL, and after it the bodies that arrive."""
    bodies: list[Any] = []

    def answer(handler: BaseHTTPRequestHandler, _: str, body: str) -> Said:
        bodies.append(json.loads(body))
        return 200, {"ok": True, "steps": []}

    with LoopbackServer(json_handler(answer)) as server:
        bodies.append(server.url)
        yield bodies


def add(url: str, *more: str, stdin: str = "") -> Any:
    commands = typer.Typer()
    add_to(commands)
    return CliRunner().invoke(commands, ["registry", "add", "r", "ghcr.io", "--url", url, *more], input=stdin)


def test_a_login_is_read_from_a_file_or_standard_input(sent: list[Any], tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text(json.dumps(AUTH))
    results = [
        add(sent[0], "--auth", str(tmp_path / "auth.json")),
        add(sent[0], "--auth", "-", stdin=json.dumps(AUTH, indent=1)),
    ]
    assert [result.exit_code for result in results] == [0, 0], [result.exception for result in results]
    assert [body["auth"] for body in sent[1:] if "auth" in body] == [AUTH, AUTH]


@pytest.mark.parametrize("given", ["missing.json", json.dumps(AUTH)], ids=["missing", "no JSON"])
def test_a_login_that_can_not_be_read_is_a_wrong_argument(sent: list[Any], given: str) -> None:
    source = given if given.endswith(".json") else "-"
    result = add(sent[0], "--auth", source, stdin=given[:-1])
    assert result.exit_code == 2
    assert "--auth" in result.output
    assert "canary" not in result.output
