"""Files of other tools become policies, registries and notes: both lie in tests/data/imports/<tool>/."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.domain.errors import InvalidRequestError
from app.domain.registry import BasicAuth
from app.imports.image_syncer import ImageSyncerFlags, read_image_syncer
from app.imports.regsync import read_regsync
from app.imports.result import ImportResult
from app.imports.skopeo import SkopeoFlags, read_skopeo

DATA = Path(__file__).parent.parent / "data" / "imports"
ENVIRONMENT = {
    "READER_PASSWORD": "reads",
    "STAGE": "prod",
    "TEAM_PASSWORD": "teams",
    "MIRROR": "mirror.example.com",
    "EXPANDED": "never",
    "HOST": "127.0.0.1:5001",
}
SKOPEO = SkopeoFlags("127.0.0.1:5002/copy", all_platforms=True)


def text(name: str) -> str:
    return (DATA / name).read_text()


def read(name: str) -> ImportResult:
    match name:
        case "image_syncer/images":
            auth = text("image_syncer/auth.yaml")
            return read_image_syncer(text("image_syncer/images.yaml"), auth=auth, environment=ENVIRONMENT)
        case "image_syncer/old_form":
            return read_image_syncer(text("image_syncer/old_form.json"), environment=ENVIRONMENT)
        case "skopeo/sync":
            return read_skopeo(text("skopeo/sync.yaml"), flags=SKOPEO)
        case "skopeo/scoped":
            flags = SkopeoFlags("127.0.0.1:5002/copy", scoped=True, append_suffix="-copy")
            return read_skopeo(text("skopeo/sync.yaml"), flags=flags)
        case _:
            return read_regsync(text("regsync/regsync.yaml"), environment=ENVIRONMENT)


def shown(result: ImportResult) -> dict[str, Any]:
    return {
        "policies": [policy.model_dump(mode="json", exclude_defaults=True) for policy in result.policies],
        "registries": [unsealed(entry.model_dump(exclude_defaults=True)) for entry in result.registries],
        "notes": [
            f"{note.kind} {note.code} {note.file}:{note.line or '-'} {note.path}: {note.reason}"
            for note in result.notes
        ],
    }


def unsealed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unsealed(item) for key, item in value.items()}
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@pytest.mark.parametrize(
    "name", ["image_syncer/images", "image_syncer/old_form", "skopeo/sync", "skopeo/scoped", "regsync/regsync"]
)
def test_a_file_becomes_what_lies_beside_it(name: str) -> None:
    assert shown(read(name)) == json.loads(text(f"{name}.expected.json"))


def test_nothing_but_the_given_environment_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "leaked")
    auth = "a.example.com: {username: u, password: 'x$SERVER_SECRET'}"
    result = read_image_syncer("a.example.com/b:1: ${SERVER_SECRET}/b", auth=auth)
    assert result.registries[0].auth == BasicAuth(username="u", password=SecretStr("x"))
    assert "leaked" not in str(shown(result))
    creds = "creds: [{registry: a.example.com, user: u, pass: 'y{{env \"SERVER_SECRET\"}}'}]"
    assert "leaked" not in str(shown(read_regsync(creds)))


def test_passwords_do_not_show_in_what_is_printed_of_an_import() -> None:
    assert "reads" not in repr(read("image_syncer/images"))


@pytest.mark.parametrize(
    ("flags", "platforms", "codes"),
    [
        (ImageSyncerFlags(), (), set()),
        (ImageSyncerFlags(os=("linux",), arch=("amd64", "arm64:v8")), ("linux/amd64", "linux/arm64/v8"), set()),
        (ImageSyncerFlags(arch=("amd64",)), ("linux/amd64",), {"arch_without_os"}),
        (ImageSyncerFlags(os=("windows:10.0.1",), arch=("amd64",)), ("windows/amd64",), {"os_version"}),
        (ImageSyncerFlags(os=("linux",)), (), {"os_without_arch"}),
    ],
)
def test_image_syncers_platform_flags_are_carried_over(
    flags: ImageSyncerFlags, platforms: tuple[str, ...], codes: set[str]
) -> None:
    result = read_image_syncer("a.example.com/b:1: c.example.com/b", flags=flags)
    assert result.policies[0].rules[0].platforms == platforms
    assert {note.code for note in result.notes} == codes


def test_more_rules_than_a_policy_holds_become_several_policies() -> None:
    lines = "".join(f"a.example.com/b{n}:1: c.example.com/b{n}\n" for n in range(205))
    result = read_image_syncer(lines)
    assert [policy.name for policy in result.policies] == ["image-syncer", "image-syncer-2", "image-syncer-3"]
    assert sum(len(policy.rules) for policy in result.policies) == 205


def test_rules_of_two_policies_that_want_one_destination_are_not_both_taken() -> None:
    lines = "".join(f"a.example.com/b{n}:1: c.example.com/b{n % 150}\n" for n in range(205))
    result = read_image_syncer(lines)
    assert sum(len(policy.rules) for policy in result.policies) == 150
    assert [note.code for note in result.notes] == ["destination_conflict"] * 55


def test_hosts_that_read_alike_get_names_of_their_own() -> None:
    hosts = ["a.b.example", "a-b.example", "a.b-example.example", "a-b-example-2.example", "a.b.example/x"]
    auth = json.dumps({host: {"username": "u", "password": "p"} for host in hosts})
    names = [entry.name for entry in read_image_syncer("", auth=auth).registries]
    assert len(set(names)) == len(hosts)
    assert "a-b-example-2" in names


def test_more_destinations_than_a_rule_holds_become_several_rules() -> None:
    places = ", ".join(f"c.example.com/b{n}" for n in range(20))
    (policy,) = read_image_syncer(f"a.example.com/b:1: [{places}]").policies
    assert [len(rule.destination) for rule in policy.rules] == [16, 4]


@pytest.mark.parametrize("minutes", ["30m", "1h", "1h30m", "45s", "24h", "168h"])
def test_an_interval_becomes_the_nearest_the_clock_can_keep(minutes: str) -> None:
    entry = f"{{source: a.example.com/b, target: c.example.com/b, type: repository, interval: {minutes}}}"
    result = read_regsync(f"sync: [{entry}]")
    schedule = result.policies[0].schedule
    assert schedule is not None
    assert (
        schedule.cron
        == {
            "30m": "*/30 * * * *",
            "1h": "0 */1 * * *",
            "1h30m": "0 */1 * * *",
            "45s": "*/1 * * * *",
            "24h": "0 0 * * *",
            "168h": "0 0 * * *",
        }[minutes]
    )
    assert [note.code for note in result.notes] == ([] if minutes in {"30m", "1h", "24h"} else ["interval"])


def test_empty_files_become_nothing() -> None:
    for result in (read_image_syncer(""), read_skopeo("", flags=SKOPEO), read_regsync("")):
        assert result == ImportResult()


@given(noise=st.text(alphabet="ab:/,@{}[]\"'$&*-#|<>!%. \n\t1\u00e9", max_size=60))
def test_any_text_is_read_or_refused_as_unreadable(noise: str) -> None:
    readers: list[Callable[[], ImportResult]] = [
        lambda: read_image_syncer(noise, auth=noise),
        lambda: read_skopeo(noise, flags=SKOPEO),
        lambda: read_regsync(noise),
    ]
    for reader in readers:
        try:
            reader()
        except InvalidRequestError as error:
            assert error.code == "import_unreadable"  # noqa: PT017 — both ends are fine


@given(key=st.text(max_size=40), value=st.recursive(st.text(max_size=20) | st.none() | st.integers(), st.lists))
def test_any_rule_is_carried_over_or_noted(key: str, value: object) -> None:
    images = read_image_syncer(json.dumps({key: value}))
    assert images.policies or images.notes
    entry = {"type": "repository", "source": key, "target": value, "tags": value, "platforms": value, "schedule": value}
    regsync = read_regsync(json.dumps({"sync": [entry], "creds": [{"registry": key, "user": value, "tls": value}]}))
    assert regsync.policies or regsync.notes
    skopeo = read_skopeo(json.dumps({key: {"images": {key: value}, "tls-verify": value}}), flags=SKOPEO)
    assert skopeo.policies or skopeo.notes
