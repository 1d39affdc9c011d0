"""Fake registries in processes of their own, for what a real one can't do or would itself be the limit."""

import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.certificates import make_server_certificate
from tests.support.processes import Program
from tests.support.service import ROOT

READY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class FakeRegistry:
    """One port of a fake registry."""

    port: int
    ca_file: Path | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answered(self) -> int:
        """Return how many requests the null registry answered, on all its ports."""
        scheme = "https" if self.ca_file else "http"
        verify = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else True
        with httpx.Client(verify=verify, trust_env=False) as client:
            return int(client.get(f"{scheme}://{self.host}/count").text)


@contextmanager
def null_registries(
    *, repositories: int = 50, tags: int = 200, ports: int = 2, tls: bool = False, latency: float = 0.0
) -> Iterator[list[FakeRegistry]]:
    """Run the null registry on some ports: all hold the same. `latency` is how many seconds later each answer comes."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--repositories", str(repositories), "--tags", str(tags), "--ports", str(ports)]
        arguments += ["--latency", str(latency)]
        ca_file = None
        if tls:
            made = make_server_certificate(Path(folder) / "tls")
            arguments += ["--certificate", str(made.certificate_file), "--key", str(made.key_file)]
            ca_file = made.ca_file
        with _running("null_registry", arguments, Path(folder)) as found:
            yield [FakeRegistry(port, ca_file) for port in found]


@contextmanager
def endless_registries(
    *, repositories: int = 1, tags: int = 1, layers: int, layer_bytes: int
) -> Iterator[tuple[FakeRegistry, FakeRegistry]]:
    """Run a registry that makes these images as they are read, and one that takes everything and keeps nothing."""
    size = ["--repositories", str(repositories), "--tags", str(tags)]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        content = ["--layers", str(layers), "--layer-bytes", str(layer_bytes)]
        with (
            _running("endless_registry", [*size, *content], Path(one)) as source,
            _running("endless_registry", [], Path(other)) as sink,
        ):
            yield FakeRegistry(source[0]), FakeRegistry(sink[0])


@contextmanager
def _running(module: str, arguments: Sequence[str], folder: Path) -> Iterator[list[int]]:
    """Run a module that prints its ports in one line, and hand them out."""
    log = folder / "registry.log"
    program = Program([sys.executable, "-m", f"tests.benchmarks.{module}", *arguments], log=log, folder=ROOT)
    try:
        program.wait_until(lambda: log.read_text().endswith("\n"), seconds=READY_SECONDS)
        yield [int(port) for port in log.read_text().splitlines()[0].split()]
    finally:
        program.end()
