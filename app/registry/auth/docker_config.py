"""Logins of docker's `config.json` on the worker's machine, by itself or by the credential helper that it names.

Where it may lie and which helpers are run is said by settings; who enters a path learns nothing of the machine by it:
whatever keeps a file from being of use has one message, and the reason is logged.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from app.domain.errors import RegistryError
from app.domain.reference import DOCKER_HUB
from app.domain.registry import DockerConfigAuth, RegistryEntry
from app.domain.registry_logins import LoginRules
from app.registry.auth.credential_helper import HelperFailedError, ask_helper
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import login_error
from app.registry.auth.login_files import read_login_file
from app.registry.auth.renewal import RenewableLogin
from app.registry.limits import MIB

_log = structlog.get_logger(__name__)
_MAX_CONFIG_BYTES = MIB
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER_LIFE = timedelta(minutes=15)
"""Helpers do not say how long their logins last; those of clouds give tokens of an hour or more."""


@dataclass(frozen=True, slots=True)
class _Helper:
    """Which helper to ask, and for which server."""

    name: str
    server: str


class DockerConfigIdentity:
    """One entry's login in a docker configuration: `auth` is the entry's, `rules` what it may use of the machine."""

    def __init__(
        self, entry: RegistryEntry, auth: DockerConfigAuth, rules: LoginRules, *, clock: Callable[[], datetime]
    ) -> None:
        self._entry = entry
        self._auth = auth
        self._rules = rules
        self._clock = clock

    async def fetch(self) -> RenewableLogin:
        """Read the login.

        Raise `RegistryError`: `unauthorized` where there is none, and what may pass of a helper as temporary.
        """
        try:
            found = await asyncio.to_thread(self._find)
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("docker_config_not_used", registry=self._entry.registry, reason=_words(error))
            message = (
                "its docker config gives no login: path has to be a readable config.json with an entry for this host, "
                "by itself or by a credential helper that REGISTRY_SYNC_CREDENTIAL_HELPERS names"
            )
            raise self._error(message) from None
        if isinstance(found, Login):
            return RenewableLogin(found, None)
        try:
            login = await ask_helper(found.name, found.server)
        except HelperFailedError as error:
            code = "registry_unreachable" if error.temporary else "unauthorized"
            message = f"no login from the credential helper {found.name}: {error}"
            raise self._error(message, code=code, temporary=error.temporary) from None
        return RenewableLogin(login, self._clock() + _HELPER_LIFE)

    def _find(self) -> Login | _Helper:
        config = _load(
            read_login_file(self._auth.path, limit=_MAX_CONFIG_BYTES, folders=self._rules.docker_config_folders)
        )
        keys = _keys_of(self._entry)
        helpers = _texts(config.get("credHelpers"))
        named = next((name for key in keys for one, name in helpers.items() if _normal(one) == key), "")
        if named in self._rules.credential_helpers:
            return _Helper(named, _server(self._entry))
        auths = config.get("auths")
        by_key = {_normal(key): value for key, value in auths.items()} if isinstance(auths, dict) else {}
        found = next((by_key[key] for key in keys if isinstance(by_key.get(key), dict) and by_key[key]), None)
        if found is not None:
            return _read_auth(found)
        store = config.get("credsStore")
        if isinstance(store, str) and store in self._rules.credential_helpers:
            return _Helper(store, _server(self._entry))
        if named or store:
            raise ValueError("it leaves the password to a credential helper that is not allowed")
        raise ValueError("it has no entry for this host")

    def _error(self, message: str, *, code: str = "unauthorized", temporary: bool = False) -> RegistryError:
        return login_error(self._entry.registry, message, code=code, temporary=temporary)


def _words(error: Exception) -> str:
    """Say what is wrong without repeating the file: what JSON's errors are about is its text."""
    return type(error).__name__ if isinstance(error, json.JSONDecodeError | UnicodeError) else str(error)


def _load(raw: bytes) -> dict[str, Any]:
    config = json.loads(raw)
    if not isinstance(config, dict):
        raise ValueError("not an object")  # noqa: TRY004 — a file's content, not a caller's mistake
    return config


def _texts(value: Any) -> dict[str, str]:
    return {key: one for key, one in value.items() if isinstance(one, str)} if isinstance(value, dict) else {}


def _server(entry: RegistryEntry) -> str:
    """Name a registry as docker names it to helpers."""
    return _DOCKER_HUB_KEYS[0] if entry.registry == DOCKER_HUB else str(entry.registry)


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
    texts = _texts(entry)
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
