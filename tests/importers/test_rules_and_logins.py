"""Single rules and logins of other tools' files: what each becomes, and what is noted of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.importers.harbor import read_harbor
from app.importers.image_syncer import ImageSyncerFlags, read_image_syncer
from app.importers.regsync import read_regsync
from app.importers.result import ImportResult
from tests.importers.test_readers import unsealed

FROM, TO = "127.0.0.1:5001", "127.0.0.1:5002"
RULE = f"{FROM}/a:1: {TO}/a"
DIGEST = f"sha256:{'a' * 64}"


def codes(result: ImportResult) -> list[str]:
    return [f"{note.kind} {note.code} {note.file}" for note in result.notes]


def rules(result: ImportResult) -> list[dict[str, Any]]:
    found = [rule for policy in result.policies for rule in policy.request.rules]
    return [rule.model_dump(mode="json", exclude_defaults=True) for rule in found]


def logins(result: ImportResult) -> dict[str, Any]:
    return {entry.host: unsealed(entry.auth.model_dump()) for entry in result.registries if entry.auth.type != "none"}


@pytest.mark.parametrize(
    ("images", "auth", "noted"),
    [
        (RULE, f"{FROM}: {{username: u}}", ["left_out half_a_login auth"]),
        (RULE, f"{FROM}: {{password: p}}", ["left_out half_a_login auth"]),
        (RULE, f"{FROM}: {{}}", []),
        (RULE, f"{FROM}: {{}}\n{FROM}: {{}}", ["left_out repeated_key auth"]),
        (f"{FROM}: {TO}/a", "", ["left_out invalid_source images"]),
        (f"{FROM}/a/: {TO}/a", "", ["left_out invalid_source images"]),
        (f"{FROM}/a:1: '{TO}/{{{{x}}}}'", "", ["left_out invalid_destination images"]),
        (f"{FROM}/a:1,1: '{TO}/a:2,3'", "", ["left_out invalid_destination images"]),
        (f"{FROM}/a:1: /a", "", ["left_out invalid_rule images"]),
        (f"team/a@{DIGEST}: {TO}/a", "", []),
        (f"team/a:1: {TO}/a", "", []),
        (f"team/a: {TO}/a", "", ["differs docker_hub_name images"]),
        (
            f"{{images: {{'{FROM}/a:1': {TO}/a}}, auth: {{{FROM}: {{username: u}}}}}}",
            "",
            ["left_out half_a_login images"],
        ),
        (f"{{auth: {TO}/a}}", "", []),
        (f"{{images: {TO}/a, more: {TO}/b}}", "", []),
    ],
)
def test_image_syncers_lines_are_noted_where_they_are_not_carried_over(
    images: str, auth: str, noted: list[str]
) -> None:
    assert codes(read_image_syncer(images, auth=auth)) == noted


def test_names_that_look_like_the_old_form_are_sources_where_it_is_not_that_form() -> None:
    result = read_image_syncer(f"{{images: {TO}/a, more: {TO}/b}}")
    assert [rule["source"] for rule in rules(result)] == ["docker.io/library/images", "docker.io/library/more"]


def test_image_syncers_destinations_are_taken_once_each() -> None:
    result = read_image_syncer(f"{FROM}/a:1: [' {TO}/a ', '{TO}/a', '{TO}/a:1', '{TO}/a:1 ']")
    assert rules(result) == [{"source": f"{FROM}/a:1", "destination": [f"{TO}/a", f"{TO}/a:1"]}]
    assert codes(result) == []


def test_a_system_named_twice_is_one_platform() -> None:
    result = read_image_syncer(RULE, flags=ImageSyncerFlags(os=("linux", "linux:6.1", "linux"), arch=("amd64",)))
    assert [rule["platforms"] for rule in rules(result)] == [["linux/amd64", "linux/amd64:6.1"]]
    assert codes(result) == ["differs arch_variants flags"]


def test_only_googles_login_with_a_key_gets_googles_name_for_it() -> None:
    lines = [
        "gcr.io: {username: _oauth2_, password: k}",
        "eu.gcr.io: {username: _oauth2_, password: k}",
        "notgcr.io: {username: _oauth2_, password: k}",
        "us.gcr.io: {username: other, password: k}",
    ]
    users = {host: login["username"] for host, login in logins(read_image_syncer("", auth="\n".join(lines))).items()}
    assert users == {
        "gcr.io": "_json_key_base64",
        "eu.gcr.io": "_json_key_base64",
        "notgcr.io": "_oauth2_",
        "us.gcr.io": "other",
    }


@pytest.mark.parametrize(
    ("login", "auth"),
    [
        ("token: t", {"type": "identity_token", "username": None, "token": "t"}),
        ("user: <token>, pass: t", {"type": "identity_token", "username": None, "token": "t"}),
        ("user: u, pass: p", {"type": "basic", "username": "u", "password": "p"}),
        ("user: u", None),
        ("pass: p", None),
    ],
)
def test_regsyncs_logins(login: str, auth: dict[str, str] | None) -> None:
    found = logins(read_regsync(f"version: 1\ncreds: [{{registry: '{FROM}', {login}}}]")).get(FROM)
    assert found == auth


def entry(more: str) -> str:
    return f"version: 1\nsync: [{{source: {FROM}/a, target: {TO}/a, {more}}}]"


@pytest.mark.parametrize(
    ("file", "noted", "includes"),
    [
        (entry("type: repository"), [], [[]]),
        (entry("type: repository, tags: {allow: ['1']}"), [], [["/^1$/"]]),
        (entry("type: repository, tagSets: [{allow: ['1']}, {allow: ['2']}]"), [], [["/^1$/"], ["/^2$/"]]),
        (
            entry("type: repository, tagSets: [{allow: ['1']}], tags: {allow: ['2']}"),
            [],
            [["/^1$/"], ["/^2$/"]],
        ),
        (entry("type: repository, interval: 0s"), ["left_out invalid_schedule"], [[]]),
        (entry("type: repository, interval: often"), ["left_out invalid_schedule"], [[]]),
        (entry("type: unknown"), ["left_out unknown_type"], []),
        (f"version: 1\nsync: [{{source: 'ocidir://x', target: {TO}/a, type: image}}]", ["left_out oci_layout"], []),
        (f"version: 1\nsync: [{{source: {FROM}/a, target: 'ocidir://x', type: image}}]", ["left_out oci_layout"], []),
    ],
)
def test_regsyncs_entries(file: str, noted: list[str], includes: list[list[str]]) -> None:
    result = read_regsync(file)
    assert [code.rpartition(" ")[0] for code in codes(result)] == noted
    assert [rule.get("tags", {}).get("include", []) for rule in rules(result)] == includes


def test_an_image_of_regsync_is_its_one_tag() -> None:
    (rule,) = rules(read_regsync(entry("type: image, tags: {allow: ['1']}")))
    assert (rule["source"], rule["destination"]) == (f"{FROM}/a:latest", [f"{TO}/a:latest"])
    assert "tags" not in rule


def harbor(*filters: dict[str, str], **fields: Any) -> ImportResult:
    edge = {"id": 1, "url": "https://edge.example.com"}
    policy = {"name": "p", "dest_registry": edge, "filters": filters, "enabled": True, "override": True}
    return read_harbor(json.dumps([policy | fields]), host="h.example.com")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("name", "library/**"), {"source": "h.example.com/library/**"}),
        (("name", "library/**", "name", "**"), {"source": "h.example.com/library/**"}),
        (
            ("name", "library/**", "name", "**/redis"),
            {"source": "h.example.com/**", "repositories": {"include": [{"all": ["library/**", "**/redis"]}]}},
        ),
        (
            ("name", "library/redis", "name", "library/nginx"),
            {"source": "h.example.com/**", "repositories": {"include": [{"all": ["library/redis", "library/nginx"]}]}},
        ),
        (("tag", "v*"), {"source": "h.example.com/**", "tags": {"include": ["v*"]}}),
        (
            ("tag", "v*", "tag", "*-alpine", "tag", ""),
            {"source": "h.example.com/**", "tags": {"include": [{"all": ["v*", "*-alpine"]}]}},
        ),
    ],
)
def test_of_several_filters_of_harbors_every_one_has_to_match(
    filters: tuple[str, ...], expected: dict[str, Any]
) -> None:
    """As in Harbor's src/pkg/reg/filter: each takes what the one before it left."""
    pairs = zip(filters[::2], filters[1::2], strict=True)
    result = harbor(*({"type": kind, "value": value} for kind, value in pairs))
    assert rules(result) == [{**expected, "destination": ["edge.example.com/{repository}"]}]
    assert result.notes == ()


def test_tags_that_one_of_several_filters_of_harbors_excludes_are_out() -> None:
    out = [{"type": "tag", "value": value, "decoration": "excludes"} for value in ("*-rc*", "*-dev")]
    (rule,) = rules(harbor({"type": "tag", "value": "v*", "decoration": "matches"}, *out))
    assert rule["tags"] == {"include": ["v*"], "exclude": ["*-rc*", "*-dev"]}


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("${REG}/m", "'/m'"),
        ("$REG/m", "'/m'"),
        ("${REG}mirror/m", "'mirror/m'"),
        ("b.io:${PORT}/m", "'b.io:/m'"),
        ("b.io/${TEAM}/m", "'b.io//m'"),
        ("b.io/m:${TAG}", "'b.io/m:'"),
        ("${ALL}", "''"),
    ],
)
def test_image_syncers_destinations_of_which_half_a_name_is_left_are_left_out(written: str, left: str) -> None:
    result = read_image_syncer(f"a.io/q: ['{written}', b.io/whole]\na.io/r: b.io/r\n")
    assert [rule["destination"] for rule in rules(result)] == [["b.io/whole"], ["b.io/r"]]
    [note] = result.notes
    assert (note.kind, note.code, note.path, note.line) == ("left_out", "unset_variable", "a.io/q", 1)
    assert f"is not set, which leaves {left}" in note.reason
    alone = read_image_syncer(f"a.io/q: '{written}'")
    assert (alone.policies, [note.code for note in alone.notes]) == ((), ["unset_variable"])


def test_a_variable_that_is_set_or_at_the_end_of_a_name_leaves_a_whole_one() -> None:
    result = read_image_syncer("a.io/q: '${REG}/m${MORE}'", environment={"REG": "b.io"})
    assert [rule["destination"] for rule in rules(result)] == [["b.io/m"]]
    assert codes(result) == ["differs unset_variable images"]
