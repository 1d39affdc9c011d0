"""Which service a command speaks to, and which key it sends there."""

from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.commands import run_command
from tests.support.loopback_server import LoopbackServer, Said, json_handler


class Places:
    """Two addresses that answer as a service does, and what they were sent."""

    def __init__(self, stack: ExitStack) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.urls = {name: stack.enter_context(LoopbackServer(self._handler(name))).url for name in ("named", "other")}

    def _handler(self, place: str) -> Any:
        def answer(handler: BaseHTTPRequestHandler, _: str, __: str) -> Said:
            self.seen.append((place, handler.headers["Authorization"]))
            return 200, {"items": [], "next_cursor": None}

        return json_handler(answer)


@pytest.fixture
def places() -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(stack)


@pytest.fixture
def home(tmp_path: Path, places: Places) -> Path:
    file = tmp_path / ".config/registry-sync/config.yaml"
    file.parent.mkdir(parents=True)
    contexts = {"keyed": {"url": places.urls["named"], "key": "own"}, "plain": {"url": places.urls["named"]}}
    file.write_text(yaml.safe_dump({"current": "keyed", "contexts": contexts}))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (["--context", "keyed"], {"URL": "other", "KEY": "env"}, ("named", "Bearer own")),
        (["--context", "plain"], {"URL": "other", "KEY": "env"}, ("named", None)),
        (["--context", "plain", "--key", "typed"], {"URL": "other", "KEY": "env"}, ("named", "Bearer typed")),
        ([], {"URL": "other", "KEY": "env"}, ("other", "Bearer env")),
        ([], {"URL": "other"}, ("other", None)),
        ([], {}, ("named", "Bearer own")),
        ([], {"CONTEXT": "plain", "KEY": "env"}, ("named", "Bearer env")),
    ],
)
def test_a_context_that_is_typed_goes_before_the_environment(
    places: Places, home: Path, options: list[str], environment: dict[str, str], expected: tuple[str, str | None]
) -> None:
    given = {f"REGISTRY_SYNC_{name}": places.urls.get(value, value) for name, value in environment.items()}
    ran = run_command("jobs", "list", *options, home=home, **given)
    assert ran.exit_code == 0, ran.stderr
    assert places.seen == [expected]


def test_a_context_that_is_not_there_is_always_wrong_and_so_is_one_beside_an_address(
    places: Places, home: Path
) -> None:
    url = places.urls["other"]
    for wrong in (
        run_command("jobs", "list", "--context", "none", home=home, REGISTRY_SYNC_URL=url),
        run_command("jobs", "list", "--url", url, home=home, REGISTRY_SYNC_CONTEXT="none"),
        run_command("sync", "a.io/x:1", "b.io/x", "--context", "none", home=home, REGISTRY_SYNC_URL=url),
        run_command("jobs", "list", "--url", url, "--context", "keyed", home=home),
    ):
        assert (wrong.exit_code, "context" in wrong.stderr) == (2, True)
    assert places.seen == []


@pytest.mark.parametrize("url", ["127.0.0.1:17580", "sync.example.com", "ftp://x", "http://a:b"])
def test_an_address_that_is_no_url_is_a_wrong_argument(home: Path, url: str) -> None:
    wrong = run_command("jobs", "list", "--url", url, home=home)
    [line] = wrong.stderr.splitlines()
    assert (wrong.exit_code, "is no URL of a service" in line) == (2, True)
    if not url.startswith("http"):
        assert "write http://" in line
