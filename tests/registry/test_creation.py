"""Repositories made when a copy finds them missing: Harbor's projects, Docker Hub's, Google's, Quay's repositories."""

import asyncio
import json
from typing import Any

import pytest

from app.domain.reference import Registry
from app.domain.registry import RegistryEntry
from app.domain.report import CopyResult
from app.registry.creation import refusal_of_creation
from app.registry.listing import google_api
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.images import blob, oci_image
from tests.sync.workbench import workbench

IMAGE = oci_image("app")
LOGINS = {
    "harbor": ("robot$sync", "secret"),
    "docker_hub": ("ann", "secret"),
    "gar": ("oauth2accesstoken", "secret"),
    "quay": ("$oauthtoken", "secret"),
}
ACCOUNTS = {"ann": "secret", "robot$sync": "secret", "$oauthtoken": "secret", "oauth2accesstoken": "secret"}
GOOGLE: dict[str, Any] = {"api": "google", "projects_needed": True}
HARBOR_ENTRY: dict[str, Any] = {"host": "harbor.example.com", "type": "harbor"}
HARBOR: dict[str, Any] = {"api": "harbor", "projects_needed": True}


def entry_there(there: FakeRegistry, create_missing: dict[str, Any] | None, *, kind: str = "harbor") -> RegistryEntry:
    name, password = LOGINS.get(kind, LOGINS["harbor"])
    document = {
        "name": "there",
        "host": there.host,
        "insecure": True,
        "type": kind,
        "auth": {"type": "basic", "username": name, "password": password},
        "create_missing": create_missing,
    }
    return RegistryEntry.model_validate(document)


async def copied(
    there: FakeRegistry, *tags: str, create_missing: dict[str, Any] | None, kind: str = "harbor", times: int = 1
) -> list[CopyResult]:
    """Copy tags of one repository, each by `times` processes at once, to a registry that has it not."""
    entry = entry_there(there, create_missing, kind=kind)
    async with fake_registry() as here:
        for tag in tags:
            here.load("app", IMAGE, tag)

        async def process(number: int) -> list[CopyResult]:
            async with workbench(here, entries=[entry]) as bench:
                copies = (bench.copy(f"{here.host}/app:{tag}", f"{there.host}/team/p{number}:{tag}") for tag in tags)
                return [result for results in await asyncio.gather(*copies) for result in results]

        return [one for results in await asyncio.gather(*map(process, range(times))) for one in results]


async def test_a_project_of_harbor_is_made_as_the_entry_says_and_once() -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        wanted = {"public": True, "quota_bytes": 10_000_000}
        results = await copied(there, "v1", "v2", "v3", create_missing=wanted, times=2)
        assert [result.outcome for result in results] == ["copied"] * 6
        made = {
            "project_name": "team",
            "metadata": {"public": "true", "auto_scan": "false"},
            "storage_limit": 10_000_000,
        }
        assert there.made == {"team": made}
        assert len([entry for entry in there.journal.find("api") if entry.status == 201]) == 1
        assert "repository_created" in {step.event for result in results for step in result.steps}
        there.check()


RETENTION = {
    "rules": [
        {
            "action": "retain",
            "template": "latestPushedK",
            "params": {"latestPushedK": 10},
            "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}],
            "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]},
        }
    ],
    "trigger": {"kind": "Schedule", "settings": {"cron": "0 0 0 * * *"}},
}
STRICT = {"immutable_tags": True, "lifecycle": json.dumps(RETENTION)}


async def test_a_project_of_harbor_gets_the_rules_of_the_entry_whoever_makes_it() -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        results = await copied(there, "v1", "v2", create_missing=STRICT, times=2)
        assert [result.outcome for result in results] == ["copied"] * 4
        site = there.site
        assert site.retentions == {"team": {"algorithm": "or", **RETENTION, "scope": {"level": "project", "ref": 1}}}
        [rule] = site.rules["team"]
        assert (rule["action"], rule["template"]) == ("immutable", "immutable_template")
        assert rule["tag_selectors"] == [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}]
        there.check()


async def test_a_project_whose_rules_were_refused_is_not_copied_to_without_them() -> None:
    async with fake_registry(Quirks(auth="token", harbor_rules_refused=True, **HARBOR), accounts=ACCOUNTS) as there:
        [result] = await copied(there, "v1", create_missing=STRICT)
        assert result.error is not None
        assert (result.error.code, "Create Immutable Tag" in result.error.message) == ("denied", True)
        assert "team" in there.made


async def test_rules_that_were_refused_are_tried_again_before_the_next_push() -> None:
    async with (
        fake_registry(Quirks(auth="token", harbor_rules_refused=True, **HARBOR), accounts=ACCOUNTS) as there,
        fake_registry() as here,
    ):
        for tag in ("v1", "v2", "v3"):
            here.load("app", IMAGE, tag)
        async with workbench(here, entries=[entry_there(there, STRICT)]) as bench:
            for tag in ("v1", "v2"):  # the project is there now, and a push would find nothing missing
                [result] = await bench.copy(f"{here.host}/app:{tag}", f"{there.host}/team/app:{tag}")
                assert (result.outcome, result.error and result.error.code) == ("failed", "denied")
            there.change(harbor_rules_refused=False)
            [result] = await bench.copy(f"{here.host}/app:v3", f"{there.host}/team/app:v3")
            assert result.outcome == "copied"
        assert (len(there.site.rules["team"]), "team" in there.site.retentions) == (1, True)


async def test_rules_that_a_project_has_stay() -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        site = there.site
        site.rules["team"], site.retentions["team"] = [{"id": 7}], {"algorithm": "or"}
        [result] = await copied(there, "v1", create_missing=STRICT)
        assert result.outcome == "copied"
        assert (site.rules["team"], site.retentions["team"]) == ([{"id": 7}], {"algorithm": "or"})


async def test_nothing_is_made_where_the_entry_does_not_say_so() -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        [result] = await copied(there, "v1", create_missing=None)
        assert result.error is not None
        assert (result.error.code, there.journal.find("api")) == ("repository_missing", [])
        assert "or set create_missing of the entry there" in result.error.message


@pytest.mark.parametrize(("kind", "words"), [("gitlab", "make the project first"), ("nexus", "an administrator")])
async def test_what_has_to_be_made_by_hand_says_by_whom(kind: str, words: str) -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        [result] = await copied(there, "v1", create_missing=None, kind=kind)
        assert result.error is not None
        assert (result.error.code, result.error.side, result.error.temporary) == (
            "repository_missing",
            "destination",
            False,
        )
        assert words in result.error.message
        assert "create_missing" not in result.error.message


@pytest.mark.parametrize(("kind", "quirks"), [("harbor", HARBOR), ("gar", GOOGLE)])
@pytest.mark.parametrize("by_mount", [True, False])
async def test_what_is_missing_is_made_however_blobs_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, quirks: dict[str, Any], *, by_mount: bool
) -> None:
    monkeypatch.setattr(google_api, "_POLL_SECONDS", 0)
    large = oci_image("app", layers=[blob(f"layer {number}") for number in range(6)])
    async with (
        fake_registry(Quirks(auth="token", **quirks), accounts=ACCOUNTS) as there,
        fake_registry() as here,
        workbench(here, entries=[entry_there(there, {}, kind=kind)]) as bench,
    ):
        here.load("app", large, "1")
        if by_mount:
            bench.known.note_answers_by_mount(Registry(there.host), does=True)
        [result] = await bench.copy(f"{here.host}/app:1", f"{there.host}/team/p0:1")
        assert (result.outcome, result.error, len(there.made)) == ("copied", None, 1)
        there.check()


async def test_a_project_that_is_there_takes_no_request_more() -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        there.made["team"] = {}
        [result] = await copied(there, "v1", create_missing={})
        assert (result.outcome, there.journal.find("api")) == ("copied", [])


@pytest.mark.parametrize(
    ("kind", "quirks", "right"),
    [
        ("harbor", HARBOR, "Create Project"),
        ("docker_hub", {"api": "docker_hub"}, "Read & Write"),
        ("quay", {"api": "quay"}, "repo:create"),
        ("gar", GOOGLE, "artifactregistry.repositories.create"),
    ],
)
async def test_a_refusal_names_the_right_that_is_lacking(kind: str, quirks: dict[str, Any], right: str) -> None:
    async with fake_registry(Quirks(auth="token", creation_refused=True, **quirks), accounts=ACCOUNTS) as there:
        [result] = await copied(there, "v1", create_missing={}, kind=kind)
        assert result.error is not None
        assert (result.error.code, result.error.side, result.error.temporary) == ("denied", "destination", False)
        assert right in result.error.message
        assert there.journal.find("upload_start") == [] or kind in {"harbor", "gar"}


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("docker_hub", {"name": "p0", "namespace": "team", "is_private": True, "registry": "docker.io"}),
        ("quay", {"namespace": "team", "repository": "p0", "visibility": "private", "repo_kind": "image"}),
    ],
)
async def test_what_the_first_push_would_make_is_made_before_it(kind: Any, made: dict[str, Any]) -> None:
    async with fake_registry(Quirks(auth="token", api=kind), accounts=ACCOUNTS) as there:
        results = await copied(there, "v1", "v2", create_missing={"description": "a mirror"}, kind=kind)
        assert [result.outcome for result in results] == ["copied"] * 2
        assert there.made["team/p0"] == made | {"description": "a mirror"}
        entries = list(there.journal)
        [making] = [entry for entry in entries if entry.kind == "api" and entry.method == "POST"]
        first = next(entry for entry in entries if entry.kind == "upload_start")
        assert entries.index(making) < entries.index(first)


async def test_a_repository_of_google_is_made_as_the_entry_says_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(google_api, "_POLL_SECONDS", 0)
    async with fake_registry(Quirks(auth="token", **GOOGLE), accounts=ACCOUNTS) as there:
        policies = {"old": {"action": "DELETE", "condition": {"olderThan": "2592000s"}}}
        wanted = {
            "description": "a mirror",
            "immutable_tags": True,
            "encryption_key": "projects/p/locations/l/keyRings/r/cryptoKeys/k",
            "tags": ["team=platform"],
            "lifecycle": json.dumps(policies),
        }
        results = await copied(there, "v1", "v2", create_missing=wanted, kind="gar", times=2)
        assert [result.outcome for result in results] == ["copied"] * 4
        expected = {
            "format": "DOCKER",
            "description": "a mirror",
            "labels": {"team": "platform"},
            "dockerConfig": {"immutableTags": True},
            "kmsKeyName": wanted["encryption_key"],
            "cleanupPolicies": policies,
        }
        assert there.made == {"team/p0": expected, "team/p1": expected}
        assert len([entry for entry in there.journal.find("api") if "/operations/" in entry.path]) == 4
        there.check()


@pytest.mark.parametrize(
    ("image", "repository"),
    [("p/r/app/web", "p/r"), ("corp.example.com/p/r/app", "corp.example.com/p/r"), ("p", "p")],
)
def test_an_image_lies_in_a_repository_of_a_project(image: str, repository: str) -> None:
    assert google_api.google_repository(image) == repository


async def test_an_organization_of_quay_that_is_missing_is_made_first() -> None:
    async with fake_registry(Quirks(auth="token", api="quay", quay_organizations=()), accounts=ACCOUNTS) as there:
        results = await copied(there, "v1", "v2", create_missing={}, kind="quay")
        assert [result.outcome for result in results] == ["copied"] * 2
        assert there.made["team"] == {"name": "team"}
        assert "team/p0" in there.made


async def test_what_another_process_made_meanwhile_is_taken() -> None:
    async with fake_registry(Quirks(auth="token", api="quay"), accounts=ACCOUNTS) as there:
        there.load("team/p0", IMAGE, "other")
        [result] = await copied(there, "v1", create_missing={}, kind="quay")
        assert (result.outcome, there.made) == ("copied", {})


@pytest.mark.parametrize(
    ("entry", "field", "words"),
    [
        ({"host": "old.azurecr.io"}, "/create_missing", "first push"),
        ({"host": "registry.gitlab.com"}, "/create_missing", "make the project first"),
        ({"host": "gcr.io"}, "/create_missing", "createOnPushWriter"),
        ({"host": "nexus.example.com", "type": "nexus"}, "/create_missing", "administrator"),
        ({"host": "registry.example.com"}, "/create_missing", "set the type"),
        ({"host": "quay.io", "create_missing": {"quota_bytes": 5}}, "/create_missing/quota_bytes", "public"),
        ({**HARBOR_ENTRY, "create_missing": {"lifecycle": "[]"}}, "/create_missing/lifecycle", "JSON object"),
        ({**HARBOR_ENTRY, "create_missing": {"encryption_key": "k"}}, "/create_missing/encryption_key", "lifecycle"),
    ],
)
def test_what_a_registry_can_not_make_is_refused_at_its_entry(entry: dict[str, Any], field: str, words: str) -> None:
    refusal = refusal_of_creation(RegistryEntry.model_validate({"name": "r", "create_missing": {}} | entry))
    assert refusal is not None
    assert (refusal[0], words in refusal[1]) == (field, True)
    assert refusal_of_creation(RegistryEntry(name="r", host="harbor.example.com", type="harbor")) is None
