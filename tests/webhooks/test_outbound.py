"""Sending on real sockets: where it may go, what becomes of odd answers, how long it takes at most."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from app.domain.dead_letter import AttemptOutcome
from app.net.address_guard import AddressRules
from app.webhooks.outbound import Outbound
from tests.support.certificates import make_server_certificate
from tests.support.receiver import Answer, Receiver

HERE = "127.0.0.1"
NOW = datetime.now(UTC)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """Return a sender that may go to this machine."""
    made = Outbound(AddressRules(), private_hosts=[HERE, "localhost"], attempt_seconds=5)
    yield made
    await made.aclose()


async def send(outbound: Outbound, url: str) -> AttemptOutcome:
    return await outbound.send(url, '{"a": "ü"}', {"webhook-id": "msg_1"}, now=NOW)


async def test_what_is_sent_arrives_byte_for_byte(receiver: Receiver, outbound: Outbound) -> None:
    outcome = await send(outbound, receiver.url("/hook/a?b=c%20d"))
    request = receiver.wait_for_one()
    assert outcome == AttemptOutcome(status=204)
    assert (request.method, request.path, request.body) == ("POST", "/hook/a?b=c%20d", '{"a": "ü"}'.encode())
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["host"] == f"{HERE}:{receiver.port}"
    assert "cookie" not in request.headers


async def test_an_address_that_has_no_path_is_its_root(receiver: Receiver, outbound: Outbound) -> None:
    await send(outbound, receiver.url(""))
    assert receiver.wait_for_one().path == "/"


async def test_a_redirect_is_not_followed(receiver: Receiver, outbound: Outbound) -> None:
    receiver.answers["/hook"] = Answer(307, {"Location": receiver.url("/elsewhere")})
    assert (await send(outbound, receiver.url())).reason == "redirected"
    assert [request.path for request in receiver.received] == ["/hook"]


async def test_an_answer_without_end_is_not_read(receiver: Receiver, outbound: Outbound) -> None:
    receiver.answer = Answer(200, is_endless=True)
    async with asyncio.timeout(4):
        assert await send(outbound, receiver.url()) == AttemptOutcome(status=200)


async def test_silence_ends_the_attempt(receiver: Receiver) -> None:
    receiver.may_answer.clear()
    outbound = Outbound(AddressRules(), private_hosts=[HERE], attempt_seconds=0.2)
    assert await send(outbound, receiver.url()) == AttemptOutcome(error="timeout")


async def test_a_head_that_trickles_ends_the_attempt() -> None:
    ended = asyncio.Event()

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X-Filler: 1\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            writer.close()
            ended.set()

    server = await asyncio.start_server(trickle, HERE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outbound = Outbound(AddressRules(), private_hosts=[HERE], attempt_seconds=0.5)
        assert await send(outbound, f"http://{HERE}:{port}/") == AttemptOutcome(error="timeout")
        await ended.wait()


async def test_what_does_not_speak_http_is_unreachable(outbound: Outbound) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP secret-banner\r\n")
        writer.close()

    server = await asyncio.start_server(babble, HERE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await send(outbound, f"http://{HERE}:{port}/") == AttemptOutcome(error="unreachable")


async def test_a_closed_port_and_an_unknown_name_are_unreachable(outbound: Outbound) -> None:
    with Receiver() as gone:
        url = gone.url()
    assert await send(outbound, url) == AttemptOutcome(error="unreachable")
    assert await send(outbound, "https://nobody.invalid/") == AttemptOutcome(error="unreachable")


@pytest.mark.parametrize(
    "value", ["120", format_datetime(NOW + timedelta(seconds=120), usegmt=False)], ids=["seconds", "date"]
)
async def test_a_wish_to_wait_is_heard(receiver: Receiver, outbound: Outbound, value: str) -> None:
    receiver.answer = Answer(503, {"Retry-After": value})
    outcome = await send(outbound, receiver.url())
    assert outcome.status == 503
    assert outcome.retry_after_seconds == pytest.approx(120, abs=1)


@pytest.mark.parametrize("value", ["", "soon", "-5", "nan", "inf", "1e999"])
async def test_a_wish_that_is_none_is_left_aside(receiver: Receiver, outbound: Outbound, value: str) -> None:
    receiver.answer = Answer(503, {"Retry-After": value})
    assert (await send(outbound, receiver.url())).retry_after_seconds is None


@pytest.mark.parametrize(
    "url",
    [
        "http://{here}/",
        "https://{here}/",
        "https://localhost:{port}/",
        "https://[::1]:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://0x7f000001:{port}/",
        "https://2130706433:{port}/",
        "https://127.1:{port}/",
        "http://example.com/",
    ],
)
async def test_nothing_private_is_reached_unless_the_settings_allow_it(receiver: Receiver, url: str) -> None:
    outbound = Outbound(AddressRules())
    address = url.format(here=f"{HERE}:{receiver.port}", port=receiver.port)
    assert await send(outbound, address) == AttemptOutcome(error="address_refused")
    assert receiver.received == []


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/meta-data", "http://metadata.google.internal/", "http://[fe80::1]/"]
)
async def test_metadata_services_are_never_reached_whatever_the_settings_say(url: str) -> None:
    outbound = Outbound(AddressRules(), private_hosts=["*"])
    assert outbound.refusal(url) is not None
    assert await send(outbound, url) == AttemptOutcome(error="address_refused")


async def test_a_name_is_allowed_by_its_pattern_and_no_other(receiver: Receiver) -> None:
    outbound = Outbound(AddressRules(), private_hosts=["local*"])
    assert (await send(outbound, receiver.url(host="localhost"))).is_taken
    assert await send(outbound, receiver.url()) == AttemptOutcome(error="address_refused")


async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    files = make_server_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate_file, files.key_file)
    trusting = ssl.create_default_context(cafile=str(files.ca_file))
    with Receiver(tls=tls) as receiver:
        strict, friend = (Outbound(AddressRules(), private_hosts=[HERE], tls=context) for context in (None, trusting))
        assert await send(strict, receiver.url()) == AttemptOutcome(error="tls_error")
        assert (await send(friend, receiver.url())).is_taken
        await strict.aclose()
        await friend.aclose()
