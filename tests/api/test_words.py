"""What is refused says what to do: each input that people really send, the field it names, and the word that helps."""

from typing import Any

import pytest

from tests.api.conftest import SHORT, Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

TO = "registry.example.com/mirror"
ENTRY = {"host": "registry.example.com"}
BASIC = {"type": "basic", "username": "puller"}
SUBSCRIPTION = {"url": "https://ci.example.com/hook"}
SECRET = "opensesame"
"""What no answer may repeat."""


async def words_about(api: Api, method: str, path: str, body: Any = None) -> dict[str, str]:
    """Send what is wrong and return what is said about which field."""
    answer = await api.client.request(method, path, json=body)
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text
    return {error.get("pointer", error.get("parameter")): error["detail"] for error in answer.json()["errors"]}


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("https://docker.io/library/redis:7", "leave out the scheme https://, and write 'docker.io/library/redis:7'"),
        ("http://registry.example.com/**", "set insecure"),
        ("https://registry.example.com/app/", "and write 'registry.example.com/app'"),
        ("docker://redis:7", "leave out the scheme docker://, and write 'redis:7'"),
        (f"puller:{SECRET}@registry.example.com/app:1", "PUT /v1/registries/{name}"),
        (f"puller:{SECRET}/x@registry.example.com/app:1", "PUT /v1/registries/{name}"),
        (f"https://puller:{SECRET}@registry.example.com", "PUT /v1/registries/{name}"),
        ("redis:7*", "tags.include: write 'redis', and '7*' there"),
        ("registry.example.com/team-*/**", "repositories.include: write 'registry.example.com/**', and 'team-*/**'"),
        ("team-*/**", "repositories.include: write 'docker.io/**'"),
        ("registry.example.com/app/", "leave out the '/' at the end, or write registry.example.com/app/**"),
        ("127.0.0.1:5000/app:1", "PUT /v1/registries/{name} with this host"),
        ("localhost/app:1", "PUT /v1/registries/{name} with this host"),
    ],
)
async def test_a_source_that_is_none(shared: Api, source: str, word: str) -> None:
    for path in ("/v1/jobs", "/v1/plan"):
        assert word in (await words_about(shared, "POST", path, {"source": source, "destination": TO}))["/source"]


@pytest.mark.parametrize(
    ("destination", "word"),
    [
        ("https://registry.example.com/app", "leave out the scheme"),
        (f"pusher:{SECRET}@registry.example.com/app", "PUT /v1/registries/{name}"),
        ([], "at least 1 item"),
        ({"host": "x"}, "a list"),
    ],
)
async def test_a_destination_that_is_none(shared: Api, destination: Any, word: str) -> None:
    body = {"source": "redis:7", "destination": destination}
    assert word in (await words_about(shared, "POST", "/v1/jobs", body))["/destination"]


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("registry.example.com/app:1", "registry.example.com/app:1"),
        ("registry.example.com/app", "registry.example.com/app"),
        ("registry.example.com/app", "registry.example.com/{repository}"),
        ("registry.example.com/**", "registry.example.com"),
        ("registry.example.com/team/**", "registry.example.com/{namespace}/{name}"),
        ("redis:7", ["registry.example.com/redis", "docker.io/library/redis"]),
    ],
)
async def test_a_destination_that_is_its_source(shared: Api, source: str, destination: Any) -> None:
    body = {"source": source, "destination": destination}
    place = "/destination/1" if isinstance(destination, list) else "/destination"
    for path in ("/v1/jobs", "/v1/plan"):
        assert "the source itself" in (await words_about(shared, "POST", path, body))[place]


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("registry.example.com/app:1", "registry.example.com/app:2"),
        ("registry.example.com/app", "registry.example.com/app-copy"),
        ("registry.example.com/**", "registry.example.com/{path[0]}"),
        ("registry.example.com/**", "registry.example.com/{path[5]}/x"),
        ("registry.example.com/team/**", "registry.example.com/mirror"),
    ],
)
async def test_a_destination_beside_its_source_is_fine(shared: Api, source: str, destination: str) -> None:
    answer = await shared.client.post("/v1/jobs", json={"source": source, "destination": destination})
    assert answer.status_code == 202, answer.text


async def test_an_index_of_fewer_platforms_may_take_the_place_of_the_whole_one(shared: Api) -> None:
    place = "registry.example.com/app:1"
    body = {"source": place, "destination": place, "platforms": ["linux/amd64"], "platform_mode": "rewrite"}
    assert (await shared.client.post("/v1/jobs", json=body)).status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "word"),
    [
        ("PUT", "/v1/registries/a", ENTRY | {"host": "https://registry.example.com"}, "/host", "leave out the scheme"),
        ("PUT", "/v1/registries/a", ENTRY | {"host": f"u:{SECRET}@r.example.com"}, "/host", "what stands before '@'"),
        ("PUT", "/v1/registries/a", ENTRY | {"username": "u"}, "/username", "did you mean auth.username?"),
        ("PUT", "/v1/registries/a", ENTRY | {"password": SECRET}, "/password", "did you mean auth.password?"),
        ("PUT", "/v1/registries/a", ENTRY | {"auth": BASIC}, "/auth/password", "has to be sent: the entry is new"),
        ("PUT", "/v1/registries/a", ENTRY | {"auth": {"username": "u"}}, "/auth", "needs a 'type'"),
        ("PUT", "/v1/registries/a", ENTRY | {"auth": {"type": "basc"}}, "/auth", "there are: 'none', 'basic'"),
        ("PUT", "/v1/registries/a", ENTRY | {"type": "harbour"}, "/type", "did you mean harbor?"),
        ("PUT", "/v1/registries/A!", ENTRY, "name", "small letters"),
        ("PUT", "/v1/subscriptions/a", {"url": "https://10.0.0.1/x"}, "/url", "REGISTRY_SYNC_NOTIFY_PRIVATE_HOSTS"),
        ("PUT", "/v1/subscriptions/a", {"url": "http://ci.example.com"}, "/url", "REGISTRY_SYNC_NOTIFY_PRIVATE_HOSTS"),
        ("PUT", "/v1/subscriptions/a", SUBSCRIPTION | {"events": []}, "/events", "at least 1 item"),
        (
            "PUT",
            "/v1/subscriptions/a",
            SUBSCRIPTION | {"events": ["job.fail"]},
            "/events/0",
            "did you mean job.failed?",
        ),
        ("PUT", "/v1/policies/a", SHORT, "/source", "did you mean rules.source?"),
        ("POST", "/v1/jobs", {"src": "redis:7", "destination": TO}, "/src", "did you mean source?"),
        ("POST", "/v1/jobs", {"source": "redis:7", "dest": TO}, "/dest", "did you mean destination?"),
        (
            "POST",
            "/v1/jobs",
            SHORT | {"plan": "01a20a83-6c5b-7a3e-8f51-6a1d2c7e9b04"},
            "/source",
            "it belongs to another form of this body",
        ),
        ("POST", "/v1/jobs", {"plan": "nightly"}, "/plan", "this has to be an id of the service's"),
        ("POST", "/v1/jobs", {"plan": 5}, "/plan", "this has to be an id of the service's"),
        ("POST", "/v1/jobs", SHORT | {"overwrite": "never"}, "/overwrite", "did you mean options.overwrite?"),
        ("POST", "/v1/jobs", SHORT | {"labels": ["a"]}, "/labels", "a JSON object"),
        ("POST", "/v1/jobs", SHORT | {"labels": {"a b": "c"}}, "/labels/a b", "a label's key"),
        ("POST", "/v1/jobs", None, "", "has no body: send a JSON object"),
        ("POST", "/v1/keys", {"name": "ci", "scope": "admins"}, "/scope", "did you mean admin?"),
        ("GET", "/v1/registries?page=2", None, "page", "there is no such parameter; there are none here"),
        ("GET", "/v1/keys?x=1", None, "x", "there are none here"),
        ("DELETE", "/v1/registries/a?forced=true", None, "forced", "did you mean force?"),
        ("PUT", "/v1/policies/a?dryrun=true", {"rules": [SHORT]}, "dryrun", "did you mean dry_run?"),
        ("GET", "/v1/jobs?status=failed", None, "status", "did you mean state?"),
        ("GET", "/v1/jobs?colour=red", None, "colour", "there are: limit, cursor, state"),
        ("GET", "/v1/jobs?state=fail", None, "state", "did you mean failed?"),
        ("GET", "/v1/jobs?since=yesterday", None, "since", "a duration such as 1h"),
        ("GET", "/v1/jobs?until=2030-02-31", None, "until", "a date such as 2026-11-25"),
        ("GET", "/v1/jobs?since=1h&until=2h", None, "until", "no time is before until"),
        ("GET", "/v1/jobs?trigger=cron", None, "trigger", "'api', 'schedule', 'push' or 'retry'"),
        ("GET", "/v1/jobs?state=failed&state=fialed", None, "state", "did you mean failed?"),
        ("GET", "/v1/jobs?label=team", None, "label", "key:value"),
        ("GET", "/v1/jobs?dest=x", None, "dest", "did you mean destination?"),
        ("GET", "/v1/jobs?limit=many", None, "limit", "a whole number"),
    ],
)
async def test_a_field_that_is_wrong(shared: Api, method: str, path: str, body: Any, field: str, word: str) -> None:
    words = await words_about(shared, method, path, body)
    assert word in words[field], words
    for said in words.values():
        assert not any(raw in said for raw in ("Tuple", "Input should", "EventType", "String should", "^"))


async def test_several_things_that_are_wrong_are_named_at_once(shared: Api) -> None:
    answer = await shared.client.post("/v1/jobs", json={"source": "redis:7", "dest": TO})
    assert answer.json()["detail"] == "2 things are wrong: /destination, /dest"


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("GET", "/v1/jobs/", "leave out the '/' at the end: /v1/jobs"),
        ("GET", "/v1/job", "did you mean /v1/jobs?"),
        ("GET", "/policies", "did you mean /v1/policies?"),
        ("GET", "/nothing/like/it", "/openapi.json"),
    ],
)
async def test_a_path_that_is_none(shared: Api, method: str, path: str, word: str) -> None:
    answer = await shared.client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert word in answer.json()["detail"]


async def test_the_start_leads_programs_to_the_contract_and_people_to_the_console(shared: Api) -> None:
    links = (await shared.client.get("/", headers={"Accept": "application/json"})).json()
    for path in links.values():
        assert (await shared.client.get(path, follow_redirects=True)).status_code == 200, path
    assert (await shared.client.get("/", headers={"Accept": "text/html"})).headers["Location"] == "/console/"
