"""Real registries: CNCF Distribution as Debian packages it (`docker-registry`), or its image under a running Docker.

    with RegistryProcess(RegistryOptions(users={"ann": "secret"})) as registry: ...
    async with run_registry(catalog_page_cap=3) as registry: ...

Each has a free loopback port, a private temporary folder for its storage and log, and leaves nothing behind.
"""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import bcrypt
import httpx
import yaml

from tests.support.certificates import ServerCertificate, make_server_certificate
from tests.support.processes import Program, memory_folder
from tests.support.token_server import ISSUER, SERVICE, TokenServer

PROGRAM = "docker-registry"
IMAGE = "registry:2@sha256:ce14a6258f37702ff3cd92232a6f5b81ace542d9f1631966999e9f7c1ee6ddba"
READY_SECONDS = 90.0
BCRYPT_ROUNDS = 4  # the least bcrypt allows: these passwords protect nothing, and each request checks one


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationEndpoint:
    """Where a registry sends its push events (Distribution's `notifications.endpoints`)."""

    url: str
    name: str = "test"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 1.0
    threshold: int = 3
    backoff_seconds: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How a registry differs from the plainest one: anonymous, plain http, everything allowed."""

    catalog_page_cap: int | None = None
    """The most repositories one page of `/v2/_catalog` lists, whatever `n` asks for."""
    delete_enabled: bool = True
    read_only: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    """Basic auth: name → password."""
    token_server: TokenServer | None = None
    """Bearer auth: a started token server; whoever started it stops it."""
    notifications: tuple[NotificationEndpoint, ...] = ()
    relative_urls: bool = False
    tls: bool = False
    """Serve https with a certificate of an authority nobody knows; clients trust `registry.ca_file`."""
    allowed_foreign_urls: tuple[str, ...] = ()
    """Regular expressions of layer URLs that manifests may name (none: a manifest with URLs is refused)."""
    port: int = 0
    program: str = PROGRAM
    """Another build of Distribution to run: a name on the PATH, or a path."""


@dataclass(frozen=True, slots=True)
class AccessLine:
    """One answered request, from the registry's own access log."""

    method: str
    path: str
    status: int
    size: int


class RegistryProcess:
    """One registry, running from `start` to `close`; it may be stopped, killed and started again on the same port."""

    def __init__(self, options: RegistryOptions | None = None) -> None:
        self.options = options or RegistryOptions()
        self.folder = Path(tempfile.mkdtemp(prefix="registry-sync-registry-", dir=memory_folder()))
        self._port = self.options.port
        self._program: Program | None = None
        self._tls: ServerCertificate | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        return self._port

    @property
    def host(self) -> str:
        """The registry as references name it: `127.0.0.1:34567`."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.options.tls else 'http'}://{self.host}"

    @property
    def ca_file(self) -> Path | None:
        """The authority to trust, when it serves https."""
        return self._tls.ca_file if self._tls else None

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """What httpx wants as `verify` to talk to it."""
        return ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else True

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> Path:
        return self.folder / "registry.log"

    def start(self) -> None:
        """Start it, on the port it had before if it had one, and wait until it answers."""
        if self._program is not None and self._program.runs:
            raise RuntimeError(f"the registry on {self.host} runs already")
        if self.options.tls and self._tls is None:
            self._tls = make_server_certificate(self.folder / "tls")
        config = self.folder / "config.yml"
        config.write_text(yaml.safe_dump(self._config()))
        begin = self.log.stat().st_size if self.log.exists() else 0
        self._program = Program(
            _command(self.folder, config, program=self.options.program),
            log=self.log,
            environment={"OTEL_TRACES_EXPORTER": "none"},
        )
        self._program.wait_until(lambda: self._finds_its_port(begin), seconds=READY_SECONDS)
        with httpx.Client(verify=self.verify, trust_env=False) as client:
            self._program.wait_until(lambda: self._answers(client), seconds=READY_SECONDS)

    def stop(self) -> None:
        """End it in good order; its content stays."""
        if self._program is not None:
            self._program.end()

    def kill(self) -> None:
        """End it at once (SIGKILL); its content stays as it was."""
        self._running().kill()
        if shutil.which(self.options.program) is None:  # killing Docker's client leaves the container
            subprocess.run(["docker", "kill", self.folder.name], check=False, capture_output=True)  # noqa: S607 — found by PATH, as by its users

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def access_log(self) -> list[AccessLine]:
        """Return every request answered so far, readiness probes aside; a line may come a moment after its answer."""
        lines = (_ACCESS_LINE.search(line) for line in self.log.read_text(errors="replace").splitlines())
        found = [AccessLine(m["method"], m["path"], int(m["status"]), int(m["size"])) for m in lines if m]
        return [line for line in found if line.path != _READY_PATH]

    def _running(self) -> Program:
        if self._program is None:
            raise RuntimeError("the registry was never started")
        return self._program

    def _finds_its_port(self, begin: int) -> bool:
        """Learn the port from the log: it took a free one (`addr` ends in `:0`)."""
        with self.log.open("rb") as log:
            log.seek(begin)
            found = _LISTENING.search(log.read().decode(errors="replace"))
        if found:
            self._port = int(found["port"])
        return found is not None

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}{_READY_PATH}", timeout=2).status_code in {
                httpx.codes.OK,
                httpx.codes.UNAUTHORIZED,
            }
        except httpx.TransportError:
            return False

    def _config(self) -> dict[str, Any]:
        """Return Distribution's configuration, see docs/configuration.md in its repository."""
        options = self.options
        storage = self.folder / "storage"
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(storage)},
                "cache": {"blobdescriptor": "inmemory"},
                "delete": {"enabled": options.delete_enabled},
                "maintenance": {"readonly": {"enabled": options.read_only}, "uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self.host, "secret": "of the tests", "relativeurls": options.relative_urls},
            "health": {"storagedriver": {"enabled": False}},
            "validation": {"manifests": {"urls": {"allow": list(options.allowed_foreign_urls)}}},
        }
        if self._tls:
            files = {"certificate": str(self._tls.certificate_file), "key": str(self._tls.key_file)}
            config["http"]["tls"] = files
        if options.catalog_page_cap is not None:
            config["catalog"] = {"maxentries": options.catalog_page_cap}
        if options.notifications:
            config["notifications"] = {"endpoints": [_endpoint(endpoint) for endpoint in options.notifications]}
        if auth := self._auth_config():
            config["auth"] = auth
        return config

    def _auth_config(self) -> dict[str, Any]:
        if self.options.users:
            passwords = self.folder / "htpasswd"
            passwords.write_text("".join(f"{name}:{_bcrypt(word)}\n" for name, word in self.options.users.items()))
            return {"htpasswd": {"realm": "registry-sync tests", "path": str(passwords)}}
        if self.options.token_server is not None:
            certificate = self.folder / "token-certificate.pem"
            certificate.write_bytes(self.options.token_server.certificate_pem)
            realm = self.options.token_server.realm
            return {"token": {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(certificate)}}
        return {}


@asynccontextmanager
async def run_registry(options: RegistryOptions | None = None) -> AsyncIterator[RegistryProcess]:
    """Run a registry for the length of a block, without holding up the event loop."""
    registry = RegistryProcess(options)
    try:
        await asyncio.to_thread(registry.start)
        yield registry
    finally:
        await asyncio.to_thread(registry.close)


_READY_PATH = "/v2/?ready"
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(?P<port>\d+)")
_ACCESS_LINE = re.compile(r'\] "(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d+) (?P<size>\d+)')


def _command(folder: Path, config: Path, *, program: str) -> list[str]:
    if found := shutil.which(program):
        return [found, "serve", str(config)]
    if docker := shutil.which("docker"):
        # The host's network and the same paths inside as outside: everything else then is as with the plain program.
        user = f"{os.getuid()}:{os.getgid()}"
        options = ["--rm", "--name", folder.name, "--network", "host", "--user", user, "--volume", f"{folder}:{folder}"]
        return [docker, "run", *options, IMAGE, "serve", str(config)]
    raise RuntimeError(f"no registry to run: install {PROGRAM}, or start Docker for {IMAGE} (`.ci/setup registry`)")


def _bcrypt(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(BCRYPT_ROUNDS)).decode()


def _endpoint(endpoint: NotificationEndpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "url": endpoint.url,
        "headers": {name: [value] for name, value in endpoint.headers.items()},
        "timeout": f"{endpoint.timeout_seconds}s",
        "threshold": endpoint.threshold,
        "backoff": f"{endpoint.backoff_seconds}s",
    }
