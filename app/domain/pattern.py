"""What a rule's `source` and `destination` strings say, and the one rule by which a source becomes a destination."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from app.domain.reference import (
    DOCKER_HUB,
    Digest,
    InvalidReferenceError,
    Reference,
    Registry,
    Repository,
    Tag,
    is_bare_host,
    split_host_prefix,
    split_reference,
)

TEMPLATE_WORDS = ("registry", "repository", "namespace", "name", "tag")
_TEMPLATE_WORD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class SourcePattern:
    """What a rule's `source` string names: one repository, every one below a namespace, or a whole registry."""

    registry: Registry
    repository: Repository | None = None
    """Set when the pattern names exactly one repository."""
    namespace: str = ""
    """For a pattern: the path every repository must be below; empty for the whole registry."""
    tags: tuple[Tag, ...] = ()
    """The tags listed; empty means every tag, unless there is a digest."""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host/repo[:tag[,tag…]][@digest]`, `host/ns/**` or `host/**`; raise `InvalidReferenceError`."""
        if text.endswith("/**"):
            prefix = text.removesuffix("/**")
            registry, namespace = _split_prefix(prefix)
            if namespace:
                Repository(registry, namespace)
            return cls(registry, namespace=namespace)
        if "*" in text:
            message = "a source is one repository, or ends in /** for every repository below"
            raise InvalidReferenceError(message, code="invalid_source")
        name, tags, digest = split_reference(text)
        if is_bare_host(name):
            message = f"{name!r} is a host alone; write {name}/** for the whole registry"
            raise InvalidReferenceError(message, code="invalid_source")
        if _has_empty_part(text, tags, digest):
            message = "there is nothing after ':' or '@'"
            raise InvalidReferenceError(message, code="invalid_source")
        repository = Repository.parse(name)
        listed = tuple(Tag(tag) for tag in tags.split(",")) if tags else ()
        if digest and len(listed) > 1:
            message = "a digest goes with one tag at the most"
            raise InvalidReferenceError(message, code="invalid_source")
        if len(set(listed)) != len(listed):
            message = "a tag is listed twice"
            raise InvalidReferenceError(message, code="invalid_source")
        return cls(repository.registry, repository, tags=listed, digest=Digest(digest) if digest else None)

    @property
    def is_pattern(self) -> bool:
        """Whether repositories have to be listed."""
        return self.repository is None

    def __str__(self) -> str:
        if self.repository is None:
            return "/".join(part for part in (self.registry, self.namespace, "**") if part)
        tags = f":{','.join(self.tags)}" if self.tags else ""
        return f"{self.repository}{tags}{f'@{self.digest}' if self.digest else ''}"


@dataclass(frozen=True, slots=True)
class DestinationTemplate:
    """What a rule's `destination` string says: where each source reference goes."""

    registry: Registry
    path: str
    """Repository path, maybe with template words; empty when the destination is a plain host."""
    tags: tuple[str, ...] = ()
    """Tags in the destination, maybe with template words; empty means the source's own tag."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host`, `host/prefix` or `host/repo[:tag[,tag…]]` with template words; raise `InvalidReferenceError`."""
        for word in _TEMPLATE_WORD.findall(text):
            if word not in TEMPLATE_WORDS:
                message = f"{{{word}}} is no template word; there are {', '.join(f'{{{w}}}' for w in TEMPLATE_WORDS)}"
                raise InvalidReferenceError(message, code="invalid_template")
        name, tags, digest = split_reference(text)
        if digest or "@" in text:
            message = "a destination has no digest: the source decides it"
            raise InvalidReferenceError(message, code="invalid_destination")
        if not name.strip("/"):
            message = "a destination names a registry, or a repository"
            raise InvalidReferenceError(message, code="invalid_destination")
        registry, path = _split_prefix(name)
        if tags and not path.strip("/"):
            message = f"the tag {tags!r} has no repository to be in"
            raise InvalidReferenceError(message, code="invalid_destination")
        template = cls(registry, path.strip("/"), tuple(tags.split(",")) if tags else ())
        template._check()
        return template

    def fill(self, source: Reference, *, position: int = 0, from_pattern: bool = False) -> Reference:
        """Say where one source reference goes; raise `InvalidReferenceError` where no registry would take that name.

        `position` is the place of the source's tag among those listed, `from_pattern` whether its repository was found
        by listing. Without a tag on either side the copy is known by its digest.
        """
        try:
            repository = Repository(self.registry, self._path(source, from_pattern=from_pattern))
            tag = self._tag(source, position)
        except InvalidReferenceError as error:
            message = f"{source} would go to {self}, but {error}"
            raise InvalidReferenceError(message, code=error.code) from error
        return Reference(repository, tag, None if tag else source.digest)

    def _path(self, source: Reference, *, from_pattern: bool) -> str:
        if "{" in self.path:
            path = _fill(self.path, source)
        elif from_pattern or not self.path:
            path = f"{self.path}/{source.repository.path}".strip("/")
        else:
            path = self.path
        # As on the command line; known only now, since in front of a pattern docker.io/me is a namespace.
        return f"library/{path}" if self.registry == DOCKER_HUB and "/" not in path else path

    def _tag(self, source: Reference, position: int) -> Tag | None:
        if not self.tags:
            return source.tag
        return Tag(_fill(self.tags[position if len(self.tags) > 1 else 0], source))

    def _check(self) -> None:
        sample = _TEMPLATE_WORD.sub("x", self.path)
        if "*" in sample:
            message = "a destination is a place, not a pattern; use template words such as {repository}"
            raise InvalidReferenceError(message, code="invalid_destination")
        if sample:
            Repository(self.registry, sample)
        for tag in self.tags:
            Tag(_TEMPLATE_WORD.sub("x", tag))
        if len(set(self.tags)) != len(self.tags):
            message = "a destination tag is listed twice"
            raise InvalidReferenceError(message, code="duplicate_destination")

    def __str__(self) -> str:
        tags = f":{','.join(self.tags)}" if self.tags else ""
        return f"{self.registry}{'/' if self.path else ''}{self.path}{tags}"


def _fill(text: str, source: Reference) -> str:
    repository = source.repository
    words = {
        "registry": repository.registry.hostname,
        "repository": repository.path,
        "namespace": repository.namespace,
        "name": repository.name,
        "tag": source.tag or "",
    }
    filled = _TEMPLATE_WORD.sub(lambda match: words[match[1]], text)
    return re.sub(r"/{2,}", "/", filled).strip("/")


def _split_prefix(text: str) -> tuple[Registry, str]:
    return (Registry(text), "") if is_bare_host(text) else split_host_prefix(text)


def _has_empty_part(text: str, tags: str, digest: str) -> bool:
    return (not digest and "@" in text) or (not tags and text.partition("@")[0].endswith(":"))
