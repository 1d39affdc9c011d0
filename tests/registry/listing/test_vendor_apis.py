"""Repositories listed by the APIs registries have of their own; these can't be had for real, and so are the fake's."""

from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.registry.limits import MAX_PAGES
from tests.registry.conftest import Connect, basic
from tests.support.fake_registry import ACR, FakeRegistry, Quirks, Respond, TooMany, fake_registry, on
from tests.support.images import oci_image

IMAGE = oci_image("app")
NAMES = [f"team/app-{number}" for number in range(7)]
APIS = ["docker_hub", "harbor", "quay", "gitlab"]
LOGINS: dict[str, Any] = {
    "docker_hub": ("ann", "secret"),
    "harbor": ("ann", "secret"),
    "quay": ("$oauthtoken", "secret"),
    "gitlab": ("ann", "secret"),
}
ACCOUNTS = {"ann": "secret", "$oauthtoken": "secret", "gitlab-ci-token": "job"}


def load(registry: FakeRegistry, *names: str) -> None:
    for name in (*NAMES, "other/app", *names):
        registry.load(name, IMAGE, "v1")


def quirks_of(api: Any, **switches: Any) -> Quirks:
    """Return a registry without a catalog whose API is its own."""
    defaults = {"auth": "token", "realm": "same_host", "catalog_status": 404, "gitlab_projects": ("team/x", "other/y")}
    return Quirks(api=api, **{**defaults, **switches})


async def listed(connect: Connect, registry: FakeRegistry, namespace: str = "team", **fields: Any) -> list[str]:
    client = connect(registry, **fields)
    return [path async for path in client.list_repositories(namespace)]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("link", ["absolute", "relative", "other_host", "plain_http"])
async def test_pages_are_followed_and_never_leave_for_another_host(connect: Connect, api: str, link: str) -> None:
    quirks = quirks_of(api, page_cap=3, link=link, api_private=(NAMES[0],))
    async with fake_registry(quirks, tls=True, accounts=ACCOUNTS) as registry:
        load(registry)
        assert await listed(connect, registry, type=api, auth=basic(LOGINS[api])) == NAMES
        assert len([entry for entry in registry.journal.find("api") if "/users/" not in entry.path]) == 3
        assert {entry.origin for entry in registry.journal} == {"registry"}
        registry.check()


@pytest.mark.parametrize("api", APIS)
async def test_who_has_not_logged_in_gets_what_is_public(connect: Connect, api: str) -> None:
    async with fake_registry(quirks_of(api, api_private=(NAMES[0],))) as registry:
        load(registry)
        assert await listed(connect, registry, type=api) == NAMES[1:]


@pytest.mark.parametrize("api", APIS)
async def test_a_namespace_without_repositories_has_an_empty_list(connect: Connect, api: str) -> None:
    async with fake_registry(quirks_of(api)) as registry:
        assert await listed(connect, registry, type=api) == []


@pytest.mark.parametrize("api", APIS)
async def test_a_namespace_of_two_parts_bounds_the_list(connect: Connect, api: str) -> None:
    async with fake_registry(quirks_of(api)) as registry:
        load(registry, "team/x/one", "team/x/two", "team/xy/three")
        assert await listed(connect, registry, "team/x", type=api) == ["team/x/one", "team/x/two"]


@pytest.mark.parametrize("api", APIS)
async def test_what_is_no_repository_is_left_out(connect: Connect, api: str) -> None:
    junk: tuple[Any, ...] = (
        None,
        7,
        "Team/X",
        [],
        {},
        {"name": None, "path": None},
        {"namespace": "team", "name": "../../x"},
    )
    junk += ({"name": "TEAM/Up", "path": "TEAM/Up", "namespace": "TEAM"}, {"name": "a", "path": "b/\x1b[31m"})
    async with fake_registry(quirks_of(api, api_extra=junk)) as registry:
        load(registry)
        assert await listed(connect, registry, type=api) == NAMES


@pytest.mark.parametrize("api", APIS)
async def test_a_list_that_never_ends_is_an_error(connect: Connect, api: str) -> None:
    async with fake_registry(quirks_of(api, endless=True)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type=api)
        assert (refusal.value.code, refusal.value.temporary) == ("limit_exceeded", False)
        assert registry.journal.count("api") == MAX_PAGES + 1


@pytest.mark.parametrize("api", APIS)
async def test_a_next_page_that_is_this_one_ends_the_list(connect: Connect, api: str) -> None:
    async with fake_registry(quirks_of(api, page_cap=3, link="to_itself")) as registry:
        load(registry)
        found = await listed(connect, registry, type=api)
        assert found == (NAMES if api == "quay" else NAMES[:3])


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("body", [b"<!doctype html>", b"[" * 100_000, b'{"results": 7, "repositories": {}}', b'"x"'])
async def test_an_answer_that_is_no_list_is_an_error(connect: Connect, api: str, body: bytes) -> None:
    async with fake_registry(quirks_of(api)) as registry:
        registry.faults.add(Respond(200, (), body), matching=on("api"), times=None)
        with pytest.raises(RegistryError, match="no list") as refusal:
            await listed(connect, registry, type=api)
        assert refusal.value.code == "registry_unreachable"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (403, "denied"), (404, "reference_not_found")])
async def test_a_refusal_has_its_code_and_says_what_to_do(connect: Connect, api: str, status: int, code: str) -> None:
    async with fake_registry(quirks_of(api, api_status=status), accounts=ACCOUNTS) as registry:
        with pytest.raises(RegistryError, match=r"name an?") as refusal:
            await listed(connect, registry, type=api, auth=basic(LOGINS[api]))
        assert (refusal.value.code, refusal.value.status, refusal.value.temporary) == (code, status, False)
        assert "secret" not in refusal.value.message
        assert registry.journal.count("api") == 1


@pytest.mark.parametrize("api", APIS)
async def test_too_many_requests_are_made_up_for(connect: Connect, api: str) -> None:
    async with fake_registry(quirks_of(api)) as registry:
        load(registry)
        registry.faults.add(TooMany("0"), matching=on("api"))
        assert await listed(connect, registry, type=api) == NAMES
        assert registry.journal.count("api", status=429) == 1


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("status", [302, 307])
async def test_an_api_that_redirects_elsewhere_is_not_followed(connect: Connect, api: str, status: int) -> None:
    async with fake_registry(quirks_of(api), accounts=ACCOUNTS) as registry:
        for kind in ("api", "api_login"):
            target = f"{registry.urls['stranger']}/api/v1/repository"
            registry.faults.add(Respond(status, (("Location", target),), b""), matching=on(kind), times=None)
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type=api, auth=basic(LOGINS[api]))
        assert not refusal.value.temporary
        assert registry.journal.count(origin="stranger") == 0


@pytest.mark.parametrize("api", ["docker_hub", "harbor", "gitlab"])
async def test_a_login_of_another_kind_does_not_list_as_if_it_were_nobody(connect: Connect, api: str) -> None:
    quirks = quirks_of(api, api_private=(NAMES[0],))
    async with fake_registry(quirks, identity_tokens={"refresh": "ann"}) as registry:
        load(registry)
        with pytest.raises(RegistryError, match="password") as refusal:
            await listed(connect, registry, type=api, auth={"type": "identity_token", "token": "refresh"})
        assert refusal.value.code == "unauthorized"


@pytest.mark.parametrize(("api", "name"), [("gitlab", "ann"), ("quay", "$oauthtoken")])
@pytest.mark.parametrize("password", ["pässword", "two words", "a\r\nX-Evil: 1"])
async def test_a_password_that_can_be_no_token_is_not_sent_as_one(
    connect: Connect, api: str, name: str, password: str
) -> None:
    async with fake_registry(quirks_of(api), accounts={name: password}) as registry:
        with pytest.raises(RegistryError, match="an access token") as refusal:
            await listed(connect, registry, type=api, auth=basic((name, password)))
        assert refusal.value.code == "unauthorized"
        assert password not in refusal.value.message
        assert registry.journal.count("api") == 0


async def test_docker_hub_has_to_be_told_a_namespace(connect: Connect) -> None:
    async with fake_registry(quirks_of("docker_hub")) as registry:
        with pytest.raises(RegistryError, match="name a namespace") as refusal:
            await listed(connect, registry, "", type="docker_hub")
        assert refusal.value.code == "listing_unsupported"
        assert len(registry.journal) == 0


async def test_a_wrong_password_for_docker_hub_is_told_without_it(connect: Connect) -> None:
    async with fake_registry(quirks_of("docker_hub")) as registry:
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type="docker_hub", auth=basic(("ann", "hunter2")))
        assert refusal.value.code == "unauthorized"
        assert "hunter2" not in refusal.value.message
        assert registry.journal.count("api") == 0


async def test_harbor_lists_every_project_one_may_see(connect: Connect) -> None:
    async with fake_registry(quirks_of("harbor", page_cap=3, api_private=("other/app",))) as registry:
        load(registry)
        assert await listed(connect, registry, "", type="harbor", auth=basic()) == ["other/app", *NAMES]
        assert await listed(connect, registry, "", type="harbor") == NAMES


@pytest.mark.parametrize("name", ["robot$sync", "robotics", "ann"])
async def test_harbor_lists_everything_to_robots_and_people_alike(connect: Connect, name: str) -> None:
    async with fake_registry(quirks_of("harbor", catalog_status=401), accounts={name: "secret"}) as registry:
        load(registry)
        auth = basic((name, "secret"))
        assert await listed(connect, registry, "", type="harbor", auth=auth) == ["other/app", *NAMES]
        assert await listed(connect, registry, type="harbor", auth=auth) == NAMES
        assert registry.journal.count("catalog") == 0


async def test_a_robot_that_may_not_list_is_told_what_it_needs(connect: Connect) -> None:
    quirks = quirks_of("harbor", catalog_status=401, api_status=403)
    async with fake_registry(quirks, accounts={"robot$sync": "secret"}) as registry:
        load(registry)
        with pytest.raises(RegistryError, match="List Repository") as refusal:
            await listed(connect, registry, type="harbor", auth=basic(("robot$sync", "secret")))
        assert refusal.value.code == "denied"


@pytest.mark.parametrize("api", ["harbor", "quay", "gitlab"])
async def test_a_dead_login_does_not_make_a_list_shorter(connect: Connect, api: Any) -> None:
    quirks = quirks_of(api, api_serves_strangers=True, api_private=("team/app",))
    names = {"quay": "$oauthtoken", "gitlab": "gitlab-ci-token"}
    async with fake_registry(quirks, accounts={names.get(api, "ann"): "secret"}) as registry:
        load(registry)
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type=api, auth=basic((names.get(api, "ann"), "expired")))
        assert refusal.value.code == "unauthorized"


async def test_the_catalog_stands_in_for_an_api_that_is_hidden(connect: Connect) -> None:
    async with fake_registry(quirks_of("none", catalog_status=None)) as registry:
        load(registry)
        for kind in ("harbor", "gitlab"):
            assert await listed(connect, registry, type=kind, auth=basic()) == NAMES


async def test_a_robot_of_quay_gets_what_it_may_read_and_what_is_public(connect: Connect) -> None:
    quirks = quirks_of("quay", catalog_status=None, realm="same_host", catalog_scope_refused=True)
    async with fake_registry(quirks, accounts={"team+robot": "secret"}) as registry:
        load(registry)
        auth = basic(("team+robot", "secret"))
        assert await listed(connect, registry, type="quay", auth=auth) == NAMES
        assert await listed(connect, registry, "", type="quay", auth=auth) == ["other/app", *NAMES]
        assert [entry.secrets for entry in registry.journal.find("api")] == [()]


async def test_a_quay_that_nobody_may_visit_without_a_login_lists_a_robots_own(connect: Connect) -> None:
    quirks = quirks_of("quay", catalog_status=None, catalog_scope_refused=True, api_status=401)
    async with fake_registry(quirks, accounts={"team+robot": "secret", "$oauthtoken": "secret"}) as registry:
        load(registry)
        assert await listed(connect, registry, type="quay", auth=basic(("team+robot", "secret"))) == NAMES
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type="quay", auth=basic(("$oauthtoken", "secret")))
        assert refusal.value.code == "unauthorized"


async def test_a_token_server_that_is_not_trusted_does_not_hide_why_a_list_was_refused(connect: Connect) -> None:
    quirks = quirks_of("none", challenge_from_stranger=True, catalog_status=401)
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        with pytest.raises(RegistryError, match="set the type") as refusal:
            await listed(connect, registry, auth={"type": "bearer", "token": "whatever"})
        assert refusal.value.code == "unauthorized"


async def test_quay_has_to_be_told_an_organization_by_who_has_no_login(connect: Connect) -> None:
    async with fake_registry(quirks_of("quay", catalog_status=None)) as registry:
        with pytest.raises(RegistryError, match="name an organization") as refusal:
            await listed(connect, registry, "", type="quay")
        assert refusal.value.code == "listing_unsupported"


async def test_gitlab_is_asked_for_a_group_then_for_the_project_a_path_may_lie_in(connect: Connect) -> None:
    quirks = quirks_of("gitlab", realm="other_port", gitlab_projects=("team/sub/project",))
    async with fake_registry(quirks, accounts=ACCOUNTS) as registry:
        inside = ["team/sub/project/a/b", "team/sub/project/a/c"]
        load(registry, "team/sub/project", *inside)
        fields: dict[str, Any] = {"type": "gitlab", "auth": basic(("gitlab-ci-token", "job"))}
        assert await listed(connect, registry, "team/sub", **fields) == ["team/sub/project", *inside]
        assert await listed(connect, registry, "team/sub/project", **fields) == inside
        since = registry.journal.mark()
        assert await listed(connect, registry, "team/sub/project/a", **fields) == inside
        asked = registry.journal.find("api", since=since)
        assert [(entry.path.split("/")[3], entry.status) for entry in asked] == [
            ("groups", 404),
            ("projects", 404),
            ("projects", 200),
        ]
        assert {entry.origin for entry in registry.journal.find("api")} == {"auth"}
        registry.check()


async def test_gitlab_without_a_group_is_asked_for_its_catalog(connect: Connect) -> None:
    async with fake_registry(quirks_of("gitlab", catalog_status=401)) as registry:
        load(registry)
        with pytest.raises(RegistryError, match="name a group or a project") as refusal:
            await listed(connect, registry, "", type="gitlab", auth=basic())
        assert refusal.value.code == "denied"
        registry.change(catalog_status=None)
        assert await listed(connect, registry, "", type="gitlab", auth=basic()) == ["other/app", *NAMES]


async def test_a_refusal_of_an_api_on_another_host_is_final_and_too_many_requests_are_not(connect: Connect) -> None:
    async with fake_registry(quirks_of("gitlab", realm="other_port"), accounts=ACCOUNTS) as registry:
        load(registry)
        registry.faults.add(Respond(403), matching=on("api"))
        with pytest.raises(RegistryError, match="read_api") as refusal:
            await listed(connect, registry, type="gitlab", auth=basic())
        assert (refusal.value.code, refusal.value.temporary) == ("denied", False)
        client = connect(registry, type="gitlab", auth=basic())
        window = client.executor.window.size
        registry.faults.add(TooMany("0"), matching=on("api"))
        assert [path async for path in client.list_repositories("team")] == NAMES
        assert client.executor.window.size < window


async def test_a_list_that_breaks_off_is_not_begun_again_another_way(connect: Connect) -> None:
    async with fake_registry(quirks_of("harbor", catalog_status=None, page_cap=3), accounts=ACCOUNTS) as registry:
        load(registry)
        registry.faults.add(Respond(403), matching=on("api"), number=3)  # who asks, a page, the next
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type="harbor", auth=basic())
        assert refusal.value.code == "denied"
        assert registry.journal.count("catalog") == 0


async def test_a_gitlab_whose_tokens_come_from_a_stranger_is_shown_no_login(connect: Connect) -> None:
    quirks = quirks_of("gitlab", challenge_from_stranger=True)
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type="gitlab", auth=basic())
        assert refusal.value.code == "realm_not_trusted"
        registry.check()


@pytest.mark.parametrize(
    ("api", "path", "service"),
    [
        ("harbor", "/service/token", "harbor-registry"),
        ("gitlab", "/jwt/auth", "container_registry"),
        ("quay", "/v2/auth", "127.0.0.1"),
    ],
)
async def test_a_registry_of_no_type_is_known_by_where_its_tokens_come_from(
    connect: Connect, api: str, path: str, service: str
) -> None:
    async with fake_registry(quirks_of(api, service=service), accounts=ACCOUNTS) as registry:
        registry.change(realm_url=f"{registry.url}{path}")
        load(registry)
        assert await listed(connect, registry) == NAMES
        assert registry.journal.count("catalog") == 1
        with pytest.raises(RegistryError) as refusal:
            await listed(connect, registry, type="generic")
        assert refusal.value.code == "denied"


async def test_a_registry_nothing_is_known_of_says_that_its_type_may_help(connect: Connect) -> None:
    async with fake_registry(quirks_of("none", auth="none")) as registry:
        with pytest.raises(RegistryError, match="set the type of its entry") as refusal:
            await listed(connect, registry)
        assert refusal.value.code == "listing_unsupported"


GITHUB: dict[str, Any] = {"type": "ghcr", "auth": basic(("ann", "secret"))}


@pytest.mark.parametrize("people", [(), ("team",)])
async def test_github_lists_an_organizations_containers_and_a_persons(
    connect: Connect, people: tuple[str, ...]
) -> None:
    async with fake_registry(quirks_of("github", page_cap=3, github_people=people), accounts=ACCOUNTS) as registry:
        load(registry)
        assert await listed(connect, registry, **GITHUB) == NAMES
        assert len(registry.journal.find("api")) == 3 + bool(people)
        registry.check()


async def test_github_lists_parts_of_an_owners_containers_and_drops_what_is_no_name(connect: Connect) -> None:
    junk = (None, 7, {"name": None}, {"name": "../../x"}, {"name": "UP"})
    async with fake_registry(quirks_of("github", api_extra=junk), accounts=ACCOUNTS) as registry:
        load(registry, "team/web/api", "team/web/ui")
        assert await listed(connect, registry, "team/web", **GITHUB) == ["team/web/api", "team/web/ui"]


async def test_github_tells_strangers_nothing_and_is_not_asked(connect: Connect) -> None:
    async with fake_registry(quirks_of("github")) as registry:
        with pytest.raises(RegistryError, match="classic token") as refusal:
            await listed(connect, registry, type="ghcr")
        assert (refusal.value.code, registry.journal.find("api")) == ("listing_unsupported", [])


async def test_a_token_that_github_does_not_take_is_told_which_would_do(connect: Connect) -> None:
    async with fake_registry(quirks_of("github"), accounts=ACCOUNTS) as registry:
        with pytest.raises(RegistryError, match="read:packages") as refusal:
            await listed(connect, registry, type="ghcr", auth=basic(("ann", "wrong-token")))
        assert refusal.value.code == "unauthorized"
        assert "wrong-token" not in refusal.value.message


GOOGLES = ["p/one/app", "p/one/web/front", "p/two/app", "other/one/app"]


@pytest.mark.parametrize(
    ("namespace", "expected"), [("p", GOOGLES[:3]), ("p/one", GOOGLES[:2]), ("p/one/web", GOOGLES[1:2])]
)
async def test_a_project_of_google_is_listed_repository_by_repository(
    connect: Connect, namespace: str, expected: list[str]
) -> None:
    accounts = {"oauth2accesstoken": "secret"}
    async with fake_registry(quirks_of("google", page_cap=1), accounts=accounts) as registry:
        for name in GOOGLES:
            registry.load(name, IMAGE, "v1")
        auth = basic(("oauth2accesstoken", "secret"))
        assert await listed(connect, registry, namespace, type="gar", auth=auth) == expected
        assert registry.journal.count("catalog") == 0
        registry.check()


async def test_google_is_asked_for_the_catalog_where_its_api_is_refused(connect: Connect) -> None:
    quirks = quirks_of("google", api_status=403, catalog_status=None)
    async with fake_registry(quirks, accounts={"oauth2accesstoken": "secret"}) as registry:
        registry.load("p/one/app", IMAGE, "v1")
        auth = basic(("oauth2accesstoken", "secret"))
        assert await listed(connect, registry, "p", type="gar", auth=auth) == ["p/one/app"]
        registry.check()


async def test_acr_is_asked_for_its_own_catalog(connect: Connect) -> None:
    async with fake_registry(ACR) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await listed(connect, registry, type="acr", auth=basic()) == ["team/app"]
        assert [entry.path for entry in registry.journal.find("catalog")] == ["/acr/v1/_catalog"]
