"""What a registry echoes: its entry's secrets are taken out of all that is stored or shown of its answers."""

import base64
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.domain.registry import RegistryEntry
from app.redaction import EchoGuard
from tests.registry.conftest import Connect
from tests.support.fake_registry import Echo, FakeRegistry, Quirks, fake_registry, on

PASSWORD = 'hunter2&"more'
PAIR = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()


def shown(error: RegistryError, registry: FakeRegistry, logs: Any) -> tuple[str, tuple[str, ...]]:
    """Return all that was shown of an answer, and the secrets that were sent for it."""
    texts = [error.message, str(error.spec_codes), str(logs)]
    sent = [entry.authorization.partition(" ")[2] for entry in registry.journal.entries if entry.authorization]
    assert sent
    return "\n".join(texts), (PASSWORD, PAIR, *sent)


@pytest.mark.parametrize(("auth", "place"), [("basic", "manifest"), ("token", "manifest"), ("token", "token")])
async def test_an_error_that_repeats_the_request_is_shown_without_its_secrets(
    connect: Connect, auth: Any, place: Any
) -> None:
    async with fake_registry(Quirks(auth=auth), accounts={"ann": PASSWORD}) as registry:
        registry.faults.add(Echo(403), matching=on(place), times=None)
        client = connect(registry, auth={"type": "basic", "username": "ann", "password": PASSWORD})
        with capture_logs() as logs, pytest.raises(RegistryError, match="you sent") as refusal:
            await client.get_manifest("team/app", Tag("1"))
        text, secrets = shown(refusal.value, registry, logs)
    assert "[hidden]" in text
    assert [secret for secret in secrets if secret in text] == []


def test_a_secret_is_found_as_texts_write_it() -> None:
    entry = RegistryEntry.model_validate(
        {"name": "a", "host": "a.example.com", "auth": {"type": "bearer", "token": PASSWORD}}
    )
    guard = EchoGuard(entry)
    for form in (PASSWORD, 'hunter2&\\"more', "hunter2%26%22more", "hunter2&amp;&quot;more"):
        assert guard.clean(f"a {form} b") == "a [hidden] b"
    assert guard.clean("hunter2") == "hunter2"


def test_what_was_sent_is_known_too() -> None:
    entry = RegistryEntry.model_validate({"name": "a", "host": "a.example.com"})
    guard = EchoGuard(entry, (f"Basic {PAIR}", "Basic !!! no pair", "Bearer token-1"))
    assert guard.clean(f"{PASSWORD} {PAIR} token-1 token-2 ann") == "[hidden] [hidden] [hidden] token-2 ann"
