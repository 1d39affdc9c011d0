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
from app.importers.dregsy import read_dregsy
from app.importers.harbor import read_harbor
from app.importers.image_list import read_image_list
from app.importers.image_syncer import ImageSyncerFlags, read_image_syncer
from app.importers.kubernetes import read_kubernetes
from app.importers.regsync import read_regsync
from app.importers.result import ImportResult
from app.importers.skopeo import SkopeoFlags, read_skopeo

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
        case "list/images":
            return read_image_list(text("list/images.txt"), destination="mirror.example.com/lib")
        case "kubernetes/pods":
            return read_kubernetes(
                text("kubernetes/pods.json"), destination="mirror.example.com/{registry}/{repository}"
            )
        case "kubernetes/manifests":
            return read_kubernetes(text("kubernetes/manifests.yaml"), destination="mirror.example.com")
        case "harbor/policies":
            registries = text("harbor/registries.json")
            return read_harbor(text("harbor/policies.json"), host="harbor.example.com", registries=registries)
        case "dregsy/config":
            return read_dregsy(text("dregsy/config.yaml"))
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


NAMES = [
    *("image_syncer/images", "image_syncer/old_form", "skopeo/sync", "skopeo/scoped", "regsync/regsync"),
    *("list/images", "kubernetes/pods", "kubernetes/manifests", "harbor/policies", "dregsy/config"),
]


@pytest.mark.parametrize("name", NAMES)
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
        (
            ImageSyncerFlags(os=("linux",), arch=("amd64", "arm64:v8")),
            ("linux/amd64", "linux/arm64/v8"),
            {"arch_variants"},
        ),
        (ImageSyncerFlags(arch=("s390x",)), ("linux/s390x",), {"arch_without_os"}),
        (ImageSyncerFlags(os=("windows:10.0.1",), arch=("amd64",)), ("windows/amd64:10.0.1",), {"arch_variants"}),
        (ImageSyncerFlags(os=("linux",)), (), {"os_without_arch"}),
    ],
)
def test_image_syncers_platform_flags_are_carried_over(
    flags: ImageSyncerFlags, platforms: tuple[str, ...], codes: set[str]
) -> None:
    result = read_image_syncer("a.example.com/b:1: c.example.com/b", flags=flags)
    assert result.policies[0].rules[0].platforms == platforms
    assert {note.code for note in result.notes} == codes


def test_more_rules_than_a_policy_holds_become_several_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.importers.result.POLICY_RULES", 100)
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
    results = [
        *(read_image_syncer(""), read_skopeo("", flags=SKOPEO), read_regsync(""), read_image_list("# nothing\n\n")),
        *(read_kubernetes("", destination="b.example.com"), read_harbor("[]", host="a.example.com"), read_dregsy("")),
    ]
    for result in results:
        assert result == ImportResult()


@given(noise=st.text(alphabet="ab:/,@{}[]\"'$&*-#|<>!%. \n\t1\u00e9", max_size=60))
def test_any_text_is_read_or_refused_as_unreadable(noise: str) -> None:
    readers: list[Callable[[], ImportResult]] = [
        lambda: read_image_syncer(noise, auth=noise),
        lambda: read_skopeo(noise, flags=SKOPEO),
        lambda: read_regsync(noise),
        lambda: read_image_list(noise, destination="b.example.com"),
        lambda: read_kubernetes(noise, destination="b.example.com"),
        lambda: read_harbor(noise, host="a.example.com", registries=noise),
        lambda: read_dregsy(noise),
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
    mapping = {"from": value, "to": key, "tags": [key, value], "platform": value}
    place = {"registry": key, "auth": value, "skip-tls-verify": value}
    task = {"name": value, "interval": value, "source": place, "target": place, "mappings": [mapping]}
    dregsy = read_dregsy(json.dumps({"tasks": [task]}))
    assert dregsy.policies or dregsy.notes
    registry = {"id": 1, "url": key, "insecure": value, "credential": {"access_key": value, "access_secret": key}}
    filters = [{"type": "name", "value": value}, {"type": "tag", "value": key}]
    policy = {"name": value, "dest_registry": registry, "dest_namespace": key, "filters": filters, "speed": value}
    more = {"dest_namespace_replace_count": value, "trigger": {"type": "scheduled", "trigger_settings": {"cron": key}}}
    harbor = read_harbor(json.dumps([policy | more]), host="a.example.com")
    assert harbor.policies or harbor.notes


def test_a_file_of_a_megabyte_is_read() -> None:
    entry = (
        "  - source: registry.example.com/some/team/app-{0}:v1.0.{0}\n"
        "    target: mirror.example.com/some/team/app-{0}\n    type: image\n"
    )
    lines = "".join(entry.format(number) for number in range(7_526))
    result = read_regsync(f"version: 1\nsync:\n{lines}")
    assert len(lines) > 950_000
    assert sum(len(policy.rules) for policy in result.policies) == 7_526
    assert result.notes == ()
    (request,) = result.requests()
    assert len(request.rules) == 7_526


def test_two_repositories_that_go_to_one_are_noted() -> None:
    config = "a.example.com: {images: {app: [], app/app: [], app/api: []}}"
    result = read_skopeo(config, flags=SKOPEO)
    [note] = result.notes
    assert (note.kind, note.code) == ("differs", "shared_destination")
    assert note.reason.startswith("a.example.com/app and a.example.com/app/app both go to 127.0.0.1:5002/copy/app; ")
    listed = read_skopeo("a.example.com: {images: {app: ['1'], app/app: ['2']}}", flags=SKOPEO)
    assert listed.notes == ()


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ('a.example.com/x:{{env "TAG"}}', "'a.example.com/x:'"),
        ('{{env "HOST"}}/x', "'/x'"),
        ('a.example.com/{{env "TEAM"}}/x', "'a.example.com//x'"),
        ('{{env "ALL"}}', "''"),
    ],
)
def test_a_variable_that_is_not_set_is_named_where_it_leaves_half_a_name(source: str, left: str) -> None:
    result = read_regsync(f"sync: [{{source: '{source}', target: b.example.com/x, type: image}}]")
    [note] = result.notes
    assert (note.kind, note.code, note.path) == ("left_out", "unset_variable", "sync[0].source")
    assert f"is not set, which leaves {left}" in note.reason
    assert "give it in `environment`" in note.reason


def test_a_list_without_destinations_needs_a_template() -> None:
    with pytest.raises(InvalidRequestError, match="redis:7 names no destination: give a template") as refused:
        read_image_list("redis:7")
    assert refused.value.errors[0].pointer == "/destination"
    with pytest.raises(InvalidRequestError, match="no template word"):
        read_image_list("redis:7", destination="b.example.com/{nam}")
    result = read_image_list("redis:7 b.example.com/redis")
    assert result.policies[0].rules[0].destination == ("b.example.com/redis",)


def test_rules_with_the_same_options_are_one_request() -> None:
    policies = read("harbor/policies")
    assert [len(request.rules) for request in policies.requests()] == [1, 2], "from-hub is not enabled"
    assert [note.path for note in policies.job_notes] == ["[1]"]


def test_more_policies_than_are_made_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.importers.result.MAX_POLICIES", 2)
    with pytest.raises(InvalidRequestError, match="more than 2 policies") as refused:
        read("harbor/policies")
    assert refused.value.code == "import_unreadable"


@pytest.mark.parametrize("line", ["a{0}:1", "a{0} b c"])
def test_a_list_of_more_lines_than_an_import_takes_is_refused(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr("app.importers.result.MAX_IMPORTED", 100)
    lines = "\n".join(line.format(number) for number in range(101))
    with pytest.raises(InvalidRequestError, match="more than 100 ") as refused:
        read_image_list(lines, destination="b.example.com")
    assert refused.value.code == "import_unreadable"
    read_image_list(lines.rpartition("\n")[0], destination="b.example.com")
