"""Logging in: challenges, tokens per scope, expiry, and credentials that stay where they belong."""

import asyncio
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Digest, Repository, Tag
from app.registry.client import ClientPool
from tests.registry.conftest import Connect, basic, descriptor, entry_of, parsed, pieces, upload
from tests.support.clock import SettableClock
from tests.support.fake_registry import Call, FakeRegistry, Quirks, Respond, Unauthorized, fake_registry, on
from tests.support.images import blob, oci_image

IMAGE = oci_image("app")
V1 = Tag("v1")


def asked(registry: FakeRegistry) -> list[tuple[str, ...]]:
    return [token.asked for token in registry.auth.tokens]


@pytest.mark.parametrize(
    "challenge",
    ["plain", "two_headers", "one_header", "odd_case", "quoted", "negotiate_first", "basic_first", "missing"],
)
async def test_every_form_of_challenge_leads_to_a_token(connect: Connect, challenge: Any) -> None:
    async with fake_registry(Quirks(auth="token", challenge=challenge)) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
        assert asked(registry) == [("repository:team/app:pull",)]
        registry.check()


async def test_a_challenge_that_says_nothing_is_a_coded_refusal(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token", challenge="garbage")) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).get_manifest("team/app", V1)
        assert refusal.value.code in {"unauthorized", "realm_not_trusted"}


@pytest.mark.parametrize("status", [200, 403, 404])
async def test_a_ping_that_hides_the_challenge_does_no_harm(connect: Connect, status: int) -> None:
    async with fake_registry(Quirks(auth="token", ping_status=status)) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
        await upload(client, "team/app", blob("after", size=10_000))
        registry.check()


async def test_anonymous_tokens_are_fetched_without_credentials(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry).head_manifest("team/app", V1)
        assert [entry.authorization for entry in registry.journal.find("token")] == [None]


async def test_one_token_serves_all_requests_of_a_scope(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        await asyncio.gather(*(client.head_manifest("team/app", V1) for _ in range(30)))
        await client.get_manifest("team/app", V1)
        assert registry.journal.count("token") == 1
        assert registry.journal.count("ping") == 1
        assert registry.journal.count(status=401) == 1


async def test_a_writing_client_needs_one_token_for_reading_and_writing(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        client = connect(registry, auth=basic(), writing=True)
        assert await client.head_manifest("team/app", V1) is None
        await upload(client, "team/app", IMAGE.blobs[0])
        assert asked(registry) == [("repository:team/app:pull,push",)]


async def test_who_waits_for_a_token_survives_the_one_who_asked(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token", latency_seconds=0.05)) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        came = asyncio.Event()
        registry.faults.add(Call(lambda _: came.set()), matching=on("token"))
        first, second = (asyncio.create_task(client.head_manifest("team/app", V1)) for _ in range(2))
        await came.wait()
        first.cancel()
        assert await second
        assert registry.journal.count("token") == 1


async def test_a_token_is_replaced_before_it_ends(connect: Connect, clock: SettableClock) -> None:
    async with fake_registry(Quirks(auth="token", token_expires_in=300), clock=clock) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        await client.head_manifest("team/app", V1)
        clock.advance(269)
        await client.head_manifest("team/app", V1)
        assert registry.journal.count("token") == 1
        clock.advance(2)
        await client.head_manifest("team/app", V1)
        assert registry.journal.count("token") == 2
        assert registry.journal.count("manifest", status=401) == 0


@pytest.mark.parametrize("said", [None, 1, 0, -5])
async def test_a_token_lives_a_minute_at_least(connect: Connect, clock: SettableClock, said: int | None) -> None:
    quirks = Quirks(auth="token", token_expires_in=said, token_lives_seconds=1000, token_issued_at="future")
    async with fake_registry(quirks, clock=clock) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        await client.head_manifest("team/app", V1)
        clock.advance(50)
        await client.head_manifest("team/app", V1)
        assert registry.journal.count("token") == 1
        clock.advance(5)
        await client.head_manifest("team/app", V1)
        assert registry.journal.count("token") == 2


async def test_a_token_that_is_refused_is_fetched_anew_once(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        await client.head_manifest("team/app", V1)
        registry.auth.revoke_all()
        assert await client.head_manifest("team/app", V1)
        assert registry.journal.count("token") == 2
        registry.change(token_lives_requests=0)
        registry.auth.revoke_all()
        mark = registry.journal.mark()
        with pytest.raises(RegistryError) as refusal:
            await client.get_manifest("team/app", V1)
        assert refusal.value.code == "unauthorized"
        assert registry.journal.count("manifest", since=mark) == 2


async def test_a_body_is_sent_only_with_the_token_in_hand(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        layer = blob("with token", size=300_000)
        await upload(connect(registry, auth=basic()), "team/app", layer)
        assert registry.journal.count("upload_close") == 1
        assert registry.journal.received_bytes("upload_close") == layer.size


async def test_a_token_that_ends_during_an_upload_is_replaced_for_the_rest(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        layer = blob("ends", size=300_000)
        client = connect(registry, auth=basic())
        session = await client.start_upload("team/app", descriptor(layer))
        registry.auth.revoke_all()
        with pytest.raises(RegistryError) as refusal:
            await session.send(pieces(layer.data), size=layer.size, digest=Digest(layer.digest))
        assert (refusal.value.code, refusal.value.temporary) == ("unauthorized", True)
        assert await session.status() == 0
        await session.send(pieces(layer.data), size=layer.size, digest=Digest(layer.digest))
        assert await client.has_blob("team/app", descriptor(layer))
        registry.check()


async def test_chunks_get_fresh_tokens_as_they_go(connect: Connect) -> None:
    quirks = Quirks(auth="token", monolithic_refused=405, token_lives_requests=3)
    async with fake_registry(quirks) as registry:
        layer = blob("long", size=9_000_000)
        client = connect(registry, auth=basic())
        await upload(client, "team/app", layer)
        assert layer.digest in registry.content.repository("team/app").blobs
        assert registry.journal.count("token") > 2


@pytest.mark.parametrize("methods", [{"GET"}, {"POST"}])
@pytest.mark.parametrize("status", [404, 405, 401])
async def test_a_token_server_that_knows_one_way_is_asked_that_way(
    connect: Connect, methods: set[str], status: int
) -> None:
    quirks = Quirks(auth="token", token_methods=frozenset(methods), token_method_status=status)
    async with fake_registry(quirks, identity_tokens={"refresh-me": "ann"}) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)


async def test_an_identity_token_is_exchanged_by_post(connect: Connect) -> None:
    quirks = Quirks(auth="token", identity_tokens_only=True, token_fields=("access_token",))
    async with fake_registry(quirks, identity_tokens={"refresh-me": "ann"}, anonymous_actions=frozenset()) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth={"type": "identity_token", "token": "refresh-me"})
        assert await client.head_manifest("team/app", V1)
        assert [entry.method for entry in registry.journal.find("token")] == ["POST"]
        registry.check()


async def test_offline_tokens_are_not_asked_for(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token", offline_tokens_unusable=True)) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)


@pytest.mark.parametrize("fields", [("token",), ("access_token",)])
async def test_a_token_is_found_under_either_name(connect: Connect, fields: tuple[str, ...]) -> None:
    async with fake_registry(Quirks(auth="token", token_fields=fields)) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)


@pytest.mark.parametrize("body", ["html", "empty", "list", "huge"])
async def test_an_answer_without_a_token_is_a_coded_refusal(connect: Connect, body: Any) -> None:
    async with fake_registry(Quirks(auth="token", token_body=body)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry, auth=basic()).get_manifest("team/app", V1)
        assert refusal.value.code in {"unauthorized", "limit_exceeded"}
        assert not refusal.value.temporary


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_wrong_password_is_unauthorized_whatever_the_status(connect: Connect, status: int) -> None:
    async with fake_registry(Quirks(auth="token", token_refusal_status=status)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry, auth=basic(("ann", "wrong"))).get_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.temporary) == ("unauthorized", False)
        assert "wrong" not in refusal.value.message.replace("wrong credentials", "")


async def test_a_token_server_that_is_down_for_a_moment_is_asked_again(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        registry.faults.add(Respond(503), matching=on("token"), times=2)
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)


async def test_each_that_waits_for_a_token_raises_an_error_of_its_own(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token"), anonymous_actions=frozenset()) as registry:
        client = connect(registry, auth=basic(("ann", "wrong")))
        asks = (client.get_manifest("team/app", V1) for _ in range(5))
        errors = await asyncio.gather(*asks, return_exceptions=True)
    assert {error.code for error in errors if isinstance(error, RegistryError)} == {"unauthorized"}
    assert len({id(error) for error in errors}) == 5


async def test_a_mount_asks_for_both_repositories_in_one_token(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/old", IMAGE)
        layer = IMAGE.blobs[0]
        client = connect(registry, auth=basic())
        assert await client.mount_blob("team/new", Digest(layer.digest), from_repository="team/old") is None
        assert asked(registry) == [("repository:team/new:pull,push", "repository:team/old:pull")]


@pytest.mark.parametrize(
    "quirks",
    [
        {"only_first_scope": True},
        {"only_last_scope": True},
        {"denied_scopes": ("repository:team/old:*",)},
        {"denied_scopes": ("repository:team/old:*",), "insufficient_scope_status": 403},
    ],
)
async def test_without_the_second_scope_a_mount_becomes_an_upload(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(auth="token", **quirks)) as registry:
        registry.load("team/old", IMAGE)
        layer = IMAGE.blobs[0]
        client = connect(registry, auth=basic())
        session = await client.mount_blob("team/new", Digest(layer.digest), from_repository="team/old")
        assert session is not None
        await session.send(pieces(layer.data), size=layer.size, digest=Digest(layer.digest))
        assert layer.digest in registry.content.repository("team/new").blobs
        registry.check()


@pytest.mark.parametrize("quirk", [{"scopes_overwrite": True}, {"delete_scope_refused": True}])
async def test_scopes_are_merged_and_never_ask_for_delete(connect: Connect, quirk: dict[str, Any]) -> None:
    async with fake_registry(Quirks(auth="token", **quirk)) as registry:
        client = connect(registry, auth=basic())
        for part in IMAGE.blobs:
            await upload(client, "team/app", part)
        await client.put_manifest("team/app", V1, parsed(IMAGE))
        assert await client.mount_blob("team/app", Digest(IMAGE.blobs[0].digest), from_repository="team/app") is None
        assert all("delete" not in scope for scopes in asked(registry) for scope in scopes)


@pytest.mark.parametrize("kind", ["auto", "acr"])
async def test_acr_tag_lists_get_the_scope_they_want(connect: Connect, kind: str) -> None:
    async with fake_registry(Quirks(auth="token", tags_need_metadata_read=True)) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic(), type=kind)
        assert [tag async for tag in client.list_tags("team/app")] == ["v1"]
        refusals = registry.journal.count("tags", status=401)
        assert refusals == (0 if kind == "acr" else 1)
        assert [tag async for tag in client.list_tags("team/app")] == ["v1"]
        assert registry.journal.count("tags", status=401) == refusals  # learned


async def test_the_catalog_has_a_scope_of_its_own(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        assert [path async for path in client.list_repositories()] == ["team/app"]
        assert asked(registry) == [("registry:catalog:*",)]


@pytest.mark.parametrize("realm", ["other_port", "same_host", "relative"])
async def test_token_servers_of_the_same_host_are_asked(connect: Connect, realm: Any) -> None:
    async with fake_registry(Quirks(auth="token", realm=realm)) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)


@pytest.mark.parametrize(
    "realm",
    [
        "http://169.254.169.254/token",
        "http://localhost:1/token",
        "https://evil.example/token",
        "http://user:secret@127.0.0.1/token",
        "file:///etc/passwd",
    ],
)
async def test_a_foreign_token_server_is_never_asked(connect: Connect, realm: str) -> None:
    async with fake_registry(Quirks(auth="token", realm_url=realm)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry, auth=basic()).get_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.temporary) == ("realm_not_trusted", False)
        assert registry.journal.count("token") == 0


async def test_a_strangers_token_server_gets_nothing_until_it_is_trusted(connect: Connect) -> None:
    quirks = Quirks(auth="token", challenge_from_stranger=True)
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        registry.load("team/app", IMAGE, "v1")
        with pytest.raises(RegistryError, match="localhost") as refusal:
            await connect(registry, auth=basic()).get_manifest("team/app", V1)
        assert refusal.value.code == "realm_not_trusted"
        assert registry.journal.count(origin="stranger") == 0
        assert await connect(registry, auth=basic(), trusted_hosts=["localhost"]).head_manifest("team/app", V1)


async def test_a_token_server_without_tls_is_not_asked_by_a_registry_with_it(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token", realm="plain_http"), tls=True) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry, auth=basic()).get_manifest("team/app", V1)
        assert refusal.value.code == "realm_not_trusted"
        assert registry.journal.count("token") == 0


async def test_a_realm_that_forgot_tls_means_the_registry_itself(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token"), tls=True) as registry:
        registry.change(realm_url=f"http://{registry.host}/token")
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)
        [entry] = registry.journal.find("token")
        assert entry.origin == "registry"


@pytest.mark.parametrize("target", ["stranger", "loop"])
async def test_a_token_servers_redirect_is_not_followed(connect: Connect, target: Any) -> None:
    async with fake_registry(Quirks(auth="token", token_redirect=target)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry, auth=basic()).get_manifest("team/app", V1)
        assert refusal.value.code == "unauthorized"
        assert registry.journal.count(origin="stranger") == 0


async def test_tokens_are_not_shared_between_entries(pool: ClientPool) -> None:
    async with fake_registry(Quirks(auth="token"), accounts={"ann": "secret", "bob": "hidden"}) as registry:
        registry.load("ann/app", IMAGE, "v1")
        registry.load("bob/app", IMAGE, "v1")
        ann = entry_of(registry, auth=basic())
        bob = entry_of(registry, name="bob", host=f"{registry.host}/bob", auth=basic(("bob", "hidden")))
        clients = pool.clients((ann, bob))
        for path in ("ann/app", "bob/app"):
            repository = Repository(ann.registry, path)
            assert await clients.for_repository(repository).head_manifest(path, V1)
        assert [token.account for token in registry.auth.tokens] == ["ann", "bob"]


async def test_basic_credentials_are_shown_to_the_registry_itself(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="basic", ping_status=200)) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert await connect(registry, auth=basic()).head_manifest("team/app", V1)
        assert registry.journal.count("token") == 0


async def test_a_static_token_is_sent_as_it_is(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        await connect(registry, auth=basic()).head_manifest("team/app", V1)
        text = registry.auth.tokens[0].value
        mark = registry.journal.mark()
        client = connect(registry, auth={"type": "bearer", "token": text})
        assert await client.head_manifest("team/app", V1)
        assert [str(entry.authorization) for entry in registry.journal.entries[mark:]] == [f"Bearer {text}"]
        registry.auth.revoke_all()
        with pytest.raises(RegistryError) as refusal:
            await client.get_manifest("team/app", V1)
        assert refusal.value.code == "unauthorized"
        assert text not in refusal.value.message


async def test_a_401_in_between_costs_one_more_token(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        registry.faults.add(Unauthorized(), matching=on("manifest"))
        assert await client.head_manifest("team/app", V1)
        assert registry.journal.count("token") == 2


async def test_a_login_that_was_refused_is_not_shown_again_for_a_while(connect: Connect, clock: SettableClock) -> None:
    async with fake_registry(Quirks(auth="token"), clock=clock) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic(("ann", "wrong")))
        for repository in ("team/app", "team/app", "team/b", "team/c", "team/d"):
            with pytest.raises(RegistryError) as refusal:
                await client.get_manifest(repository, V1)
            assert (refusal.value.code, refusal.value.status) == ("unauthorized", 401)
        assert registry.journal.count("token") == 3 * 2  # by GET and by POST
        clock.advance(61)
        with pytest.raises(RegistryError):
            await client.get_manifest("team/app", V1)
        assert registry.journal.count("token") == 4 * 2
        assert (await connect(registry, auth=basic()).get_manifest("team/app", V1)).digest == IMAGE.digest


async def test_another_challenge_for_one_request_is_that_requests_own(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="token", service="harbor-registry")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        basic_only = Respond(401, (("WWW-Authenticate", 'Basic realm="harbor"'),))
        registry.faults.add(basic_only, matching=on("catalog"), times=None)
        with pytest.raises(RegistryError):
            [path async for path in client.list_repositories()]
        shown = [str(entry.authorization).partition(" ")[0] for entry in registry.journal.find("catalog")]
        assert shown == ["Bearer", "Basic"]
        server = await client.executor.token_server()
        assert server is not None
        assert server.service == "harbor-registry"
        assert await client.head_manifest("team/app", V1)
        assert registry.journal.find("manifest")[-1].authorization.startswith("Bearer ")  # type: ignore[union-attr] # it has one


@pytest.mark.parametrize("auth", ["basic", "token"])
async def test_a_dead_login_is_told_from_a_missing_right(connect: Connect, auth: Any) -> None:
    async with fake_registry(Quirks(auth=auth, denied_scopes=("*team/app:pull",))) as registry:
        registry.load("team/app", IMAGE, "v1")
        codes = []
        for password in ("wrong", "secret"):
            client = connect(registry, auth=basic(("ann", password)))
            registry.faults.clear()
            if auth == "basic" and password == "secret":
                registry.faults.add(Respond(403), matching=on("manifest"), times=None)
            with pytest.raises(RegistryError) as refusal:
                await client.get_manifest("team/app", V1)
            codes.append(refusal.value.code)
        assert codes == ["unauthorized", "denied"]


async def test_a_head_that_is_refused_without_words_is_asked_for_them(connect: Connect) -> None:
    body = b'{"errors": [{"code": "UNAUTHORIZED", "message": "project nope not found: project nope not found"}]}'
    async with fake_registry(Quirks(auth="token")) as registry:
        challenge = (("WWW-Authenticate", f'Bearer realm="{registry.urls["auth"]}/token",service="fake.registry"'),)
        registry.faults.add(Respond(401, challenge, b""), matching=on("manifest", "blob", method="HEAD"), times=None)
        registry.faults.add(Respond(401, challenge, body), matching=on("manifest", "blob", method="GET"), times=None)
        client = connect(registry, auth=basic(), writing=True)
        assert await client.head_manifest("nope/app", V1) is None
        for ask in (client.get_manifest("nope/app", V1), client.has_blob("nope/app", descriptor(IMAGE.blobs[0]))):
            with pytest.raises(RegistryError, match="project nope not found") as refusal:
                await ask
            assert (refusal.value.code, refusal.value.status) == ("repository_missing", 401)
