"""Credentials of an entry: what its operator entered, or docker's `config.json`."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from app.domain.reference import DOCKER_HUB
from app.domain.registry import (
    AwsAuth,
    AzureAuth,
    BasicAuth,
    BearerAuth,
    DockerConfigAuth,
    GoogleAuth,
    IdentityTokenAuth,
    NoAuth,
    RegistryEntry,
)
from app.registry.http.errors import LOG_IN, ErrorContext, make_error
from app.registry.limits import MIB

_MAX_CONFIG_BYTES = MIB
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Login:
    """What can be shown to a registry or its token server; all empty for an anonymous caller."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.password or self.identity_token or self.bearer)

    @property
    def basic(self) -> str:
        """The value of an Authorization header with user name and password."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials:
    """The login of one entry; a docker config is read again when its file changed."""

    def __init__(self, entry: RegistryEntry) -> None:
        self._entry = entry
        self._file_state: tuple[int, int, int] | None = None
        self._from_file = Login()

    def current(self) -> Login:
        """Return the login as it is now; raise `RegistryError` (`unauthorized`) when a docker config can't be used."""
        match self._entry.auth:
            case NoAuth():
                return Login()
            case BasicAuth() as auth:
                return Login(username=auth.username, password=auth.password.get_secret_value())
            case BearerAuth() as auth:
                return Login(bearer=auth.token.get_secret_value())
            case IdentityTokenAuth() as auth:
                return Login(username=auth.username or "", identity_token=auth.token.get_secret_value())
            case DockerConfigAuth() as auth:
                return self._read_config(Path(auth.path))
            case AwsAuth() | AzureAuth() | GoogleAuth():
                raise self._refusal("its login is asked for, not stored")
            case _ as never:
                assert_never(never)

    def _read_config(self, path: Path) -> Login:
        try:
            status = path.stat()
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state != self._file_state:
                self._from_file = self._find_login(_load_config(path))
                self._file_state = state
        except (OSError, ValueError, RecursionError) as error:
            # Not why: what is in a file the caller named is none of their business.
            raise self._refusal("its docker config can't be read") from error
        return self._from_file

    def _find_login(self, config: dict[str, Any]) -> Login:
        auths = config.get("auths")
        auths = auths if isinstance(auths, dict) else {}
        keys = _keys_of(self._entry)
        by_key = {_normal(key): value for key, value in auths.items() if isinstance(value, dict)}
        found = next((by_key[key] for key in keys if by_key.get(key)), None)
        if found is not None:
            return _read_auth(found)
        helpers = config.get("credHelpers")
        if config.get("credsStore") or (isinstance(helpers, dict) and any(_normal(key) in keys for key in helpers)):
            raise self._refusal("its docker config leaves the password to a credential helper; helpers are never run")
        raise self._refusal("its docker config has no entry for this host")

    def _refusal(self, message: str) -> Exception:
        entry = self._entry
        return make_error(f"{entry.registry}: {message}", ErrorContext(entry.registry, LOG_IN), code="unauthorized")


def _load_config(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(_MAX_CONFIG_BYTES + 1)
    if len(raw) > _MAX_CONFIG_BYTES:
        raise ValueError("too long for a docker config")
    config = json.loads(raw)
    if not isinstance(config, dict):
        raise ValueError("not an object")  # noqa: TRY004 — a file's content, not a caller's mistake
    return config


def _keys_of(entry: RegistryEntry) -> list[str]:
    """List the keys an entry may be under, the longest path first (podman's `auth.json` has paths)."""
    hosts = [_normal(key) for key in _DOCKER_HUB_KEYS] if entry.registry == DOCKER_HUB else [str(entry.registry)]
    parts = entry.prefix.split("/") if entry.prefix else []
    paths = ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return [f"{host}/{path}".rstrip("/") for path in paths for host in hosts]


def _normal(key: str) -> str:
    """Reduce `https://index.docker.io/v1/` and the like to `index.docker.io`."""
    key = key.lower().removeprefix("https://").removeprefix("http://").rstrip("/")
    return key.removesuffix("/v1").removesuffix("/v2")


def _read_auth(entry: dict[str, Any]) -> Login:
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            username, _, password = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError("an auth that is not base64") from error
    return Login(
        username=username,
        password=password.rstrip("\x00"),
        identity_token=texts.get("identitytoken", ""),
        bearer=texts.get("registrytoken", ""),
    )
