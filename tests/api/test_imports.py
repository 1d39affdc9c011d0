"""Moving in over HTTP: other tools' files become policies and registries, which then sync the same tags."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import Api, Serve, pointers
from tests.conftest import Namespace
from tests.support.images import oci_image

REGSYNC = (
    "version: 1\nsync:\n  - source: a.example.com/x\n    target: b.example.com/x\n    type: repository\n"
    "    schedule: '15 3 * * *'\n    hooks: {}\n"
)
PASSWORD = "not to be seen"
PLAIN = {"Content-Type": "text/plain"}


async def take_over(client: httpx.AsyncClient, kind: str, body: Any, **query: str) -> httpx.Response:
    return await client.post("/v1/policies/import", params={"format": kind, **query}, json=body)


async def test_a_dry_run_says_what_would_be_made_and_makes_nothing(client: httpx.AsyncClient) -> None:
    answer = await take_over(client, "regsync", {"config": REGSYNC}, dry_run="true")
    assert answer.status_code == 200
    body = answer.json()
    assert body["dry_run"] is True
    [policy] = body["policies"]
    assert (policy["name"], policy["schedule"]["cron"]) == ("regsync", "15 3 * * *")
    assert [entry["host"] for entry in body["registries"]] == ["a.example.com", "b.example.com"]
    [note] = [note for note in body["notes"] if note["path"].endswith("hooks")]
    assert (note["kind"], note["line"]) == ("left_out", 7)
    assert (await client.get("/v1/policies")).json()["items"] == []
    assert (await client.get("/v1/registries")).json()["items"] == []


async def test_what_a_dry_run_says_is_what_is_made(client: httpx.AsyncClient) -> None:
    said = (await take_over(client, "regsync", {"config": REGSYNC, "name": "old"}, dry_run="true")).json()
    answer = await take_over(client, "regsync", {"config": REGSYNC, "name": "old"})
    assert answer.status_code == 201
    assert answer.json() == said | {"dry_run": False}
    [existing] = (await client.get("/v1/policies")).json()["items"]
    assert {name: existing[name] for name in said["policies"][0]} == said["policies"][0]
    assert existing["next_run_at"]
    entered = (await client.get("/v1/registries")).json()["items"]
    shown = [{name: entry[name] for name in said["registries"][0]} for entry in entered]
    assert shown == said["registries"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/yaml"])
async def test_what_kubectl_says_is_taken_as_it_comes(client: httpx.AsyncClient, kind: str) -> None:
    pods = {"apiVersion": "v1", "kind": "List", "items": [{"spec": {"containers": [{"image": "redis:7"}]}}]}
    query = {"format": "kubernetes", "dry_run": "true", "destination": "b.example.com/mirror"}
    said = json.dumps(pods).encode("utf-8-sig")
    answer = await client.post("/v1/policies/import", params=query, content=said, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    [policy] = answer.json()["policies"]
    assert [rule["source"] for rule in policy["rules"]] == ["docker.io/library/redis:7"]


async def test_a_list_that_begins_with_a_byte_order_mark_loses_no_image(client: httpx.AsyncClient) -> None:
    query = {"format": "list", "dry_run": "true", "destination": "b.example.com/mirror"}
    answer = await client.post("/v1/policies/import", params=query, content="\ufeffredis:7\n".encode(), headers=PLAIN)
    body = answer.json()
    assert [rule["source"] for rule in body["policies"][0]["rules"]] == ["docker.io/library/redis:7"]
    assert body["notes"] == []


async def test_files_come_as_text_or_as_the_json_they_are_and_one_file_alone_as_yaml(client: httpx.AsyncClient) -> None:
    images = {"a.example.com/x:1": "b.example.com/x"}
    forms: list[dict[str, Any]] = [
        {"json": {"images": images}},
        {"json": {"images": json.dumps(images)}},
        {"content": b"a.example.com/x:1: b.example.com/x\n", "headers": {"Content-Type": "application/yaml"}},
    ]
    answers = [await client.post("/v1/policies/import?format=image-syncer&dry_run=true", **form) for form in forms]
    [first, *others] = [answer.json()["policies"] for answer in answers]
    assert first[0]["rules"][0]["source"] == "a.example.com/x:1"
    assert others == [first, first]


async def test_logins_are_kept_and_never_shown(api: Api) -> None:
    auth = {"a.example.com": {"username": "ann", "password": "${PASSWORD}"}}
    body = {"images": {"a.example.com/x": "b.example.com/x"}, "auth": auth, "environment": {"PASSWORD": PASSWORD}}
    answer = await take_over(api.client, "image-syncer", body)
    assert answer.status_code == 201
    [entry] = [entry for entry in answer.json()["registries"] if entry["host"] == "a.example.com"]
    assert entry["auth"] == {"type": "basic", "username": "ann", "has_password": True}
    audit = await api.client.get("/v1/audit")
    assert PASSWORD not in answer.text + audit.text
    assert {item["action"] for item in audit.json()["items"]} == {"policy.created", "registry.created"}


async def test_a_registry_that_is_entered_stays_and_one_whose_name_is_taken_gets_another(
    client: httpx.AsyncClient,
) -> None:
    await client.put("/v1/registries/mine", json={"host": "a.example.com", "limits": {"connections": 3}})
    await client.put("/v1/registries/b-example-com", json={"host": "other.example.com"})
    answer = (await take_over(client, "regsync", {"config": REGSYNC})).json()
    assert [(entry["name"], entry["host"]) for entry in answer["registries"]] == [("b-example-com-2", "b.example.com")]
    [note] = [note for note in answer["notes"] if note["code"] == "registry_kept"]
    assert "a.example.com is entered already, as 'mine'" in note["reason"]
    assert (await client.get("/v1/registries/mine")).json()["limits"]["connections"] == 3


async def test_a_policy_whose_name_is_taken_stops_it_before_anything_is_made(client: httpx.AsyncClient) -> None:
    await take_over(client, "regsync", {"config": REGSYNC})
    body = {"config": REGSYNC.replace("a.example.com", "c.example.com")}
    again = await take_over(client, "regsync", body)
    assert (again.status_code, again.json()["code"]) == (409, "name_conflict")
    assert len((await client.get("/v1/registries")).json()["items"]) == 2
    assert (await take_over(client, "regsync", body | {"name": "second"})).status_code == 201


async def test_metadata_services_are_left_out(client: httpx.AsyncClient) -> None:
    auth = {"169.254.169.254": {"username": "ann", "password": PASSWORD}}
    body = {"images": {"a.example.com/x": "b.example.com/x"}, "auth": auth}
    answer = (await take_over(client, "image-syncer", body, dry_run="true")).json()
    assert [entry["host"] for entry in answer["registries"]] == ["a.example.com", "b.example.com"]
    assert [note["code"] for note in answer["notes"]] == ["host_not_allowed"]
    assert (await take_over(client, "image-syncer", body)).json() == answer | {"dry_run": False}


@pytest.mark.parametrize(
    ("kind", "body", "pointer"),
    [
        ("image-syncer", {"config": "x"}, "/images"),
        ("skopeo", {"config": "x"}, "/destination"),
        ("regsync", {"config": 7}, "/config"),
        ("regsync", {"config": "x", "destination": "y"}, "/destination"),
        ("regsync", {"config": "x", "name": "No Name"}, "/name"),
    ],
)
async def test_what_is_missing_or_too_much_is_named(
    client: httpx.AsyncClient, kind: str, body: dict[str, Any], pointer: str
) -> None:
    answer = await take_over(client, kind, body)
    assert answer.status_code == 422
    assert pointer in pointers(answer)


async def test_what_cannot_be_read_is_refused(client: httpx.AsyncClient) -> None:
    address = "/v1/policies/import?format=regsync"
    unreadable = await client.post(address, json={"config": "a: [b"})
    assert (unreadable.status_code, unreadable.json()["code"]) == (422, "import_unreadable")
    no_json = await client.post(address, content=b"{", headers={"Content-Type": "application/json"})
    assert (no_json.status_code, no_json.json()["code"]) == (400, "malformed_json")
    other = await client.post(address, content=b"{}", headers={"Content-Type": "image/png"})
    assert (other.status_code, other.json()["code"]) == (415, "unsupported_media_type")
    unknown = await client.post("/v1/policies/import?format=nothing", json={})
    assert unknown.status_code == 422


async def test_a_list_becomes_a_job_at_once(client: httpx.AsyncClient) -> None:
    query = {"format": "list", "as": "job", "destination": "b.example.com/mirror"}
    said = await client.post(
        "/v1/policies/import", params=query | {"dry_run": "true"}, content="redis:7\n", headers=PLAIN
    )
    assert said.status_code == 200
    assert said.json()["policies"] == []
    [planned] = said.json()["jobs"]
    assert (planned["id"], planned["rules"][0]["source"]) == (None, "docker.io/library/redis:7")
    assert (await client.get("/v1/jobs")).json()["items"] == []

    made = await client.post(
        "/v1/policies/import", params=query, content="redis:7\n#\nx:1 c.example.com/x\n", headers=PLAIN
    )
    assert made.status_code == 202
    [job] = made.json()["jobs"]
    found = (await client.get(made.headers["Location"])).json()
    assert found["id"] == job["id"]
    assert [rule["destination"] for rule in found["request"]["rules"]] == [
        ["b.example.com/mirror/{repository}"],
        ["c.example.com/x"],
    ]
    assert (await client.get("/v1/policies")).json()["items"] == []
    assert [entry["host"] for entry in made.json()["registries"]] == ["b.example.com", "c.example.com", "docker.io"]
    assert [item["action"] for item in (await client.get("/v1/audit")).json()["items"]].count("job.submitted") == 1


async def test_a_file_with_a_template_may_come_alone(client: httpx.AsyncClient) -> None:
    pod = "kind: Pod\nspec: {containers: [{image: 'nginx:1'}]}\n"
    query = {"format": "kubernetes", "dry_run": "true"}
    without = await client.post("/v1/policies/import", params=query, content=pod, headers=PLAIN)
    assert (without.status_code, pointers(without)) == (422, {"/destination": "missing"})
    answer = await client.post(
        "/v1/policies/import", params=query | {"destination": "b.example.com"}, content=pod, headers=PLAIN
    )
    assert answer.json()["policies"][0]["rules"][0]["source"] == "docker.io/library/nginx:1"
    body = await take_over(client, "kubernetes", {"config": pod}, dry_run="true", destination="b.example.com")
    assert body.json() == answer.json()


@pytest.mark.parametrize("as_", ["policies", "job"])
async def test_what_is_in_the_mirror_already_is_left_out_and_the_rest_is_taken(
    client: httpx.AsyncClient, as_: str
) -> None:
    pods = "spec: {containers: [{image: 'b.example.com/team/x:1'}]}\n---\nspec: {containers: [{image: 'nginx:1'}]}\n"
    lines = "b.example.com/team/x:1\nnginx:1\n"
    for kind, config, path in (("kubernetes", pods, "spec.containers[0].image"), ("list", lines, "")):
        body = {"config": config, "as": as_, "destination": "b.example.com", "name": f"{kind}-{as_}"}
        said = await take_over(client, kind, body, dry_run="true")
        made = await take_over(client, kind, body)
        assert (said.status_code, made.status_code) == (200, 202 if as_ == "job" else 201), made.text
        assert made.json()["notes"][:1] == said.json()["notes"][:1]
        [note] = [note for note in made.json()["notes"] if note["kind"] == "left_out"]
        assert (note["code"], note["path"], note["line"]) == ("same_as_source", path, 1)
        [found] = made.json()["jobs" if as_ == "job" else "policies"]
        assert [rule["source"] for rule in found["rules"]] == ["docker.io/library/nginx:1"]


async def test_of_several_destinations_only_the_source_itself_is_left_out(client: httpx.AsyncClient) -> None:
    images = {"images": "a.example.com/x:1: [a.example.com/x, b.example.com/x]"}
    answer = await take_over(client, "image-syncer", images)
    assert answer.status_code == 201, answer.text
    assert [rule["destination"] for rule in answer.json()["policies"][0]["rules"]] == [["b.example.com/x"]]
    [note] = answer.json()["notes"]
    assert (note["code"], note["line"]) == ("same_as_source", 1)
    assert "goes to a.example.com/x, which is where it is already" in note["reason"]


@pytest.mark.parametrize("as_", ["policies", "job"])
async def test_a_dry_run_refuses_what_would_be_refused(serve: Serve, as_: str) -> None:
    """Here a host that no rule may name."""
    async with serve() as api:
        body = {"config": "169.254.169.254/x:1 b.example.com/x\n", "as": as_}
        answers = [await take_over(api.client, "list", body, dry_run=dry_run) for dry_run in ("true", "false")]
        assert [answer.status_code for answer in answers] == [422, 422]
        [said, made] = [answer.json() for answer in answers]
        assert (said["code"], said["errors"]) == ("host_not_allowed", made["errors"])
        assert [error["pointer"] for error in made["errors"]] == [""], "the rules were made here: no field has them"
        assert "169.254.169.254" in made["errors"][0]["detail"]


EMPTY: list[tuple[str, dict[str, Any], str]] = [
    ("list", {"config": "", "destination": "b.example.com"}, "one image a line"),
    ("list", {"config": "# none\n\n", "destination": "b.example.com"}, "one image a line"),
    ("kubernetes", {"config": {"apiVersion": "v1", "items": []}, "destination": "b.example.com"}, "kubectl"),
    ("kubernetes", {"config": {"kind": "Status", "code": 401}, "destination": "b.example.com"}, "kubectl"),
    ("image-syncer", {"images": ""}, "sources to destinations"),
    ("skopeo", {"config": "", "destination": "b.example.com"}, "`images`"),
    ("regsync", {"config": "version: 1\n"}, "`sync`"),
    ("harbor", {"config": [], "host": "h.example.com"}, "replication policies"),
    ("harbor", {"config": {"errors": []}, "host": "h.example.com"}, "it holds errors"),
    ("dregsy", {"config": "relay: skopeo\n"}, "`tasks`"),
]


@pytest.mark.parametrize("as_", ["policies", "job"])
@pytest.mark.parametrize(("kind", "body", "expected"), EMPTY)
async def test_a_file_that_holds_nothing_is_refused_and_what_was_expected_is_said(
    client: httpx.AsyncClient, kind: str, body: dict[str, Any], expected: str, as_: str
) -> None:
    for dry_run in ("true", "false"):
        answer = await take_over(client, kind, body | {"as": as_}, dry_run=dry_run)
        assert (answer.status_code, answer.json()["code"]) == (422, "import_unreadable"), answer.text
        assert expected in answer.json()["detail"]


async def test_where_all_is_left_out_no_job_is_made_and_the_notes_say_why(client: httpx.AsyncClient) -> None:
    body = {"config": "b.example.com/x:1\n", "destination": "b.example.com", "as": "job"}
    answer = await take_over(client, "list", body)
    assert (answer.status_code, answer.json()["jobs"], "Location" in answer.headers) == (200, [], False)
    assert [note["code"] for note in answer.json()["notes"]] == ["same_as_source"]


async def test_a_policy_of_harbors_that_is_not_enabled_is_no_job(client: httpx.AsyncClient) -> None:
    edge = {"id": 1, "url": "https://edge.example.com"}
    policies = [
        {"name": name, "dest_registry": edge, "filters": [{"type": "name", "value": f"{name}/**"}], "enabled": enabled}
        for name, enabled in (("team", True), ("old", False))
    ]
    body = {"config": policies, "host": "h.example.com"}
    made = await take_over(client, "harbor", body | {"as": "job"})
    assert made.status_code == 202, made.text
    [job] = made.json()["jobs"]
    assert [rule["source"] for rule in job["rules"]] == ["h.example.com/team/**"]
    [note] = made.json()["notes"]
    assert (note["kind"], note["code"], note["path"]) == ("left_out", "not_enabled", "[1]")
    assert "old is not enabled" in note["reason"]
    stored = (await take_over(client, "harbor", body)).json()
    assert [(policy["name"], policy["enabled"]) for policy in stored["policies"]] == [
        ("harbor-team", True),
        ("harbor-old", False),
    ]
    assert "not_enabled" not in [note["code"] for note in stored["notes"]]


async def test_a_list_without_a_destination_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/policies/import?format=list", content="redis:7\n", headers=PLAIN)
    assert (answer.status_code, pointers(answer)) == (422, {"/destination": "missing"})


async def test_every_example_file_is_taken_over(client: httpx.AsyncClient, data: Path) -> None:
    files = data / "imports"
    image_syncer = {"images": (files / "image_syncer/images.yaml").read_text()}
    image_syncer["auth"] = (files / "image_syncer/auth.yaml").read_text()
    bodies: dict[str, dict[str, Any]] = {
        "image-syncer": image_syncer,
        "skopeo": {"config": (files / "skopeo/sync.yaml").read_text(), "destination": "127.0.0.1:5002/s"},
        "regsync": {"config": (files / "regsync/regsync.yaml").read_text()},
        "list": {"config": (files / "list/images.txt").read_text(), "destination": "127.0.0.1:5002/l"},
        "kubernetes": {"config": (files / "kubernetes/manifests.yaml").read_text(), "destination": "127.0.0.1:5002/k"},
        "harbor": {"config": json.loads((files / "harbor/policies.json").read_text()), "host": "127.0.0.1:5003"},
        "dregsy": {"config": (files / "dregsy/config.yaml").read_text()},
    }
    for kind, body in bodies.items():
        answer = await take_over(client, kind, body)
        assert answer.status_code == 201, answer.text
        assert answer.json()["policies"], kind


async def test_what_was_taken_over_syncs_the_same_tags(serve: Serve, source: Namespace, destination: Namespace) -> None:
    images = {tag: oci_image(f"import {tag}") for tag in ("v1.0", "v1.1", "v2.0", "latest")}
    for tag, image in images.items():
        source.push("app", image, tag)
    here, there = source.reference("app"), destination.host
    insecure = {"username": "", "password": "", "insecure": True}
    path = source.repository("app")
    async with serve(is_working=True) as api:
        bodies: dict[str, dict[str, Any]] = {
            "image-syncer": {
                "images": {
                    f"{here}:v1.0,latest": f"{there}/{destination.repository('listed')}:one,newest",
                    f"{here}:/^v1/": [f"{there}/{destination.repository('matched')}"],
                },
                "auth": {source.host: insecure, there: insecure},
            },
            "skopeo": {
                "config": {source.host: {"images-by-semver": {path: ">=1.1.0"}, "tls-verify": False}},
                "destination": f"{there}/{destination.prefix}/skopeo",
                "all": True,
            },
            "regsync": {
                "config": {
                    "version": 1,
                    "creds": [{"registry": source.host, "tls": "disabled"}],
                    "sync": [
                        {
                            "source": here,
                            "target": f"{there}/{destination.repository('regsync')}",
                            "type": "repository",
                            "tags": {"allow": ["v.*"], "deny": ["v2.*"]},
                        }
                    ],
                }
            },
        }
        for kind, body in bodies.items():
            made = await take_over(api.client, kind, body)
            assert made.status_code == 201, made.text
            for policy in made.json()["policies"]:
                job = await api.client.post(f"/v1/policies/{policy['name']}/run", params={"wait": "60s"})
                assert job.json()["state"] == "succeeded", job.text

    def digests(**tags: str) -> dict[str, str]:
        return {there: images[here].digest for there, here in tags.items()}

    assert destination.tags("listed") == digests(one="v1.0", newest="latest")
    assert destination.tags("matched") == {tag: images[tag].digest for tag in ("v1.0", "v1.1")}
    assert destination.tags("skopeo/app") == {tag: images[tag].digest for tag in ("v1.1", "v2.0")}
    assert destination.tags("regsync") == {tag: images[tag].digest for tag in ("v1.0", "v1.1")}
