"""An issuer's keys are fetched when a token needs them, seldom, and a sender waits for them only briefly."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from app.domain.errors import UnavailableError
from app.net.address_guard import AddressRules
from app.webhooks.google_keys import REFRESH_SECONDS, GoogleKeys

KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048).public_key().public_numbers()


def encoded(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(256 if number > 65_537 else 3, "big")).decode().rstrip("=")


def token(kid: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": kid}).encode()).decode().rstrip("=")
    return f"{header}.e30.c2ln"


class Issuer:
    """An issuer on a loopback port; it hands out the keys it is told to, when it is let."""

    def __init__(self) -> None:
        self.kids = ["first"]
        self.answers = asyncio.Event()
        self.answers.set()
        self.requests = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Issuer"]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self
            self.answers.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        self.requests += 1
        await self.answers.wait()
        document: object = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        if path == b"/keys":
            document = {
                "keys": [{"kty": "RSA", "kid": kid, "n": encoded(KEY.n), "e": encoded(KEY.e)} for kid in self.kids]
            }
        body = json.dumps(document).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer().running() as issuer:
        yield issuer


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def writing(monotonic: Callable[[], float]) -> AsyncIterator[GoogleKeys]:
    keys = GoogleKeys(AddressRules(), monotonic=monotonic)
    yield keys
    await keys.aclose()


async def test_keys_are_fetched_once_for_all_who_need_them(issuer: Issuer) -> None:
    async with writing(Seconds()) as keys:
        found = await asyncio.gather(*(keys.find(token("first"), issuer=issuer.url) for _ in range(20)))
        assert all("first" in known for known in found)
        await keys.find(token("first"), issuer=issuer.url)
        assert issuer.requests == 2


async def test_a_key_that_is_new_is_asked_for_but_not_each_time_one_is_made_up(issuer: Issuer) -> None:
    seconds = Seconds()
    async with writing(seconds) as keys:
        await keys.find(token("first"), issuer=issuer.url)
        issuer.kids = ["first", "second"]
        for made_up in range(10):
            assert "second" not in await keys.find(token(f"x{made_up}"), issuer=issuer.url)
        assert issuer.requests == 2
        seconds.now += REFRESH_SECONDS
        assert "second" in await keys.find(token("second"), issuer=issuer.url)


async def test_a_sender_is_told_to_come_again_while_keys_take_long_and_finds_them_then(issuer: Issuer) -> None:
    async with writing(Seconds()) as keys:
        issuer.answers.clear()
        with pytest.raises(UnavailableError):
            await keys.find(token("first"), issuer=issuer.url)
        issuer.answers.set()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert "first" in await keys.find(token("first"), issuer=issuer.url)
                    break
                except UnavailableError:
                    await asyncio.sleep(0.01)


async def test_an_issuer_that_is_not_there_is_no_reason_to_let_anyone_in() -> None:
    async with writing(Seconds()) as keys:
        with pytest.raises(UnavailableError):
            await keys.find(token("first"), issuer="http://127.0.0.1:9")
        assert await keys.find("no token", issuer="http://127.0.0.1:9") == {}


async def test_metadata_services_are_no_issuers() -> None:
    async with writing(Seconds()) as keys:
        with pytest.raises(UnavailableError):
            await keys.find(token("first"), issuer="http://169.254.169.254")
