"""A registry that costs nothing: every tag exists in every repository, the same everywhere, so all is up to date.

    python -m tests.benchmarks.null_registry --repositories 50 --tags 200

It answers listings, those of ACR's own API too, and manifests as fast as Python can, so that what is measured is the
client and the job path. It listens on as many ports as it is told, each a registry of its own to whoever asks, and
counts requests at `/count`. With `--latency` every answer comes so many seconds later, as over a link.
"""

import argparse
import asyncio
import hashlib
import json
import re
import ssl
from collections.abc import Callable
from functools import lru_cache

_MANIFEST = re.compile(rb"/v2/.+/manifests/(?P<reference>[^/?]+)")
_TAGS = re.compile(rb"/v2/.+/tags/list")
_DIGESTS = re.compile(rb"/acr/v1/.+/_tags")
_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"


class NullRegistry(asyncio.Protocol):
    """One connection; requests have no bodies, answers are made from the path alone."""

    answered = 0
    """Of all connections together."""

    def __init__(self, catalog: bytes, tags: bytes, digests: bytes, latency: float) -> None:
        self._catalog = catalog
        self._tags = tags
        self._digests = digests
        self._latency = latency
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        assert self._transport is not None
        answers = [self._answer(head) for head in heads]
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._transport.writelines, answers)
        else:
            self._transport.writelines(answers)

    def _answer(self, head: bytes) -> bytes:
        method, target, _ = head.split(b" ", 2)
        path = target.partition(b"?")[0]
        if path == b"/count":
            return _json(str(NullRegistry.answered).encode())
        NullRegistry.answered += 1
        if manifest := _MANIFEST.fullmatch(path):
            found, body = _found(manifest["reference"])
            return found if method == b"HEAD" else found + body
        if path in {b"/v2/_catalog", b"/acr/v1/_catalog"}:
            return _json(self._catalog)
        if _TAGS.fullmatch(path):
            return _json(self._tags)
        if _DIGESTS.fullmatch(path):  # all on one page, however many there are
            return _json(b'{"tags": []}' if b"last=" in target else self._digests)
        return _json(b"{}")


@lru_cache(maxsize=200_000)
def _found(reference: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body for a manifest; one asked for by its digest is not what it says."""
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": _digest(reference), "size": 1_024}
    body = json.dumps({"schemaVersion": 2, "mediaType": _MEDIA_TYPE, "config": config, "layers": []}).encode()
    digest = f"Docker-Content-Digest: {_digest(body)}\r\n".encode()
    return _OK % (_MEDIA_TYPE.encode(), len(body), digest), body


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(body: bytes) -> bytes:
    return _OK % (b"application/json", len(body), b"") + body


async def serve(make: Callable[[], NullRegistry], *, ports: int, tls: ssl.SSLContext | None) -> None:
    """Serve on free loopback ports, print them in one line, and go on until ended."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(make, "127.0.0.1", 0, ssl=tls) for _ in range(ports)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repositories", type=int, default=50)
    parser.add_argument("--tags", type=int, default=200)
    parser.add_argument("--ports", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()
    names = [f"team-{number % 10}/service-{number}" for number in range(options.repositories)]
    catalog = json.dumps({"repositories": names}).encode()
    listed = [f"v1.{number}.0" for number in range(options.tags)]
    tags = json.dumps({"name": "any", "tags": listed}).encode()
    told = [{"name": tag, "digest": _digest(_found(tag.encode())[1])} for tag in listed]
    digests = json.dumps({"registry": "any", "imageName": "any", "tags": told}).encode()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    asyncio.run(serve(lambda: NullRegistry(catalog, tags, digests, options.latency), ports=options.ports, tls=tls))


if __name__ == "__main__":
    main()
