"""Repositories made when a copy finds them missing: Harbor's projects, Docker Hub's and Quay's repositories."""

import asyncio
from typing import Any

import pytest

from app.domain.registry import RegistryEntry
from app.domain.report import CopyResult
from app.registry.creation import refusal_of_creation
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.images import oci_image
from tests.sync.workbench import workbench

IMAGE = oci_image("app")
LOGINS = {"harbor": ("robot$sync", "secret"), "docker_hub": ("ann", "secret"), "quay": ("$oauthtoken", "secret")}
ACCOUNTS = {"ann": "secret", "robot$sync": "secret", "$oauthtoken": "secret"}
HARBOR: dict[str, Any] = {"api": "harbor", "projects_needed": True}


async def copied(
    there: FakeRegistry, *tags: str, create_missing: dict[str, Any] | None, kind: str = "harbor", times: int = 1
) -> list[CopyResult]:
    """Copy tags of one repository, each by `times` processes at once, to a registry that has it not."""
    name, password = LOGINS[kind]
    document = {
        "name": "there",
        "host": there.host,
        "insecure": True,
        "type": kind,
        "auth": {"type": "basic", "username": name, "password": password},
        "create_missing": create_missing,
    }
    async with fake_registry() as here:
        for tag in tags:
            here.load("app", IMAGE, tag)

        async def process(number: int) -> list[CopyResult]:
            async with workbench(here, entries=[RegistryEntry.model_validate(document)]) as bench:
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


async def test_nothing_is_made_where_the_entry_does_not_say_so() -> None:
    async with fake_registry(Quirks(auth="token", **HARBOR), accounts=ACCOUNTS) as there:
        [result] = await copied(there, "v1", create_missing=None)
        assert result.error is not None
        assert (result.error.code, there.journal.find("api")) == ("repository_missing", [])


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
    ],
)
async def test_a_refusal_names_the_right_that_is_lacking(kind: str, quirks: dict[str, Any], right: str) -> None:
    async with fake_registry(Quirks(auth="token", creation_refused=True, **quirks), accounts=ACCOUNTS) as there:
        [result] = await copied(there, "v1", create_missing={}, kind=kind)
        assert result.error is not None
        assert (result.error.code, result.error.side, result.error.temporary) == ("denied", "destination", False)
        assert right in result.error.message
        assert there.journal.find("upload_start") == [] or kind == "harbor"


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
        ({"host": "nexus.example.com", "type": "nexus"}, "/create_missing", "administrator"),
        ({"host": "registry.example.com"}, "/create_missing", "set the type"),
        ({"host": "quay.io", "create_missing": {"quota_bytes": 5}}, "/create_missing/quota_bytes", "public"),
    ],
)
def test_what_a_registry_can_not_make_is_refused_at_its_entry(entry: dict[str, Any], field: str, words: str) -> None:
    refusal = refusal_of_creation(RegistryEntry.model_validate({"name": "r", "create_missing": {}} | entry))
    assert refusal is not None
    assert (refusal[0], words in refusal[1]) == (field, True)
    assert refusal_of_creation(RegistryEntry(name="r", host="harbor.example.com", type="harbor")) is None
