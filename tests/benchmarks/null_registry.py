"""A registry that costs nothing: every tag exists in every repository, the same everywhere, so all is up to date.

    python -m tests.benchmarks.null_registry --repositories 50 --tags 200

It answers listings and HEADs as fast as Python can, so that what is measured is the client and the job path.
"""

import argparse
import asyncio
import hashlib
import json
import re
from functools import lru_cache

_MANIFEST = re.compile(rb"/v2/.+/manifests/(?P<reference>[^/?]+)")
_TAGS = re.compile(rb"/v2/.+/tags/list")
_MEDIA_TYPE = b"application/vnd.oci.image.manifest.v1+json"


class NullRegistry(asyncio.Protocol):
    """One connection; requests have no bodies, answers are made from the path alone."""

    def __init__(self, catalog: bytes, tags: bytes) -> None:
        self._catalog = catalog
        self._tags = tags
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        assert self._transport is not None
        self._transport.writelines([self._answer(head) for head in heads])

    def _answer(self, head: bytes) -> bytes:
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        if manifest := _MANIFEST.fullmatch(path):
            return _found(manifest["reference"])
        if path == b"/v2/_catalog":
            return _json(self._catalog)
        if _TAGS.fullmatch(path):
            return _json(self._tags)
        return _json(b"{}")


@lru_cache(maxsize=1_000_000)
def _found(reference: bytes) -> bytes:
    digest = hashlib.sha256(reference).hexdigest().encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\nContent-Type: " + _MEDIA_TYPE + b"\r\n"
        b"Docker-Content-Digest: sha256:" + digest + b"\r\n\r\n"
    )


def _json(body: bytes) -> bytes:
    length = str(len(body)).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + length + b"\r\n\r\n" + body


async def serve(repositories: int, tags: int) -> None:
    """Serve on a free loopback port, print it, and go on until ended."""
    names = [f"team-{number % 10}/service-{number}" for number in range(repositories)]
    catalog = json.dumps({"repositories": names}).encode()
    listed = json.dumps({"name": "any", "tags": [f"v1.{number}.0" for number in range(tags)]}).encode()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: NullRegistry(catalog, listed), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repositories", type=int, default=50)
    parser.add_argument("--tags", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.repositories, arguments.tags))


if __name__ == "__main__":
    main()
