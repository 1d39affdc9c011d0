"""A URL kept exactly as it came: signed query strings must not be re-encoded on their way back."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import quote

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ABSOLUTE = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{0,5}))?")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))
_MAX_LENGTH = 16 * 1024
_MAX_PORT = 65_535

Origin = tuple[str, str, int]
"""Scheme, host and port: what credentials belong to."""


class InvalidUrlError(ValueError):
    """A URL that is none, or has parts we never follow: a user, blanks, control characters, another scheme."""


@dataclass(frozen=True, slots=True)
class Url:
    """Scheme, host (lower case, IPv6 without brackets), port, and the rest verbatim. Prints without its query."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an absolute http or https URL; raise `InvalidUrlError`."""
        match = _ABSOLUTE.fullmatch(_safe(text))
        authority = _AUTHORITY.fullmatch(match["authority"]) if match else None
        if match is None or authority is None:
            raise InvalidUrlError("not an http or https URL without a user")
        scheme = match["scheme"].lower()
        port = int(authority["port"]) if authority["port"] else _DEFAULT_PORTS[scheme]
        if not 0 < port <= _MAX_PORT:
            raise InvalidUrlError("not a port number")
        target = match["target"]
        return cls(
            scheme, authority["host"].strip("[]").lower(), port, target if target.startswith("/") else f"/{target}"
        )

    def join(self, text: str) -> Self:
        """Resolve what an answer from here names: absolute, without scheme, an absolute or a relative path."""
        text = _safe(text)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
            return self.parse(text)
        if text.startswith("//"):
            return self.parse(f"{self.scheme}:{text}")
        text = text.partition("#")[0]
        if text.startswith("/"):
            return replace(self, target=text)
        if text.startswith("?"):
            return replace(self, target=f"{self.path}{text}")
        return replace(self, target=f"{self.path.rpartition('/')[0]}/{text}")

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them: no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def whole(self) -> str:
        """All of it, query and all: a secret where it is signed."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def with_parameter(self, name: str, value: str) -> Self:
        """Append to the query, leaving what is there untouched."""
        separator = "&" if "?" in self.target else "?"
        separator = "" if self.target.endswith(("?", "&")) else separator
        return replace(self, target=f"{self.target}{separator}{name}={quote(value, safe='')}")

    def with_target(self, target: str) -> Self:
        """Name another path, and query, of the same origin."""
        return replace(self, target=target)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def _safe(text: str) -> str:
    text = text.strip(" \t")
    if not text or len(text) > _MAX_LENGTH or _UNSAFE.search(text):
        raise InvalidUrlError("a URL that is empty, too long, or has blanks or control characters in it")
    return text if text.isascii() else quote(text, safe=_VISIBLE)
