"""The other copiers: where they are, and the commands with which each does the same work.

They are taken from the folder of `--peers`, else from the PATH; nothing installs them. Debian has skopeo, the others
are Go programs (with GOBIN as that folder: `go install github.com/google/go-containerregistry/cmd/crane@latest`). Each
runs as its documentation says for much work: with its own way to copy many tags where it has one, and as many at once
as the service does.
"""

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

AT_ONCE = 4
"""Images at once, where a peer can be told: what the service's `WORKER_CONCURRENCY` is by default."""

Command = list[str]


class Registry(Protocol):
    """One side of a copy: a real registry or a fake one; it speaks TLS when it has an authority to trust."""

    @property
    def host(self) -> str: ...

    @property
    def ca_file(self) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """One repository, or one tag of it, to the same name in another registry."""

    source: Registry
    destination: Registry
    repository: str
    tag: str | None = None
    """One tag; all of them where it is None."""

    @property
    def from_(self) -> str:
        return self._reference(self.source)

    @property
    def to(self) -> str:
        return self._reference(self.destination)

    @property
    def sides(self) -> tuple[Registry, Registry]:
        return self.source, self.destination

    def _reference(self, registry: Registry) -> str:
        return f"{registry.host}/{self.repository}" + (f":{self.tag}" if self.tag else "")


Commands = Callable[[str, Sequence[Copy], Path], Iterator[Command]]
"""Makes the commands from the program, what is to be copied and a folder for configuration."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One copier that is there."""

    name: str
    program: str
    version: str
    commands: Commands
    all_tags: bool
    """Whether it has a way of its own to copy all tags of a repository."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}".strip()

    def can(self, copies: Sequence[Copy]) -> bool:
        """Return whether this is work it is made for."""
        return self.all_tags or all(copy.tag for copy in copies)


def find_peers(folders: str) -> tuple[list[Peer], list[str]]:
    """Return the peers found in folders (as in PATH, the first one wins), and the names of those that are not there."""
    programs = {name: shutil.which(name, path=folders) for name in _PEERS}
    found = [
        Peer(name, program, _version(name, program), *_PEERS[name]) for name, program in programs.items() if program
    ]
    return found, [name for name, program in programs.items() if not program]


def _crane(program: str, copies: Sequence[Copy], _: Path) -> Iterator[Command]:
    for copy in copies:
        many = [] if copy.tag else ["--all-tags", "--jobs", str(AT_ONCE)]
        yield [program, "copy", *many, copy.from_, copy.to]


def _regsync(program: str, copies: Sequence[Copy], folder: Path) -> Iterator[Command]:
    hosts = {side.host: side.ca_file is not None for copy in copies for side in copy.sides}
    config = {
        "version": 1,
        "creds": [
            {"registry": host, "tls": "enabled" if tls else "disabled", "reqConcurrent": 16}
            for host, tls in hosts.items()
        ],
        "defaults": {"parallel": AT_ONCE, "skipDockerConfig": True},
        "sync": [
            {"source": copy.from_, "target": copy.to, "type": "image" if copy.tag else "repository"} for copy in copies
        ],
    }
    (folder / "regsync.yml").write_text(yaml.safe_dump(config))
    yield [program, "once", "--config", "regsync.yml"]


def _regctl(program: str, copies: Sequence[Copy], _: Path) -> Iterator[Command]:
    for copy in copies:
        hosts = [f"--host=reg={side.host},tls=disabled" for side in copy.sides if not side.ca_file]
        yield [program, *hosts, "image", "copy", copy.from_, copy.to]


def _skopeo(program: str, copies: Sequence[Copy], folder: Path) -> Iterator[Command]:
    named = [copy for copy in copies if copy.tag]
    for copy in named:
        flags = [f"--src-tls-verify={_verify(copy.source)}", f"--dest-tls-verify={_verify(copy.destination)}"]
        command = [program, "--insecure-policy", "copy", "--all", *flags]
        yield [*command, f"docker://{copy.from_}", f"docker://{copy.to}"]
    whole = [copy for copy in copies if not copy.tag]
    if whole:
        source = {"images": {copy.repository: [] for copy in whole}, "tls-verify": bool(whole[0].source.ca_file)}
        (folder / "skopeo.yml").write_text(yaml.safe_dump({whole[0].source.host: source}))
        flags = ["--all", f"--dest-tls-verify={_verify(whole[0].destination)}", "--src", "yaml", "--dest", "docker"]
        yield [program, "--insecure-policy", "sync", *flags, "skopeo.yml", whole[0].destination.host]


def _image_syncer(program: str, copies: Sequence[Copy], folder: Path) -> Iterator[Command]:
    images: dict[str, list[str]] = defaultdict(list)
    for copy in copies:
        images[copy.from_].append(copy.to)
    hosts = {side.host: {"insecure": side.ca_file is None} for copy in copies for side in copy.sides}
    (folder / "auth.json").write_text(json.dumps(hosts))
    (folder / "images.json").write_text(json.dumps(images))
    yield [program, "--proc", str(AT_ONCE), "--auth", "auth.json", "--images", "images.json"]


def _oras(program: str, copies: Sequence[Copy], _: Path) -> Iterator[Command]:
    for copy in copies:
        flags = ["--from-plain-http"] * (not copy.source.ca_file) + ["--to-plain-http"] * (not copy.destination.ca_file)
        yield [program, "copy", "--no-tty", *flags, copy.from_, copy.to]


def _ocync(program: str, copies: Sequence[Copy], folder: Path) -> Iterator[Command]:
    sides = {side.host: side for copy in copies for side in copy.sides}
    names = {host: f"registry-{number}" for number, host in enumerate(sides)}
    registries = {
        names[host]: {"url": f"{'https' if side.ca_file else 'http'}://{host}", "auth_type": "anonymous"}
        for host, side in sides.items()
    }
    mappings = [
        {
            "from": copy.repository,
            "source": names[copy.source.host],
            "targets": [names[copy.destination.host]],
            "tags": {"include": [copy.tag or "*"], "glob": copy.tag or "*"},
        }
        for copy in copies
    ]
    settings = {"max_concurrent_transfers": AT_ONCE, "cache_ttl": "0"}
    config = {"global": settings, "registries": registries, "mappings": mappings}
    (folder / "ocync.yml").write_text(yaml.safe_dump(config))
    yield [program, "sync", "--config", "ocync.yml"]


_PEERS: dict[str, tuple[Commands, bool]] = {
    "crane": (_crane, True),
    "regsync": (_regsync, True),
    "regctl": (_regctl, False),
    "skopeo": (_skopeo, True),
    "image-syncer": (_image_syncer, True),
    "oras": (_oras, False),
    "ocync": (_ocync, True),
}
"""The configuration of ocync is as its documentation says (v0.5): where this was written it could not be run."""
_VERSION = {
    "crane": ["version"],
    "regsync": ["version", "--format", "{{.VCSTag}}"],
    "regctl": ["version", "--format", "{{.VCSTag}}"],
    "skopeo": ["--version"],
    "image-syncer": [],
    "oras": ["version"],
    "ocync": ["version"],
}


def _version(name: str, program: str) -> str:
    """Return what the program calls its version; empty where it doesn't say."""
    if not (arguments := _VERSION[name]):
        return ""
    said = subprocess.run([program, *arguments], check=False, capture_output=True, text=True).stdout
    numbers = [word for word in said.split() if word.removeprefix("v")[:1].isdigit()]
    return numbers[0].removeprefix("v") if numbers else ""


def _verify(side: Registry) -> str:
    return str(bool(side.ca_file)).lower()
