"""Grants: which repositories, policies and jobs a key is bound to, and which addresses it may come from.

A rule is held when everything it could ever touch is: a source of many repositories has to be allowed as a whole, and
a destination with template words up to the part of its path where the first of them stands. So what is submitted is
known to be allowed before any registry is asked, and what a registry lists later can't widen it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork
from pydantic_core import PydanticCustomError

from app.domain.errors import FieldError
from app.domain.glob import Glob
from app.domain.pattern import DestinationTemplate, NameMapping, SourcePattern
from app.domain.reference import DOCKER_HUB, InvalidReferenceError, Reference, Registry, Repository, Tag
from app.domain.request import Rule, SyncRequest

MAX_PATTERNS = 64
MAX_SHOWN = 100
"""Refusals that an answer lists: a request may have 10,000 rules."""
_BELOW = "**"
_HOST_PATTERN = re.compile(r"[a-z0-9.*:\[\]-]+")
_PATH_PATTERN = re.compile(r"\*\*|[a-z0-9._*-]+(/[a-z0-9._*-]+)*(/\*\*)?")
_WORD = re.compile(r"\{[^{}]*\}")
_MAYBE_EMPTY = re.compile(r"\{(?:namespace|tag)\}")
_POLICY_PATTERN = re.compile(r"[a-z0-9._-]*\*?")

Direction = Literal["read", "write", "both"]


def _host_pattern(text: str) -> str:
    text = text.lower()
    if not _HOST_PATTERN.fullmatch(text):
        message = "{shown} is not a host such as registry.example.com, nor a pattern such as *.example.com"
        raise PydanticCustomError("invalid_pattern", message, {"shown": repr(text[:64])})
    try:
        return text if "*" in text else str(Registry(text))
    except InvalidReferenceError as error:
        raise PydanticCustomError(error.code, "{reason}", {"reason": str(error)}) from error


def _path_pattern(text: str) -> str:
    head = text.removesuffix(_BELOW)
    if not _PATH_PATTERN.fullmatch(text) or _BELOW in head:
        message = "{shown} is not a repository, nor a pattern such as team-a/**; * is within a part, ** comes last"
        raise PydanticCustomError("invalid_pattern", message, {"shown": repr(text[:64])})
    return text


def _policy_pattern(text: str) -> str:
    if not text or not _POLICY_PATTERN.fullmatch(text):
        message = "{shown} is not a policy's name, nor the beginning of one with * behind it"
        raise PydanticCustomError("invalid_pattern", message, {"shown": repr(text[:64])})
    return text


HostPattern = Annotated[str, Field(max_length=255), AfterValidator(_host_pattern)]
PathPattern = Annotated[str, Field(max_length=255), AfterValidator(_path_pattern)]
PolicyPattern = Annotated[str, Field(max_length=64), AfterValidator(_policy_pattern)]


class RepositoryGrant(BaseModel):
    """Repositories that may be copied from, to, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registries: tuple[HostPattern, ...] = Field(
        min_length=1, max_length=MAX_PATTERNS, description="Hosts, or patterns of hosts: `*.example.com`."
    )
    repositories: tuple[PathPattern, ...] = Field(
        default=(_BELOW,),
        min_length=1,
        max_length=MAX_PATTERNS,
        description="`team-a/**` is all below, `team-a/*` one part below, `**` every repository.",
    )
    direction: Direction = Field(default="both", description="`read` to copy from, `write` to copy to.")

    def touches(self, place: _Place) -> bool:
        """Return whether it is about some repository of a place, in any direction."""
        return self._is_about(place.registry) and any(_path_touches(parts, place.parts) for parts in self._paths)

    def holds(self, place: _Place, direction: Literal["read", "write"]) -> bool:
        """Return whether all of a place is allowed in a direction."""
        return (
            self.direction in {direction, "both"}
            and self._is_about(place.registry)
            and any(_path_holds(parts, place) for parts in self._paths)
        )

    def _is_about(self, registry: Registry) -> bool:
        return any(glob.matches(registry) for glob in self._hosts)

    @cached_property
    def _hosts(self) -> tuple[Glob, ...]:
        return tuple(Glob(text) for text in self.registries)

    @cached_property
    def _paths(self) -> tuple[tuple[Glob | None, ...], ...]:
        """The patterns of paths by their parts; None for the `**` at an end."""
        return tuple(
            tuple(None if part == _BELOW else Glob(part) for part in text.split("/")) for text in self.repositories
        )


class Grant(BaseModel):
    """What a key is bound to. Without `allow` and `policies` it is not bound: then all of both is allowed.

    What is bound sees its own jobs and those of its policies, and registries that it may copy from or to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[RepositoryGrant, ...] | None = Field(
        default=None, max_length=MAX_PATTERNS, description="What jobs and policies of this key may copy from and to."
    )
    policies: tuple[PolicyPattern, ...] | None = Field(
        default=None,
        max_length=MAX_PATTERNS,
        description="Policies it may see and run, and with `policies:write` change: names, or beginnings with `*`.",
    )
    jobs: Literal["own", "all"] | None = Field(
        default=None, description="Jobs it may see: `own` where it is bound, else `all`."
    )
    addresses: tuple[IPvAnyNetwork, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_PATTERNS, description="Where it may come from; null is everywhere."
    )

    @property
    def is_bound(self) -> bool:
        """Whether there is anything it may not touch or see."""
        return self.allow is not None or self.policies is not None or self.jobs == "own"

    @property
    def sees_all_jobs(self) -> bool:
        """Whether jobs of others are shown."""
        return self.jobs == "all" if self.jobs is not None else not self.is_bound

    @property
    def policy_patterns(self) -> tuple[str, ...]:
        """Names of the policies it shows, or beginnings with `*`."""
        return (self.policies or ()) if self._binds else ("*",)

    def sees_policy(self, name: str) -> bool:
        """Return whether a policy is shown, and may be run."""
        return any(
            name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
            for pattern in self.policy_patterns
        )

    def sees_registry(self, registry: Registry, namespace: str) -> bool:
        """Return whether an entry is shown: some of its repositories may be copied from or to."""
        place = _Place(registry, namespace, is_below=True)
        return not self._binds or any(one.touches(place) for one in self.allow or ())

    def holds_registry(self, registry: Registry, namespace: str) -> bool:
        """Return whether all of an entry's repositories may be copied from and to, so that the entry may be changed."""
        place = _Place(registry, namespace, is_below=True)
        return self._holds(place, "read") and self._holds(place, "write")

    def reads_registry(self, registry: Registry, namespace: str) -> bool:
        """Return whether all of an entry's repositories may be copied from, so that its push events are shown."""
        return self._holds(_Place(registry, namespace, is_below=True), "read")

    def admits(self, address: str | None) -> bool:
        """Return whether a caller may come from an address; one that is not known is no allowed one."""
        if self.addresses is None:
            return True
        try:
            peer = ipaddress.ip_address((address or "").partition("%")[0])
        except ValueError:
            return False
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in self.addresses)

    def refusals(self, request: SyncRequest) -> tuple[FieldError, ...]:
        """Return what of a request is not allowed, by field; the first `MAX_SHOWN` of it."""
        return tuple(islice(self._refusals(request), MAX_SHOWN))

    def _refusals(self, request: SyncRequest) -> Iterator[FieldError]:
        for index, rule in enumerate(request.rules if self._binds else ()):
            source = _source(rule.source_pattern)
            if not self._holds(source, "read"):
                yield _refusal(f"/rules/{index}/source", source, "from")
            for number, template in enumerate(rule.destination_templates):
                for destination in _destinations(rule, template):
                    if not self._holds(destination, "write"):
                        yield _refusal(f"/rules/{index}/destination/{number}", destination, "to")
                        break

    def _holds(self, place: _Place, direction: Literal["read", "write"]) -> bool:
        return not self._binds or any(one.holds(place, direction) for one in self.allow or ())

    @property
    def _binds(self) -> bool:
        return self.allow is not None or self.policies is not None


UNBOUND = Grant()
"""The grant of a caller that is not bound: one object, by which it is known without asking anything of it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A repository, or all of them below a namespace."""

    registry: Registry
    path: str
    is_below: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")) if self.path else ()

    def __str__(self) -> str:
        return "/".join((self.registry, *self.parts, *((_BELOW,) if self.is_below else ())))


def _source(pattern: SourcePattern) -> _Place:
    if pattern.repository is None:
        return _Place(pattern.registry, pattern.namespace, is_below=True)
    return _Place(pattern.registry, pattern.repository.path)


def _destinations(rule: Rule, template: DestinationTemplate) -> Iterator[_Place]:
    """Yield where a rule's images can go: one repository, or everything below what its template says for certain."""
    source = rule.source_pattern.repository
    exact = None if source is None or "{tag}" in template.path else _filled(template, source, rule.mapping)
    if exact is not None:
        yield _Place(exact.registry, exact.path)
        return
    certain, brace, _ = template.path.partition("{")
    certain = certain.rpartition("/")[0] if brace else certain
    yield _Place(template.registry, certain, is_below=True)
    rest = template.path.removeprefix(certain)
    if certain and not _WORD.sub("", rest).strip("/") and (rule.mapping.substitute or _MAYBE_EMPTY.search(rest)):
        # What follows may come to nothing: then it is the namespace itself that is written to.
        is_short = template.registry == DOCKER_HUB and "/" not in certain
        yield _Place(template.registry, f"library/{certain}" if is_short else certain)


def _filled(template: DestinationTemplate, source: Repository, mapping: NameMapping) -> Repository | None:
    """Return the one repository that a template comes to; None where that is not known without the tags."""
    bare = DestinationTemplate(template.registry, template.path)
    try:
        return bare.fill(Reference(source, Tag("latest")), mapping=mapping).repository
    except InvalidReferenceError:
        return None


def _path_holds(pattern: Sequence[Glob | None], place: _Place) -> bool:
    """Return whether a pattern holds all of a place: `a/**` holds a/b, and all below a and a/b, but not a itself."""
    is_open = pattern[-1] is None
    head, parts = pattern[:-1] if is_open else pattern, place.parts
    if is_open:
        is_long_enough = len(parts) >= len(head) if place.is_below else len(parts) > len(head)
    else:
        is_long_enough = len(parts) == len(head) and not place.is_below
    return is_long_enough and all(
        glob is not None and glob.matches(part) for glob, part in zip(head, parts, strict=False)
    )


def _path_touches(pattern: Sequence[Glob | None], namespace: Sequence[str]) -> bool:
    """Return whether a pattern and what is below a namespace have repositories in common."""
    return (pattern[-1] is None or len(pattern) > len(namespace)) and all(
        glob is None or glob.matches(part) for glob, part in zip(pattern, namespace, strict=False)
    )


def _refusal(pointer: str, place: _Place, way: str) -> FieldError:
    return FieldError(pointer, "not_granted", f"this key may not copy {way} {place}")
