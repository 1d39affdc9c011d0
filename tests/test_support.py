"""What the other tests stand on holds: registries, PostgreSQL and content are real and behave as they say."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import Namespace
from tests.support.clock import SettableClock
from tests.support.images import (
    DOCKER_FOREIGN_LAYER,
    Manifest,
    artifact,
    blob,
    cosign_signature,
    cosign_tag,
    docker_image,
    docker_list,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.support.plain_client import PlainClient, differences
from tests.support.postgres import PostgresServer
from tests.support.registries import NotificationEndpoint, RegistryOptions, RegistryProcess, run_registry
from tests.support.token_server import Account, TokenServer

StartRegistry = Callable[[RegistryOptions], RegistryProcess]


def some_of_everything() -> dict[str, Manifest]:
    base = blob("base", size=4096)
    amd64 = oci_image("app", platform="linux/amd64", layers=[base, blob("amd64")])
    arm64 = oci_image("app", platform="linux/arm64/v8", layers=[base, blob("arm64")])
    multi = oci_index([amd64, arm64], annotations={"org.example": "multi"})
    schema2 = [docker_image("old", platform="linux/amd64"), docker_image("old", platform="linux/s390x")]
    sbom = artifact("sbom", artifact_type="application/spdx+json", subject=multi)
    return {
        "plain": amd64,
        "multi": multi,
        "nested": oci_index([multi, oci_image("extra", platform="windows/amd64")]),
        "schema2": schema2[0],
        "list": docker_list(schema2),
        "artifact": artifact("thing"),
        fallback_tag(multi.digest): fallback_index([sbom]),
        cosign_tag(multi.digest): cosign_signature(multi),
    }


def push_everything(to: Namespace, name: str = "app") -> dict[str, Manifest]:
    content = some_of_everything()
    for tag, manifest in content.items():
        to.push(name, manifest, tag)
    return content


def test_the_same_seed_makes_the_same_content_and_another_seed_does_not() -> None:
    assert {tag: m.digest for tag, m in some_of_everything().items()} == {
        tag: m.digest for tag, m in some_of_everything().items()
    }
    assert oci_image("one").digest != oci_image("two").digest
    assert blob("x", size=17 * 1024 * 1024).size == 17 * 1024 * 1024


def test_a_graph_is_walked_children_first_and_once() -> None:
    child = oci_image("app")
    nested = oci_index([oci_index([child]), child])
    assert [m.digest for m in nested.walk()] == [child.digest, nested.children[0].digest, nested.digest]


def test_everything_pushed_is_read_back_byte_for_byte(source: Namespace) -> None:
    content = push_everything(source)
    read = source.read("app")
    assert read.tags == {tag: manifest.digest for tag, manifest in content.items()}
    assert set(read.manifests) == {part.digest for manifest in content.values() for part in manifest.walk()}
    assert read.blobs == {d: b.size for manifest in content.values() for d, b in manifest.all_blobs().items()}


def test_a_difference_between_two_repositories_is_told(source: Namespace, destination: Namespace) -> None:
    push_everything(source)
    push_everything(destination)
    pair = [(source.repository("app"), destination.repository("app"))]
    assert differences(source.client, destination.client, repositories=pair) == []
    destination.push("app", oci_image("another"), "plain")
    assert any("tags: plain" in line for line in differences(source.client, destination.client, repositories=pair))


def test_a_namespace_is_a_tests_own(source: Namespace, destination: Namespace) -> None:
    assert source.prefix != destination.prefix
    assert source.host != destination.host
    assert source.reference("app", "v1") == f"{source.host}/{source.prefix}/app:v1"
    assert source.reference("app", f"sha256:{'0' * 64}").endswith(f"app@sha256:{'0' * 64}")
    assert source.tags("app") == {}


def test_a_catalog_page_is_capped_and_all_pages_are_read(start_registry: StartRegistry) -> None:
    registry = start_registry(RegistryOptions(catalog_page_cap=2))
    with PlainClient.of(registry) as client:
        names = [f"team/app{number}" for number in range(5)]
        for name in names:
            client.push(name, artifact("thing"), tags=["v1"])
        assert len(client.http.get("/v2/_catalog?n=2").json()["repositories"]) == 2
        assert client.list_repositories() == names


def test_basic_auth_wants_the_password(start_registry: StartRegistry) -> None:
    registry = start_registry(RegistryOptions(users={"ann": "secret"}))
    with PlainClient.of(registry) as client:
        client.push("app", oci_image("app"), tags=["v1"])
        assert client.list_tags("app") == ["v1"]
    with (
        PlainClient.of(registry, account=("ann", "wrong")) as client,
        pytest.raises(httpx.HTTPStatusError, match="401"),
    ):
        client.list_tags("app")


def test_token_auth_gives_a_token_for_a_scope_and_counts_it(start_registry: StartRegistry) -> None:
    reader = Account("readonly", {"team/*": frozenset({"pull"})}, catalog=False)
    with TokenServer({"ann": Account("secret"), "bob": reader}) as tokens:
        registry = start_registry(RegistryOptions(token_server=tokens))
        with PlainClient.of(registry, account=("ann", "secret")) as ann:
            ann.push("team/app", oci_image("app"), tags=["v1"])
            assert ann.list_repositories() == ["team/app"]
        assert tokens.issued[0].account == "ann"
        assert "registry:catalog:*" in tokens.issued[-1].scopes
        with PlainClient.of(registry, account=("bob", "readonly")) as bob:
            assert bob.list_tags("team/app") == ["v1"]
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                bob.push("team/app", oci_image("other"), tags=["v2"])
        with PlainClient.of(registry, account=("ann", "wrong")) as stranger, pytest.raises(httpx.HTTPStatusError):
            stranger.list_tags("team/app")
        assert tokens.refused == 1


def test_a_token_ends_when_it_says(start_registry: StartRegistry) -> None:
    with TokenServer(anonymous={"*": frozenset({"pull"})}, expires_seconds=1) as tokens:
        registry = start_registry(RegistryOptions(token_server=tokens))
        token = tokens.issue("", ("repository:app:pull",))
        ask = httpx.Request("GET", f"{registry.url}/v2/app/tags/list", headers={"Authorization": f"Bearer {token}"})
        with httpx.Client() as client:
            assert client.send(ask).status_code == 404
            sleep(2)
            assert client.send(ask).status_code == 401


def test_an_identity_token_is_taken_in_place_of_a_password() -> None:
    with TokenServer({"ann": Account("secret", identity_token="of ann")}) as tokens, httpx.Client() as client:
        form = {
            "grant_type": "refresh_token",
            "service": "registry.test",
            "client_id": "t",
            "scope": "repository:a:pull",
        }
        good = client.post(tokens.realm, data={**form, "refresh_token": "of ann"})
        assert good.json()["access_token"]
        assert tokens.issued[0].scopes == ("repository:a:pull",)
        assert client.post(tokens.realm, data={**form, "refresh_token": "of bob"}).status_code == 401


async def test_a_tls_registry_is_trusted_through_its_own_authority_only() -> None:
    async with run_registry(RegistryOptions(tls=True)) as registry:
        assert registry.url.startswith("https://")
        async with httpx.AsyncClient(verify=registry.verify) as client:
            assert (await client.get(f"{registry.url}/v2/")).status_code == 200
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{registry.url}/v2/")


def test_a_registry_killed_and_started_again_keeps_its_port_and_content(start_registry: StartRegistry) -> None:
    registry = start_registry(RegistryOptions())
    host = registry.host
    with PlainClient.of(registry) as client:
        client.push("app", oci_image("app"), tags=["v1"])
        registry.kill()
        with pytest.raises(httpx.ConnectError):
            client.list_tags("app")
        registry.start()
        assert registry.host == host
        assert client.list_tags("app") == ["v1"]
    folder = registry.folder
    registry.close()
    assert not folder.exists()


def test_relative_urls_are_an_option(start_registry: StartRegistry) -> None:
    registry = start_registry(RegistryOptions(relative_urls=True))
    with PlainClient.of(registry) as client:
        assert client.http.post("/v2/app/blobs/uploads/").headers["Location"].startswith("/v2/")
        client.push("app", oci_image("app"), tags=["v1"])


def test_foreign_layers_are_named_and_not_pushed(start_registry: StartRegistry) -> None:
    registry = start_registry(RegistryOptions(allowed_foreign_urls=("^https://example.com/",)))
    foreign = blob("base", media_type=DOCKER_FOREIGN_LAYER, urls=["https://example.com/base"])
    image = docker_image("windows", platform="windows/amd64", layers=[foreign, blob("top")])
    with PlainClient.of(registry) as client:
        client.push("app", image, tags=["v1"])
        assert not client.has_blob("app", foreign.digest)
        assert foreign.digest not in client.read("app").blobs


def test_what_a_registry_was_asked_is_in_its_access_log(start_registry: StartRegistry) -> None:
    registry = start_registry(RegistryOptions())
    with PlainClient.of(registry) as client:
        client.push("app", oci_image("app"), tags=["v1"])
    wait_for(lambda: any(line.path == "/v2/app/manifests/v1" for line in registry.access_log()))
    lines = [line for line in registry.access_log() if line.path == "/v2/app/manifests/v1"]
    assert [(line.method, line.status) for line in lines] == [("PUT", 201)]


def test_deleting_is_an_option(start_registry: StartRegistry) -> None:
    for enabled in (True, False):
        registry = start_registry(RegistryOptions(delete_enabled=enabled))
        with PlainClient.of(registry) as client:
            digest = client.push("app", oci_image("app"))
            if enabled:
                client.delete_manifest("app", digest)
                assert client.digest("app", digest) is None
            else:
                with pytest.raises(httpx.HTTPStatusError, match="405"):
                    client.delete_manifest("app", digest)


def test_a_push_is_notified(start_registry: StartRegistry, inbox: "Inbox") -> None:
    endpoint = NotificationEndpoint(url=inbox.url, headers={"Authorization": "Bearer of-the-hook"})
    registry = start_registry(RegistryOptions(notifications=(endpoint,)))
    with PlainClient.of(registry) as client:
        digest = client.push("team/app", oci_image("app"), tags=["v1"])
    wait_for(lambda: any(event["target"].get("tag") == "v1" for event in inbox.events))
    event = next(event for event in inbox.events if event["target"].get("tag") == "v1")
    assert (event["action"], event["target"]["repository"], event["target"]["digest"]) == ("push", "team/app", digest)
    assert inbox.authorizations == {"Bearer of-the-hook"}


async def test_each_test_has_an_empty_postgres_database(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE left_behind (id int)"))
        names = await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        assert names.all() == ["left_behind"]
    await engine.dispose()


def test_a_database_is_copied_from_a_template(postgres_server: PostgresServer) -> None:
    template = postgres_server.create_database(name="template_of_support")
    postgres_server.execute("CREATE TABLE kept (id int)", database=template.name)
    copy = postgres_server.create_database(template=template.name)
    assert postgres_server.execute("SELECT count(*) FROM kept", database=copy.name) == "0"
    for database in (copy, template):
        postgres_server.drop_database(database.name)


def test_a_durable_postgres_survives_a_kill_on_the_same_port() -> None:
    with PostgresServer(durable=True) as server:
        port = server.port
        server.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        with pytest.raises(RuntimeError, match="refused"):
            server.execute("SELECT 1")
        server.start()
        assert server.port == port
        assert server.execute("SELECT answer FROM kept") == "42"
        server.stop()
        server.start()
        assert server.execute("SHOW fsync") == "on"
    assert not server.folder.exists()


def test_the_clock_moves_only_when_told(clock: SettableClock) -> None:
    before = clock.now()
    assert clock() == before
    assert (clock.advance(90) - before).total_seconds() == 90
    clock.set(datetime(2031, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2031
    with pytest.raises(ValueError, match="aware"):
        clock.set(datetime(2031, 1, 1))  # noqa: DTZ001 — the naive one is the point


class Inbox:
    """Where a registry's notifications arrive."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.authorizations.add(self.headers["Authorization"])
                owner.events.extend(body["events"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the base class names it so
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    thread = Thread(target=inbox.server.serve_forever, args=(0.05,))
    thread.start()
    yield inbox
    inbox.server.shutdown()
    inbox.server.server_close()
    thread.join()


def wait_for(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "waited in vain"
        sleep(0.02)
