"""A registry without a disk: it makes the bytes of layers as they are read, and forgets what is sent to it.

    python -m tests.benchmarks.endless_registry --repositories 20 --tags 100 --layers 4 --layer-bytes 1048576

Every tag of every repository is an image of its own, and no tag or blob that was pushed is ever there: copying from one
such registry to another never ends for want of content or memory. Layers are zeros behind a name, so that each has its
own digest and costs next to nothing to make.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import lru_cache

PIECE_BYTES = 256 * 1024
_ZEROS = bytes(PIECE_BYTES)
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags)/(?P<last>uploads/\d*|[^/]+)")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_REASONS = {200: "OK", 201: "Created", 202: "Accepted", 404: "Not Found"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body still to be read."""

    method: str
    path: str
    headers: dict[str, str]
    reader: asyncio.StreamReader

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body's pieces, sent with a length or in chunks."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                async for piece in self._read(size):
                    yield piece
                await self.reader.readline()
            await self.reader.readline()
        else:
            async for piece in self._read(int(self.headers.get("content-length", 0))):
                yield piece

    async def _read(self, size: int) -> AsyncIterator[bytes]:
        while size:
            piece = await self.reader.read(min(size, PIECE_BYTES))
            if not piece:
                raise ConnectionResetError
            size -= len(piece)
            yield piece


@dataclass(slots=True)
class EndlessRegistry:
    """What is said about repositories and tags, and how far uploads are."""

    repositories: int
    tags: int
    layers: int
    layer_bytes: int
    _blobs: dict[str, bytes | str] = field(default_factory=dict)
    """Digest → the bytes, or the name that a layer begins with."""
    _uploads: dict[str, int] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                named = (line.partition(":") for line in lines if line)
                headers = {name.lower(): value.strip() for name, _, value in named}
                method, target, _ = first.split(" ")
                await self._answer(Request(method, target.partition("?")[0], headers, reader), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        found = _PATH.fullmatch(request.path)
        if not found:
            names = [f"app-{number}" for number in range(self.repositories)]
            _write(writer, 200, body=json.dumps({"repositories": names}).encode())
        elif found["kind"] == "tags":
            tags = [f"v{number}" for number in range(self.tags)]
            _write(writer, 200, body=json.dumps({"name": found["name"], "tags": tags}).encode())
        elif found["kind"] == "manifests":
            await self._manifest(request, writer, name=found["name"], reference=found["last"])
        elif found["last"].startswith("uploads/"):
            await self._upload(request, writer, name=found["name"], session=found["last"].removeprefix("uploads/"))
        else:
            await self._blob(request, writer, digest=found["last"])

    async def _manifest(self, request: Request, writer: asyncio.StreamWriter, *, name: str, reference: str) -> None:
        if request.method == "PUT":
            data = b"".join([piece async for piece in request.body()])
            self._blobs[_digest(data)] = data  # some read it back by its digest before they tag it
            _write(writer, 201, headers={"Docker-Content-Digest": _digest(data), "Location": request.path})
            return
        held = self._blobs.get(reference) if reference.startswith("sha256:") else self._image(name, reference)
        if isinstance(held, bytes) and held:
            headers = {"Content-Type": _MANIFEST, "Docker-Content-Digest": _digest(held)}
            _write(writer, 200, headers=headers, body=held, head=request.method == "HEAD")
        else:
            _write(writer, 404)

    def _image(self, name: str, tag: str) -> bytes:
        """Return the manifest of a tag; none where this registry only takes."""
        if not self.layers:
            return b""
        layers = []
        for number in range(self.layers):
            start = f"{name}:{tag}/{number}"
            digest = _layer_digest(start, self.layer_bytes)
            self._blobs[digest] = start
            layers.append({"mediaType": _LAYER, "digest": digest, "size": self.layer_bytes})
        config = json.dumps({"architecture": "amd64", "os": "linux", "author": f"{name}:{tag}"}).encode()
        self._blobs[_digest(config)] = config
        named = {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)}
        body = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": named, "layers": layers}
        data = json.dumps(body).encode()
        self._blobs[_digest(data)] = data
        return data

    async def _blob(self, request: Request, writer: asyncio.StreamWriter, *, digest: str) -> None:
        held = self._blobs.get(digest)
        if held is None:
            _write(writer, 404)
        elif isinstance(held, bytes):
            _write(writer, 200, body=held, head=request.method == "HEAD")
        else:
            _write(writer, 200, headers={"Docker-Content-Digest": digest}, length=self.layer_bytes)
            if request.method == "GET":
                for piece in _pieces(held, self.layer_bytes):
                    writer.write(piece)
                    await writer.drain()

    async def _upload(self, request: Request, writer: asyncio.StreamWriter, *, name: str, session: str) -> None:
        session = session or str(next(self._numbers))
        size = self._uploads.get(session, 0)
        async for piece in request.body():
            size += len(piece)
        self._uploads[session] = size
        place = f"/v2/{name}/blobs/uploads/{session}"
        _write(writer, 201 if request.method == "PUT" else 202, headers={"Location": place, "Range": f"0-{size - 1}"})


def _write(
    writer: asyncio.StreamWriter,
    status: int,
    *,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    head: bool = False,
    length: int | None = None,
) -> None:
    named = {"Content-Length": str(len(body) if length is None else length), **(headers or {})}
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + (b"" if head else body))


def _pieces(start: str, size: int) -> itertools.chain[bytes]:
    """Return the bytes of a layer: its name, then zeros."""
    begin = start.encode()
    whole, rest = divmod(size - len(begin), PIECE_BYTES)
    return itertools.chain([begin], itertools.repeat(_ZEROS, whole), [bytes(rest)])


@lru_cache(maxsize=100_000)
def _layer_digest(start: str, size: int) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(start, size):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def serve(registry: EndlessRegistry) -> None:
    """Serve on a free loopback port, print it, and go on until ended."""
    server = await asyncio.start_server(registry.connected, "127.0.0.1", 0, limit=4 * PIECE_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repositories", type=int, default=1)
    parser.add_argument("--tags", type=int, default=1)
    parser.add_argument("--layers", type=int, default=0, help="0: it has nothing and only takes")
    parser.add_argument("--layer-bytes", type=int, default=1024**2)
    options = parser.parse_args()
    asyncio.run(serve(EndlessRegistry(options.repositories, options.tags, options.layers, options.layer_bytes)))


if __name__ == "__main__":
    main()
