"""Names of things in registries: registry, repository, tag, digest, reference; parse and format.

Rules are those of the OCI distribution spec ("Pulling manifests": the two regular expressions), and of the docker
command line for short names (github.com/distribution/reference): a first part without `.`, `:`, capital letters and
not `localhost` is no host, so the host is Docker Hub, and a single part there lives in `library/`.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Any, Self

from msgspec import Struct
from pydantic_core import CoreSchema, core_schema

DOCKER_HUB = "docker.io"
DOCKER_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
MAX_NAME_LENGTH = 255
"""Host, slash and repository together: many registries refuse more (distribution spec, "Pulling manifests")."""
MAX_TAG_LENGTH = 128

_HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""At most 63 characters (RFC 1035 2.3.4): a longer one can't be resolved, nor asked about."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST_HEX = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")
MAX_PORT = 65_535
DIGEST_TAG_KINDS = ("sig", "att", "sbom")
_FALLBACK_TAG = re.compile(r"sha(?:256|512)-[0-9a-f]{64}")
_DIGEST_TAG = re.compile(rf"sha256-[0-9a-f]{{64}}\.(?:{'|'.join(DIGEST_TAG_KINDS)})")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
"""What browsers and `skopeo` put before a host."""


class InvalidReferenceError(ValueError):
    """A name that no registry would take. `code` names the part at fault, `field` the rule's, where that is another."""

    def __init__(self, message: str, *, code: str = "invalid_reference", field: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class _Word(str):
    """A string that was checked when it was made; in JSON and in SQL it is that string."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class Registry(_Word):
    """A registry's host, lower case, with the port if it is not the default one; Docker Hub's aliases become one."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Check and normalise; raise `InvalidReferenceError`."""
        host = value.lower()
        name, port = _split_port(host)
        if not _is_host(name) or (port is not None and not 1 <= port <= MAX_PORT):
            message = f"{_shown(value)} is not a registry host"
            raise InvalidReferenceError(message, code="invalid_host")
        return super().__new__(cls, DOCKER_HUB if host in DOCKER_HUB_ALIASES else host)

    @property
    def hostname(self) -> str:
        """The host without its port, IPv6 addresses without brackets."""
        return _split_port(self)[0].strip("[]")


class Tag(_Word):
    """A tag: at most 128 characters out of letters, digits, `_`, `.` and `-`."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Check; raise `InvalidReferenceError`."""
        if not _TAG.fullmatch(value):
            why = f"is longer than {MAX_TAG_LENGTH} characters" if len(value) > MAX_TAG_LENGTH else "is not a tag"
            message = f"{_shown(value)} {why}"
            raise InvalidReferenceError(message, code="invalid_tag")
        return super().__new__(cls, value)


class Digest(_Word):
    """`sha256:<64 hex>` or `sha512:<128 hex>`; checked before it gets into any URL (CVE-2024-3727)."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Check; raise `InvalidReferenceError`."""
        algorithm, _, encoded = value.partition(":")
        if len(encoded) != _DIGEST_HEX.get(algorithm, -1) or not _HEX.fullmatch(encoded):
            message = f"{_shown(value)} is not a sha256 or sha512 digest"
            raise InvalidReferenceError(message, code="invalid_digest")
        return super().__new__(cls, value)

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`: the name hashlib knows it by."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The hexadecimal part."""
        return self.partition(":")[2]


class Repository(Struct, frozen=True, order=True, gc=False):
    """A repository of one registry."""

    registry: Registry
    path: str

    def __post_init__(self) -> None:
        """Refuse a path that no registry takes."""
        if not _REPOSITORY.fullmatch(self.path):
            hint = "; repositories are lower case" if self.path != self.path.lower() else ""
            message = f"{_shown(self.path)} is not a repository name{hint}"
            raise InvalidReferenceError(message, code="invalid_repository")
        if len(self.registry) + 1 + len(self.path) > MAX_NAME_LENGTH:
            message = f"host and repository together are longer than {MAX_NAME_LENGTH} characters"
            raise InvalidReferenceError(message, code="invalid_repository")

    @staticmethod
    def parse(text: str) -> Repository:
        """Read `host/path` or a Docker Hub short name; raise `InvalidReferenceError`."""
        return _repository(text)

    @property
    def namespace(self) -> str:
        """All of the path but its last part; empty for a path of one part."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def __hash__(self) -> int:
        return hash(self.path)  # a text remembers its hash

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}"


class Reference(Struct, frozen=True, order=True, gc=False):
    """A manifest in a repository: by tag, by digest, or by digest with a tag to be known by."""

    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host/path[:tag][@digest]`; raise `InvalidReferenceError`."""
        name, tag, digest = split_reference(text)
        return cls(Repository.parse(name), Tag(tag) if tag else None, Digest(digest) if digest else None)

    @property
    def target(self) -> Tag | Digest:
        """What to ask the registry for: the digest where there is one, else the tag."""
        target = self.digest or self.tag
        if target is None:
            message = f"{self} names neither a tag nor a digest"
            raise InvalidReferenceError(message)
        return target

    def __hash__(self) -> int:
        return hash((self.repository.path, self.tag, self.digest))

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def is_fallback_tag(tag: str) -> bool:
    """Return whether a tag has the form of a referrers index (distribution spec, "Referrers Tag Schema")."""
    return _FALLBACK_TAG.fullmatch(tag) is not None


def is_digest_tag(tag: str) -> bool:
    """Return whether a tag is one that cosign hangs on a digest: a signature, an attestation, an SBOM."""
    return _DIGEST_TAG.fullmatch(tag) is not None


def digest_tags_of(digest: Digest) -> tuple[Tag, ...]:
    """Spell the tags that cosign hangs on a digest; a sha512 digest is too long for any."""
    if digest.algorithm != "sha256":
        return ()
    return tuple(Tag(f"sha256-{digest.encoded}.{kind}") for kind in DIGEST_TAG_KINDS)


@lru_cache(maxsize=4_096)
def _repository(text: str) -> Repository:
    return Repository(*split_host(text))


def split_host(text: str) -> tuple[Registry, str]:
    """Divide `host/path` the way the docker command line does; the path is not checked yet."""
    first, slash, rest = text.partition("/")
    if not slash or not looks_like_host(first):
        path = text if slash else f"library/{text}"
        return Registry(DOCKER_HUB), path
    registry = Registry(first)
    if not looks_like_host(registry):
        message = (
            f"{_shown(first)} has capitals, so it is a host and no namespace of Docker Hub; "
            f"a host without a dot is written with its port, such as {registry[:80]}:443"
        )
        raise InvalidReferenceError(message, code="invalid_host")
    if registry == DOCKER_HUB and "/" not in rest and rest not in {"", "**"}:
        rest = f"library/{rest}"
    return registry, rest


@lru_cache(maxsize=1_024)
def split_host_prefix(text: str) -> tuple[Registry, str]:
    """Divide `host[/prefix]`; unlike a repository, a prefix on Docker Hub gets no `library/`."""
    first, slash, _ = text.partition("/")
    if not slash and is_bare_host(first):
        return Registry(first), ""
    registry, path = split_host(f"{text}/x")
    return registry, path.removesuffix("/x")


def split_reference(text: str) -> tuple[str, str, str]:
    """Divide `name[:tags][@digest]` into its three texts, the missing ones empty; nothing is checked yet."""
    rest, _, digest = text.partition("@")
    head, slash, last = rest.rpartition("/")
    name, _, tags = last.partition(":")
    if not slash and is_bare_host(last):
        return rest, "", digest
    return f"{head}{slash}{name}", tags, digest


def looks_like_host(part: str) -> bool:
    """Return whether the first part of a name is a host rather than a Docker Hub namespace."""
    if part == "localhost" or "." in part or part.startswith("[") or part != part.lower():
        return True
    name, colon, port = part.partition(":")
    return bool(colon and name and port.isdigit())


def is_host_name(name: str) -> bool:
    """Return whether a lower-case name can be resolved, or is an IPv4 address as RFC 3986 writes it.

    What ends in a number is an address (WHATWG URL, "ends in a number"): `0177.0.0.1`, `0x7f.1` and `2130706433` are
    loopback to `inet_aton`, and something else to a reader that compares texts.
    """
    labels = name.split(".")
    if not all(_HOST_LABEL.fullmatch(label) for label in labels):
        return False
    if not _NUMBER.fullmatch(labels[-1]):
        return True
    try:
        return str(ipaddress.IPv4Address(name)) == name
    except ValueError:
        return False


def is_bare_host(text: str) -> bool:
    """Return whether a text without a slash is a host (`registry.example.com:5000`) and not `name:tag`."""
    name = text if text.startswith("[") else text.partition(":")[0]
    return "/" not in text and (name == "localhost" or "." in name or name.startswith("["))


@lru_cache(maxsize=1_024)
def _split_port(host: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:]*)(?::([0-9]{1,5}))?", host)
    if match is None:
        return "", None
    return match[1], int(match[2]) if match[2] else None


@lru_cache(maxsize=1_024)
def _is_host(name: str) -> bool:
    if name.startswith("["):
        try:
            return ipaddress.ip_address(name.strip("[]")).version == 6  # noqa: PLR2004 — the protocol's name
        except ValueError:
            return False
    return len(name) <= MAX_NAME_LENGTH and is_host_name(name)


def _shown(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def refuse_foreign_notation(text: str, *, may_have_digest: bool = True) -> None:
    """Raise `InvalidReferenceError` for a scheme, or for credentials, before a host.

    Of a text that may have a digest, an `@` begins credentials only where a `/` follows, which no digest has.
    """
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text
    before, _, after = rest.rpartition("@")
    if before and ("/" in after or scheme is not None or not may_have_digest):
        message = (
            "credentials are no part of a name: leave out what stands before '@', and enter them at "
            "PUT /v1/registries/{name} with this host"
        )
        raise InvalidReferenceError(message, code="secret_in_url")
    if scheme is not None:
        plain = "; for plain http, set insecure at PUT /v1/registries/{name}" if scheme["scheme"] == "http" else ""
        message = f"leave out the scheme {scheme[0]}, and write {rest.rstrip('/')[:80]!r}{plain}"
        raise InvalidReferenceError(message, code="invalid_repository")


def refuse_stray_glob(text: str) -> None:
    """Raise `InvalidReferenceError` for a `*` anywhere but in a `/**` at the end: choices have fields of their own."""
    inside = text.removesuffix("/**")
    if "*" not in inside:
        return
    head, _, tag = inside.rpartition(":")
    if head and "*" not in head and "/" not in tag and inside == text:
        message = f"tags are chosen with tags.include: write {head[:80]!r}, and {tag[:80]!r} there"
        raise InvalidReferenceError(message, code="invalid_source")
    first, slash, path = text.partition("/")
    host, wanted = (first, path) if slash and "*" not in first and looks_like_host(first) else ("docker.io", text)
    message = (
        f"repositories are chosen with repositories.include: write {f'{host}/**'!r}, and {wanted[:80]!r} there; a "
        "source is one repository, or ends in /** for every repository below"
    )
    raise InvalidReferenceError(message, code="invalid_source")
