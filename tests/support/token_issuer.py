"""An OpenID Connect issuer on a loopback port: discovery, keys, and tokens with the claims a test wants."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
_EC = ec.generate_private_key(ec.SECP256R1())
_STRANGE = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
_KEYS = [
    {**RSAAlgorithm.to_jwk(_RSA.public_key(), as_dict=True), "kid": "r"},
    {**ECAlgorithm.to_jwk(_EC.public_key(), as_dict=True), "kid": "e"},
]


class TokenIssuerServer:
    """An issuer with an RSA key (`r`) and a P-256 key (`e`)."""

    def __init__(self) -> None:
        self.url = ""

    def token(self, *, algorithm: str = "RS256", kid: str = "r", key: Any = None, **claims: Any) -> str:
        """Sign a token for the audience `registry-sync`; a claim that is None is left out."""
        moment = int(time.time())
        usual = {"iss": self.url, "aud": "registry-sync", "sub": "repo:team/app", "iat": moment, "exp": moment + 300}
        given = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        signing = key or (_EC if kid == "e" else _RSA)
        # PyJWT itself would refuse to make some of what a test sends.
        return jwt.api_jws.encode(json.dumps(given).encode(), signing, algorithm=algorithm, headers={"kid": kid})

    def forged(self) -> str:
        """Sign with a key that is not the issuer's, under the name of one that is."""
        return self.token(key=_STRANGE)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        document: Any = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        body = json.dumps({"keys": _KEYS} if path == b"/keys" else document).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()


@asynccontextmanager
async def token_issuer() -> AsyncIterator[TokenIssuerServer]:
    """Run an issuer."""
    issuer = TokenIssuerServer()
    server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield issuer
