"""Every dialect reads its sender's payloads: bodies and expected events lie in tests/data/hooks/<sender>/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.domain.errors import HookError
from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.inbound import DIALECTS
from app.webhooks.payload import MAX_BODY_BYTES, MAX_EVENTS

DATA = Path(__file__).parent.parent / "data" / "hooks"
SAMPLES = sorted(path for path in DATA.glob("*/*.json") if not path.name.endswith(".expected.json"))
DELIVERY = TypeAdapter(HookDelivery)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_payload_becomes_the_events_beside_it(path: Path) -> None:
    expected = json.loads(path.with_suffix(".expected.json").read_text())
    dialect = Dialect(path.parent.name)
    delivery = DIALECTS[dialect](path.read_bytes(), expected.pop("headers", {}))
    read = DELIVERY.dump_python(delivery, mode="json", exclude_none=True)
    assert {event.pop("dialect") for event in read["events"]} <= {dialect.value}
    assert read == expected


def test_every_dialect_has_samples_of_pushes_and_of_something_else() -> None:
    for dialect in Dialect:
        expected = [json.loads(path.read_text()) for path in (DATA / dialect).glob("*.expected.json")]
        assert any(sample["events"] for sample in expected), dialect
        assert any(not sample["events"] and sample["ignored"] for sample in expected), dialect


def test_every_sample_has_its_expected_events_and_the_other_way_round() -> None:
    expected = {path.with_name(path.name.replace(".expected.json", ".json")) for path in DATA.glob("*/*.expected.json")}
    assert expected == set(SAMPLES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("dialect", list(Dialect))
@given(value=json_values, headers=st.dictionaries(st.sampled_from(["ce-type", "ce-id", "x-github-event"]), st.text()))
def test_any_json_is_read_or_refused_with_a_hook_error(
    dialect: Dialect, value: object, headers: dict[str, str]
) -> None:
    read_or_refused(dialect, json.dumps(value).encode(), headers)


@pytest.mark.parametrize("dialect", list(Dialect))
@given(body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_hook_error(dialect: Dialect, body: bytes) -> None:
    read_or_refused(dialect, body, {"content-type": "application/x-www-form-urlencoded"})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
@settings(max_examples=25)
@given(data=st.data())
def test_a_sample_with_anything_in_any_place_is_read_or_refused_with_a_hook_error(
    path: Path, data: st.DataObject
) -> None:
    document = json.loads(path.read_text())
    headers = json.loads(path.with_suffix(".expected.json").read_text()).get("headers", {})
    holder, key = data.draw(st.sampled_from(places(document)))
    holder[key] = data.draw(json_values)
    read_or_refused(Dialect(path.parent.name), json.dumps(document).encode(), headers)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"7", b"{", b"\xff\xfe\x00", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 10_000],
    ids=["empty", "null", "number", "cut", "utf16", "deep", "deep_objects", "long_number"],
)
def test_a_body_that_is_no_event_is_malformed(dialect: Dialect, body: bytes) -> None:
    with pytest.raises(HookError) as caught:
        DIALECTS[dialect](body, {})
    assert caught.value.code == "hook_malformed"


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_body_larger_than_any_sender_sends_is_too_large(dialect: Dialect) -> None:
    with pytest.raises(HookError) as caught:
        DIALECTS[dialect](b" " * (MAX_BODY_BYTES + 1), {})
    assert caught.value.code == "hook_too_large"


def test_more_events_than_any_sender_batches_are_too_large() -> None:
    event = {"repository": "team/shop", "tag": "1"}
    body = {"events": [event] * MAX_EVENTS}
    assert len(DIALECTS[Dialect.GENERIC](json.dumps(body).encode(), {}).events) == MAX_EVENTS
    body["events"].append(event)
    with pytest.raises(HookError) as caught:
        DIALECTS[Dialect.GENERIC](json.dumps(body).encode(), {})
    assert caught.value.code == "hook_too_large"


@pytest.mark.parametrize("dialect", [Dialect.GHCR, Dialect.GITEA])
def test_a_form_holds_the_same_event_as_its_json(dialect: Dialect) -> None:
    path = DATA / dialect / "push.json"
    headers = json.loads(path.with_suffix(".expected.json").read_text())["headers"]
    form = {**headers, "content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    encoded = "payload=" + "".join(f"%{byte:02x}" for byte in path.read_bytes())
    assert DIALECTS[dialect](encoded.encode(), form) == DIALECTS[dialect](path.read_bytes(), headers)


def test_redeliveries_share_a_key_and_other_pushes_do_not() -> None:
    def read(**changes: object) -> str | None:
        event = {"repository": "team/shop", "tag": "1", "id": "e-1", **changes}
        return DIALECTS[Dialect.GENERIC](json.dumps(event).encode(), {}).events[0].dedupe_key

    assert read() == read(note="another field")
    assert len({read(), read(id="e-2"), read(tag="2"), read(repository="team/other")}) == 4
    at = "2026-03-02T07:15:09Z"
    assert read(id=None, occurred_at=at) == read(id=None, occurred_at="2026-03-02T08:15:09+01:00")
    assert read(id=None, occurred_at=at) != read(id=None, occurred_at="2026-03-02T07:15:10Z")
    assert read(id=None) is None, "a tag pushed twice without anything to tell the pushes apart is pushed twice"


def test_an_event_id_that_is_no_plain_word_is_known_by_its_digest() -> None:
    body = json.dumps({"repository": "a", "tag": "1", "id": "\ud800" + "x" * 1000}).encode()
    event = DIALECTS[Dialect.GENERIC](body, {}).events[0]
    assert event.event_id is not None
    assert len(event.event_id) == len("sha256:") + 64


def read_or_refused(dialect: Dialect, body: bytes, headers: dict[str, str]) -> None:
    try:
        delivery = DIALECTS[dialect](body, headers)
    except HookError as error:
        assert error.code in {"hook_malformed", "hook_too_large"}  # noqa: PT017 — both ends are fine
        return
    for event in delivery.events:
        assert event.tag or event.digest
        assert event.repository.isascii()
    for ignored in delivery.ignored:
        assert ignored.detail.isascii()
    DELIVERY.dump_json(delivery)


def places(document: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in pairs:
        found += [(document, key), *places(value)]
    return found
