"""Real registries at both ends: filled once, emptied or filled by a copy of the files, never through the copier."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.plain_client import PlainClient
from tests.support.registries import PROGRAM, RegistryOptions, RegistryProcess

DISTRIBUTION = "registry"
"""What Distribution 3 calls its program; Debian's is 2.8 and called `docker-registry`."""

Fill = Callable[[PlainClient], None]


@dataclass(frozen=True, slots=True)
class Registries:
    """Makes the registries of a case, all of one program and one transport."""

    program: str
    tls: bool = False

    @contextmanager
    def filled(self, fill: Fill) -> Iterator[RegistryProcess]:
        """Run a registry that holds what `fill` pushes."""
        with self.empty() as registry:
            with PlainClient.of(registry) as client:
                fill(client)
            yield registry

    @contextmanager
    def empty(self) -> Iterator[RegistryProcess]:
        """Run a registry that holds nothing."""
        with RegistryProcess(RegistryOptions(program=self.program, tls=self.tls)) as registry:
            yield registry

    @contextmanager
    def twin(self, of: RegistryProcess) -> Iterator[RegistryProcess]:
        """Run a registry that holds the same as another."""
        with self.empty() as registry:
            registry.stop()
            shutil.copytree(storage(of), storage(registry), dirs_exist_ok=True)
            registry.start()
            yield registry


def wipe(registry: RegistryProcess) -> None:
    """Empty a registry without a word to those who know it: same address, nothing in it."""
    registry.stop()
    shutil.rmtree(storage(registry), ignore_errors=True)
    registry.start()


def storage(registry: RegistryProcess) -> Path:
    """Return the folder of a registry's content."""
    return registry.folder / "storage"


def find_program(folders: str) -> str:
    """Return the newest registry there is: Distribution 3, else Debian's 2.8 (which runs in Docker if need be)."""
    return shutil.which(DISTRIBUTION, path=folders) or PROGRAM


def program_version(program: str) -> str:
    """Return the name and version of a registry's program."""
    found = shutil.which(program)
    if not found:
        return program
    said = subprocess.run([found, "--version"], check=False, capture_output=True, text=True).stdout.split()
    return f"Distribution {said[-1]}" if said else program
