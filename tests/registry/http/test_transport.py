"""What lies below a request: TLS, client certificates, proxies, addresses, and errors in the contract's words."""

import asyncio
import gc
import json
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import RegistryError
from app.domain.reference import Digest, Registry, Repository, Tag
from app.domain.registry import RegistryEntry
from app.registry.client import ClientPool, RegistryClient
from app.registry.http.error_body import clean
from app.registry.http.host_trust import HostTrust
from app.registry.http.tls import make_context
from app.registry.limits import REQUEST_RETRIES
from tests.registry.conftest import Connect, basic, descriptor, parsed, pieces, upload
from tests.support.certificates import KeyPair, ServerCertificate, make_authority, make_server_certificate
from tests.support.fake_registry import Cut, Quirks, Respond, fake_registry, on
from tests.support.images import blob, oci_image

IMAGE, LAYER = oci_image("app"), blob("layer", size=2_000_000)
V1 = Tag("v1")


def client_of(pool: ClientPool, **fields: Any) -> RegistryClient:
    entry = RegistryEntry.model_validate({"name": "registry", **fields})
    return pool.clients((entry,)).for_registry(entry.registry)


class TestTls:
    """Certificates of registries, and our own."""

    async def test_an_own_authority_is_trusted(self, connect: Connect) -> None:
        async with fake_registry(Quirks(auth="token", blob_redirect="storage"), tls=True) as registry:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry, auth=basic())
            assert await client.head_manifest("team/app", V1)
            await upload(client, "team/app", LAYER)
            async with client.open_blob("team/app", descriptor(LAYER)) as reader:
                assert b"".join([part async for part in reader]) == LAYER.data

    @pytest.mark.parametrize("tls", [{}, {"ca": "OTHER"}])
    async def test_a_certificate_of_nobody_known_is_refused(self, connect: Connect, tls: dict[str, str]) -> None:
        if tls:
            tls = {"ca": make_authority("another").certificate_pem().decode()}
        async with fake_registry(tls=True) as registry:
            with pytest.raises(RegistryError, match="certificate") as refusal:
                await connect(registry, tls=tls).head_manifest("team/app", V1)
            assert (refusal.value.code, refusal.value.temporary) == ("tls_error", False)

    async def test_the_registrys_own_certificate_may_stand_for_its_authority(
        self, pool: ClientPool, tmp_path: Path
    ) -> None:
        files = make_server_certificate(tmp_path, authority=make_authority())
        async with _certificates_wanted(files, make_authority("nobody")) as server:
            pinned = files.certificate_file.read_text()
            client = client_of(pool, host=f"127.0.0.1:{server.port}", tls={"ca": pinned})
            assert await client.has_blob("team/app", descriptor(blob("small", size=5)))

    def test_how_strictly_certificates_are_read_is_no_matter_of_pythons_version(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = ssl.create_default_context

        def strict() -> ssl.SSLContext:  # as of Python 3.13
            context = plain()
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            return context

        monkeypatch.setattr(ssl, "create_default_context", strict)
        own = {"ca": make_authority("own").certificate_pem().decode()}
        entry = RegistryEntry.model_validate({"name": "r", "host": "registry.example.com", "tls": own})
        assert not make_context(entry, HostTrust.HOME).verify_flags & ssl.VERIFY_X509_STRICT

    async def test_the_check_can_be_left_out(self, connect: Connect) -> None:
        async with fake_registry(tls=True) as registry:
            assert await connect(registry, tls={"verify": False}).head_manifest("team/app", V1) is None

    def test_a_strangers_certificate_is_always_checked(self) -> None:
        entry = RegistryEntry.model_validate({"name": "r", "host": "registry.example.com", "tls": {"verify": False}})
        modes = {trust: make_context(entry, trust).verify_mode for trust in HostTrust}
        assert modes == {
            HostTrust.HOME: ssl.CERT_NONE,
            HostTrust.KNOWN: ssl.CERT_NONE,
            HostTrust.STRANGER: ssl.CERT_REQUIRED,
        }

    def test_entries_with_the_same_settings_share_a_context_for_as_long_as_one_of_them_needs_it(self) -> None:
        authorities = [make_authority(name).certificate_pem().decode() for name in ("one", "other")]
        one, same, other = (
            RegistryEntry.model_validate({"name": name, "host": f"{name}.example.com", "tls": {"ca": ca}})
            for name, ca in zip("abc", (authorities[0], *authorities), strict=True)
        )
        contexts = [make_context(entry, HostTrust.HOME) for entry in (one, same, other)]
        assert contexts[0] is contexts[1]
        assert contexts[0] is make_context(one, HostTrust.STRANGER)
        assert contexts[0] is not contexts[2]
        gone = weakref.ref(contexts[2])
        del contexts
        gc.collect()
        assert gone() is None

    async def test_plain_http_is_spoken_only_where_the_entry_says_insecure(self, connect: Connect) -> None:
        async with fake_registry() as registry:
            with pytest.raises(RegistryError) as refusal:
                await connect(registry, insecure=False).head_manifest("team/app", V1)
            assert refusal.value.code == "tls_error"
            assert "set insecure" in refusal.value.message
            assert "--insecure on the command line" in refusal.value.message
            assert len(registry.journal) == 0

    @pytest.mark.parametrize("tls", [{"ca": "no PEM"}, {"client_certificate": "no PEM", "client_key": "none"}])
    async def test_settings_that_are_none_are_a_coded_error(self, pool: ClientPool, tls: dict[str, str]) -> None:
        client = client_of(pool, host="127.0.0.1:1", tls=tls)
        with pytest.raises(RegistryError) as refusal:
            await client.head_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.temporary) == ("tls_error", False)

    async def test_a_client_certificate_is_shown_to_the_registry_alone(self, pool: ClientPool, tmp_path: Path) -> None:
        authority, shown = make_authority(), make_authority("our own")
        files = make_server_certificate(tmp_path, authority=authority)
        async with _certificates_wanted(files, shown) as storage, _certificates_wanted(files, shown) as home:
            home.redirect_to = storage.port
            client = client_of(
                pool,
                host=f"127.0.0.1:{home.port}",
                tls={
                    "ca": authority.certificate_pem().decode(),
                    "client_certificate": shown.certificate_pem().decode(),
                    "client_key": shown.key_pem().decode(),
                },
            )
            small = blob("small", size=5)
            async with client.open_blob("team/app", descriptor(small)) as reader:
                assert [part async for part in reader]
            assert home.shown == {True}
            assert storage.shown == {False}


class TestProxy:
    """A proxy that was entered, and those that were not."""

    async def test_https_goes_through_a_tunnel(self, connect: Connect) -> None:
        async with fake_registry(Quirks(auth="token"), tls=True) as registry, _proxy() as proxy:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry, auth=basic(), proxy=f"http://me:pass@127.0.0.1:{proxy.port}")
            assert await client.head_manifest("team/app", V1)
            await upload(client, "team/app", LAYER)
            assert all(line.startswith(b"CONNECT 127.0.0.1:") for line in proxy.lines)
            assert proxy.authorizations == {b"Basic bWU6cGFzcw=="}

    async def test_http_goes_through_by_whole_urls(self, connect: Connect) -> None:
        # The proxy of this test rewrites one request a connection.
        async with fake_registry(Quirks(closes_connections=True)) as registry, _proxy() as proxy:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry, proxy=f"http://127.0.0.1:{proxy.port}")
            assert await client.head_manifest("team/app", V1)
            assert f"HEAD http://{registry.host}/v2/team/app/manifests/v1 HTTP/1.1".encode() in proxy.lines

    async def test_a_proxy_does_not_open_the_way_to_metadata(self, pool: ClientPool) -> None:
        async with _proxy() as proxy:
            for host in ("169.254.169.254", "metadata.google.internal"):
                client = client_of(pool, name=host, host=host, insecure=True, proxy=f"http://127.0.0.1:{proxy.port}")
                with pytest.raises(RegistryError) as refusal:
                    await client.head_manifest("team/app", V1)
                assert refusal.value.code == "host_not_allowed"
            assert proxy.lines == []

    @pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "localhost.", "vault", "10.0.0.1.nip.io"])
    async def test_a_redirect_behind_a_proxy_leads_to_no_place_inside(self, connect: Connect, host: str) -> None:
        async with fake_registry(Quirks(closes_connections=True)) as registry, _proxy() as proxy:
            registry.faults.add(Respond(307, (("Location", f"http://{host}/x"),)), matching=on("manifest"), times=None)
            client = connect(registry, proxy=f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(RegistryError) as refusal:
                await client.get_manifest("team/app", V1)
            assert refusal.value.code == "host_not_allowed"
            assert not [line for line in proxy.lines if host.encode() in line]

    async def test_a_proxy_that_refuses_is_told_from_the_registry(self, pool: ClientPool) -> None:
        async with _proxy(answer=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
            client = client_of(pool, host="127.0.0.1:1", proxy=f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(RegistryError, match="proxy") as refusal:
                await client.head_manifest("team/app", V1)
            assert refusal.value.code == "registry_unreachable"

    async def test_docker_hubs_repositories_are_asked_of_its_api(self, pool: ClientPool) -> None:
        async with _proxy(answer=b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy:
            client = client_of(pool, host="docker.io", proxy=f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(RegistryError):
                [path async for path in client.list_repositories("library")]
            assert set(proxy.lines) == {b"CONNECT hub.docker.com:443 HTTP/1.1"}

    async def test_proxies_of_the_environment_are_not_used(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        async with fake_registry() as registry:
            registry.load("team/app", IMAGE, "v1")
            assert await connect(registry).head_manifest("team/app", V1)


class TestAddresses:
    """Hosts that were entered, and hosts that were not."""

    async def test_an_unregistered_host_must_be_public(self, pool: ClientPool) -> None:
        async with fake_registry(tls=True) as registry:
            client = pool.clients(()).for_repository(Repository(Registry(registry.host), "team/app"))
            assert not client.entry.is_registered
            with pytest.raises(RegistryError) as refusal:
                await client.head_manifest("team/app", V1)
            assert (refusal.value.code, refusal.value.temporary) == ("host_not_allowed", False)
            assert len(registry.journal) == 0

    @pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.0:80"])
    async def test_a_registered_metadata_address_is_not_reached(self, pool: ClientPool, host: str) -> None:
        client = client_of(pool, host=host, insecure=True)
        with pytest.raises(RegistryError) as refusal:
            await client.head_manifest("team/app", V1)
        assert refusal.value.code == "host_not_allowed"

    async def test_ipv6_registries_are_reached(self, pool: ClientPool) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert f"host: [::1]:{port}".encode() in head.lower()
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "::1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            client = client_of(pool, host=f"[::1]:{port}", insecure=True)
            assert await client.head_manifest("team/app", V1) is None
        finally:
            server.close()


class TestErrors:
    """What happens on the way, in the contract's codes; what a stranger says, made fit to be shown."""

    async def test_a_registry_that_is_not_there_is_unreachable(self, pool: ClientPool) -> None:
        client = client_of(pool, host="127.0.0.1:1", insecure=True)
        with pytest.raises(RegistryError, match="refused") as refusal:
            await client.head_manifest("team/app", V1)
        error = refusal.value
        assert error.message.count("127.0.0.1") == 1  # as its name, not as what it resolved to
        assert (error.code, error.temporary, error.status) == ("registry_unreachable", True, None)
        assert (error.registry, error.operation) == ("127.0.0.1:1", "log_in")

    async def test_a_name_that_is_none_is_not_tried_again(self, pool: ClientPool) -> None:
        client = client_of(pool, host="registry.invalid")
        with pytest.raises(RegistryError) as refusal:
            await client.head_manifest("team/app", V1)
        assert refusal.value.code == "registry_unreachable"

    @pytest.mark.parametrize("body", ["html", "empty", "text", "huge"])
    @pytest.mark.parametrize(("status", "code"), [(403, "denied"), (404, "reference_not_found")])
    async def test_an_error_may_carry_any_body(self, connect: Connect, body: Any, status: int, code: str) -> None:
        async with fake_registry(Quirks(error_body=body, missing_manifest_status=status)) as registry:
            with pytest.raises(RegistryError) as refusal:
                await connect(registry).get_manifest("team/app", V1)
            assert refusal.value.code == code
            assert len(refusal.value.message) < 700
            assert refusal.value.message.isprintable()

    @pytest.mark.parametrize("status", [408, 499, 500, 502, 503, 504, 520, 522, 524])
    async def test_what_may_pass_is_tried_again(self, connect: Connect, status: int) -> None:
        async with fake_registry() as registry:
            registry.load("team/app", IMAGE, "v1")
            registry.faults.add(Respond(status), matching=on("manifest"), times=2)
            assert (await connect(registry).get_manifest("team/app", V1)).digest == IMAGE.digest

    @pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 418, 422, 505])
    async def test_what_will_not_pass_is_not_tried_again(self, connect: Connect, status: int) -> None:
        async with fake_registry() as registry:
            registry.load("team/app", IMAGE, "v1")
            registry.faults.add(Respond(status), matching=on("manifest"), times=None)
            with pytest.raises(RegistryError) as refusal:
                await connect(registry).get_manifest("team/app", V1)
            assert not refusal.value.temporary
            assert registry.journal.count("manifest") == 1

    async def test_trying_again_ends(self, connect: Connect) -> None:
        async with fake_registry() as registry:
            registry.faults.add(Cut(), matching=on("manifest"), times=None)
            with pytest.raises(RegistryError) as refusal:
                await connect(registry).get_manifest("team/app", V1)
            assert (refusal.value.code, refusal.value.temporary) == ("registry_unreachable", True)
            assert registry.journal.count("manifest") == REQUEST_RETRIES.attempts

    async def test_while_nobody_answers_one_try_is_enough(self, connect: Connect) -> None:
        async with fake_registry() as registry:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry)
            down = registry.faults.add(Cut(), matching=on("manifest"), times=None)
            for tries in (REQUEST_RETRIES.attempts, 1, 1):
                mark = registry.journal.mark()
                with pytest.raises(RegistryError):
                    await client.get_manifest("team/app", V1)
                assert registry.journal.count("manifest", since=mark) == tries
            registry.faults.clear()
            assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
            registry.faults.add(Cut(), matching=on("manifest"), times=2)
            assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
            assert down.met == (REQUEST_RETRIES.attempts or 0) + 2

    async def test_a_warning_is_told_once(self, connect: Connect) -> None:
        async with fake_registry(Quirks(warning='299 - "this registry closes on Friday"')) as registry:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry)
            with structlog.testing.capture_logs() as events:
                for _ in range(3):
                    await client.head_manifest("team/app", V1)
            assert [event["warning"] for event in events if event["event"] == "registry_warned"] == [
                "this registry closes on Friday"
            ]

    async def test_a_registrys_words_are_shown_without_secrets(self, connect: Connect) -> None:
        message = (
            "see https://blobs.example/x?X-Amz-Signature=abcdef&sig=1 \x1b[31m\r\nSet-Cookie: x "
            "Authorization: Bearer eyJhbGciOi.eyJzdWIi.c2ln \u202eevil" + "z" * 5000
        )
        async with fake_registry() as registry:
            body = json.dumps({"errors": [{"code": "DEN\nIED", "message": message}]}).encode()
            registry.faults.add(Respond(403, body=body), matching=on("manifest"))
            with pytest.raises(RegistryError) as refusal:
                await connect(registry).get_manifest("team/app", V1)
            shown = refusal.value.message
            assert "https://blobs.example/x " in shown
            for secret in ("X-Amz", "sig=1", "eyJ", "\x1b", "\n", "\u202e"):
                assert secret not in shown
            assert len(shown) < 700
            assert refusal.value.spec_codes == ("DENIED",)

    @given(st.text(max_size=300))
    def test_any_text_becomes_one_line(self, text: str) -> None:
        shown = clean(text)
        assert "\n" not in shown
        assert "\x1b" not in shown
        assert "\r" not in shown

    async def test_a_write_is_redirected_within_the_registry_only(self, connect: Connect) -> None:
        async with fake_registry(Quirks(auth="basic"), hostnames={"stranger": "localhost"}) as registry:
            registry.load("team/app", IMAGE)
            client = connect(registry, auth=basic())
            here = (("Location", "/v2/team/app/manifests/v2"),)
            registry.faults.add(Respond(308, here), matching=on("manifest", method="PUT"))
            await client.put_manifest("team/app", V1, parsed(IMAGE))
            assert set(registry.content.tags("team/app")) == {"v2"}
            there = (("Location", f"{registry.urls['stranger']}/v2/team/app/manifests/v1"),)
            registry.faults.add(Respond(308, there), matching=on("manifest", method="PUT"))
            with pytest.raises(RegistryError) as refusal:
                await client.put_manifest("team/app", V1, parsed(IMAGE))
            assert refusal.value.status == 308
            registry.faults.add(Respond(307, here), matching=on("upload_close"))
            session = await client.start_upload("team/app", descriptor(LAYER))
            with pytest.raises(RegistryError):
                await session.send(pieces(LAYER.data), size=LAYER.size, digest=Digest(LAYER.digest))
            await session.cancel()
            assert registry.journal.count(origin="stranger") == 0

    async def test_an_early_refusal_of_a_body_is_heard(self, connect: Connect) -> None:
        large = blob("large", size=32 * 1024 * 1024)
        async with fake_registry(Quirks(body_limit_bytes=1024 * 1024, early_refusals=True)) as registry:
            client = connect(registry)
            session = await client.start_upload("team/app", descriptor(large))

            with pytest.raises(RegistryError) as refusal:
                await session.send(pieces(large.data), size=large.size, digest=Digest(large.digest))
            assert (refusal.value.code, refusal.value.status, refusal.value.temporary) == ("upload_failed", 413, True)
            await session.cancel()


async def test_stale_connections_are_replaced(connect: Connect) -> None:
    async with fake_registry(Quirks()) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry)
        assert await client.head_manifest("team/app", V1)
        await registry.stop()
        await registry.start()
        assert await client.head_manifest("team/app", V1)
        await registry.stop()
        await registry.start()
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest


class _Listener:
    """A server of a test's own."""

    def __init__(self) -> None:
        self.port = 0
        self.redirect_to = 0
        self.shown: set[bool] = set()
        self.lines: list[bytes] = []
        self.authorizations: set[bytes] = set()


@asynccontextmanager
async def _serve(listener: _Listener, accept: Callable[..., Any], **options: Any) -> AsyncIterator[_Listener]:
    tasks: set[asyncio.Task[Any]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
                await accept(reader, writer)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, **options)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0)
        await server.wait_closed()


@asynccontextmanager
async def _certificates_wanted(files: ServerCertificate, known: KeyPair) -> AsyncIterator[_Listener]:
    """Run a server that notes who shows a certificate, and answers every GET with five bytes or a redirect."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate_file, files.key_file)
    context.load_verify_locations(cadata=known.certificate_pem().decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    listener = _Listener()
    small = blob("small", size=5)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            listener.shown.add(bool(writer.get_extra_info("peercert")))
            if listener.redirect_to and b"/blobs/" in head:
                location = f"https://127.0.0.1:{listener.redirect_to}/blob"
                writer.write(f"HTTP/1.1 307 There\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + small.data)
            await writer.drain()

    async with _serve(listener, accept, ssl=context):
        yield listener


@asynccontextmanager
async def _proxy(answer: bytes = b"") -> AsyncIterator[_Listener]:
    """Run an HTTP proxy: tunnels, and one plain request for each connection."""
    listener = _Listener()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        listener.lines.append(line)
        listener.authorizations |= {
            value.strip()
            for name, _, value in (one.partition(b":") for one in headers)
            if name.lower() == b"proxy-authorization"
        }
        if answer:
            writer.write(answer)
            await writer.drain()
            return
        method, target, _ = line.split(b" ")
        if method == b"CONNECT":
            host, _, port = target.decode().partition(":")
            out_reader, out_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            authority, slash, path = target.decode().removeprefix("http://").partition("/")
            host, _, port = authority.partition(":")
            out_reader, out_writer = await asyncio.open_connection(host, int(port))
            out_writer.write(head.replace(target, f"{slash}{path}".encode(), 1))
        try:
            await asyncio.gather(_pump(reader, out_writer), _pump(out_reader, writer))
        finally:
            out_writer.transport.abort()

    async with _serve(listener, accept):
        yield listener


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
