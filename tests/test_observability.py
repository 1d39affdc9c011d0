"""What is logged: events with keys, and never a secret."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from app.observability import bound, configure_logging, get_logger
from app.redaction import HIDDEN, without_secrets

CANARY = "canary-7c1d2e"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Log as the service does, into a text."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with contextlib.redirect_stderr(io.StringIO()) as text:
        configure_logging(log_format="json", level="DEBUG")
        yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def events(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_an_event_has_its_name_its_keys_and_the_ids_around_it(written: io.StringIO) -> None:
    with bound(request_id="r1"):
        get_logger("here").info("thing_happened", count=3)

    [event] = events(written)
    assert event["event"] == "thing_happened"
    assert (event["count"], event["request_id"], event["level"], event["logger"]) == (3, "r1", "info", "here")
    assert str(event["timestamp"]).endswith("Z")


@pytest.mark.parametrize(
    "keys",
    [
        {"password": CANARY},
        {"Authorization": f"Basic {CANARY}"},
        {"registry_token": CANARY},
        {"headers": {"Authorization": f"Bearer {CANARY}", "Cookie": CANARY}},
        {"entries": [{"auth": {"password": CANARY}}]},
        {"url": f"https://user:{CANARY}@registry.example.com/v2/"},
        {"url": f"https://blobs.example.com/x?X-Amz-Signature={CANARY}&a=b"},
        {"error": f"401 for Bearer {CANARY}"},
        {"error": f"no login with password={CANARY}"},
        {"error": ValueError(f"https://a:{CANARY}@b/")},
        {"raw": f"https://a:{CANARY}@b/".encode()},
    ],
)
def test_a_secret_is_hidden_by_its_name_or_its_looks(written: io.StringIO, keys: dict[str, object]) -> None:
    get_logger("here").warning("thing_happened", **keys)

    text = written.getvalue()
    assert CANARY not in text
    assert HIDDEN in text


def test_the_logs_of_libraries_and_tracebacks_go_the_same_way(written: io.StringIO) -> None:
    logging.getLogger("somebody.else").warning("connecting to %s", f"postgresql://me:{CANARY}@db/x")
    try:
        int(f"https://db/?password={CANARY}")
    except ValueError:
        get_logger("here").exception("unexpected_error")

    first, second = events(written)
    assert first["event"] == f"connecting to postgresql://{HIDDEN}@db/x"
    assert "ValueError: invalid literal" in str(second["exception"])
    assert CANARY not in json.dumps([first, second])


def test_what_only_sounds_secret_is_shown(written: io.StringIO) -> None:
    get_logger("here").info("thing_happened", has_password=True, token_count=2, token_expires_at="2030", secret=None)

    [event] = events(written)
    assert (event["has_password"], event["token_count"], event["token_expires_at"]) == (True, 2, "2030")
    assert event["secret"] is None


def test_an_url_keeps_what_helps() -> None:
    assert without_secrets("GET https://u:p@h:5000/v2/a/blobs/?digest=x gave 403") == (
        f"GET https://{HIDDEN}@h:5000/v2/a/blobs/?{HIDDEN} gave 403"
    )
