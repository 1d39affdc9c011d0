"""Source patterns and destination templates: what a rule's strings say, and how a source becomes a destination.

On the way a source's names may change, before a template's words are filled in: a prefix goes, parts are substituted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.domain.errors import InvalidRequestError
from app.domain.expression import compile_expression
from app.domain.reference import (
    DOCKER_HUB,
    MAX_NAME_LENGTH,
    Digest,
    InvalidReferenceError,
    Reference,
    Registry,
    Repository,
    Tag,
    is_bare_host,
    refuse_foreign_notation,
    refuse_stray_glob,
    split_host_prefix,
    split_reference,
)
from app.domain.selection import MAX_MATCHER_LENGTH, RequestPart

MAX_SUBSTITUTIONS = 16
TEMPLATE_WORDS = ("registry", "repository", "namespace", "name", "tag")
_TEMPLATE_WORD = re.compile(r"\{([^{}]*)\}")
_WORDS = f"{', '.join(f'{{{word}}}' for word in TEMPLATE_WORDS)} and {{path[0]}} for a part of the path"
_PATH_WORD = re.compile(r"path\[-?[0-9]{1,2}\]")
_PREFIX = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SourceNames:
    """What template words stand for."""

    registry: Registry
    repository: str
    tag: str

    def word(self, word: str) -> str:
        """Return what a template word stands for; raise `InvalidReferenceError` for a part that a path hasn't got."""
        namespace, _, name = self.repository.rpartition("/")
        words = {"registry": self.registry.hostname, "repository": self.repository, "tag": self.tag}
        words |= {"namespace": namespace, "name": name}
        return words[word] if word in words else self._part(int(word.removeprefix("path[").removesuffix("]")))

    def _part(self, place: int) -> str:
        parts = self.repository.split("/")
        try:
            return parts[place]
        except IndexError as error:
            message = f"{self.repository!r} has {len(parts)} parts, and {{path[{place}]}} asks for another"
            raise InvalidReferenceError(message, code="invalid_template") from error


def _prefix(text: str) -> str:
    prefix = text.strip("/")
    if not _PREFIX.fullmatch(prefix):
        code, message = "invalid_prefix", "{shown} is not the beginning of a repository's path, such as team-a"
        raise PydanticCustomError(code, message, {"shown": repr(text[:80])})
    return prefix


class Substitution(RequestPart):
    r"""Replace what an RE2 expression matches, everywhere in a name; `\1` in the replacement is its first group."""

    on: Literal["repository", "tag"] = "repository"
    pattern: str = Field(min_length=1, max_length=MAX_MATCHER_LENGTH)
    replacement: str = Field(max_length=MAX_MATCHER_LENGTH)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        try:
            groups = compile_expression(self.pattern).groups
        except ValueError as error:
            code, message = "invalid_pattern", "{reason}"
            raise PydanticCustomError(code, message, {"reason": str(error), "field": ("pattern",)}) from error
        for escaped in _ESCAPE.findall(self.replacement):
            if escaped != "\\" and not ("1" <= escaped <= "9" and int(escaped) <= groups):
                code, message = "invalid_replacement", "{shown} names no group of the pattern, which has {groups}"
                facts = {"shown": f"\\{escaped}", "groups": groups, "field": ("replacement",)}
                raise PydanticCustomError(code, message, facts)
        return self

    def applied_to(self, name: str) -> str:
        """Return a name with everything replaced."""
        return compile_expression(self.pattern).replaced_in(name, self.replacement)


class NameMapping(RequestPart):
    """How a source's names change on the way: first the prefix goes, then each substitution in turn.

    Template words stand for the changed names, and so do the repository and the tag where a destination names none.
    """

    strip_prefix: Annotated[str, Field(max_length=255), AfterValidator(_prefix)] | None = Field(
        default=None, description="Whole parts at the beginning of a repository's path that are left out."
    )
    substitute: tuple[Substitution, ...] = Field(default=(), max_length=MAX_SUBSTITUTIONS)

    def names_of(self, source: Reference) -> SourceNames:
        """Return a source's names as they are to be seen by a destination.

        Raise `InvalidReferenceError` where one grows past what any name has: a few substitutions could fill memory.
        """
        repository, tag = source.repository.path, source.tag or ""
        if self.strip_prefix is not None:
            repository = repository.removeprefix(f"{self.strip_prefix}/")
        for place, substitution in enumerate(self.substitute):
            if substitution.on == "repository":
                repository = substitution.applied_to(repository)
            elif tag:
                tag = substitution.applied_to(tag)
            if len(repository) > MAX_NAME_LENGTH or len(tag) > MAX_NAME_LENGTH:
                message = f"what is substituted makes its {substitution.on} longer than {MAX_NAME_LENGTH} characters"
                raise InvalidReferenceError(
                    message, code=f"invalid_{substitution.on}", field=("mapping", "substitute", place)
                )
        return SourceNames(source.repository.registry, repository, tag)


AS_IT_IS = NameMapping()


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
        refuse_foreign_notation(text)
        refuse_stray_glob(text)
        if text.endswith("/**"):
            prefix = text.removesuffix("/**")
            registry, namespace = _split_prefix(prefix)
            if namespace:
                Repository(registry, namespace)
            return cls(registry, namespace=namespace)
        if text.endswith("/"):
            message = f"leave out the '/' at the end, or write {text[:80]}** for every repository below"
            raise InvalidReferenceError(message, code="invalid_repository")
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
        refuse_foreign_notation(text)
        for word in _TEMPLATE_WORD.findall(text):
            if word not in TEMPLATE_WORDS and not _PATH_WORD.fullmatch(word):
                message = f"{{{word}}} is no template word; there are {_WORDS}"
                raise InvalidReferenceError(message, code="invalid_template")
        name, tags, digest = split_reference(text)
        if digest or "@" in text:
            message = "a destination has no digest: the source decides it"
            raise InvalidReferenceError(message, code="invalid_destination")
        if not name.strip("/"):
            message = "a destination names a registry, or a repository"
            raise InvalidReferenceError(message, code="invalid_destination")
        if name.startswith("/"):
            message = f"there is no registry before the '/' of {text[:80]!r}"
            raise InvalidReferenceError(message, code="invalid_destination")
        registry, path = _split_prefix(name)
        if tags and not path.strip("/"):
            message = f"the tag {tags!r} has no repository to be in"
            raise InvalidReferenceError(message, code="invalid_destination")
        template = cls(registry, path.strip("/"), tuple(tags.split(",")) if tags else ())
        template._check()
        return template

    @property
    def words(self) -> frozenset[str]:
        """The template words in its path."""
        return frozenset(_TEMPLATE_WORD.findall(self.path))

    def fill(
        self, source: Reference, *, position: int = 0, from_pattern: bool = False, mapping: NameMapping = AS_IT_IS
    ) -> Reference:
        """Say where one source reference goes; raise `InvalidReferenceError` where no registry would take that name.

        `position` is the place of the source's tag among those listed, `from_pattern` whether its repository was found
        by listing, `mapping` how its names change first. Without a tag on either side the copy is known by its digest.
        """
        try:
            names = mapping.names_of(source)
            repository = Repository(self.registry, self._path(names, from_pattern=from_pattern))
            tag = self._tag(names, position, source.tag)
        except InvalidReferenceError as error:
            message = f"{source} would go to {self}, but {error}"
            raise InvalidReferenceError(message, code=error.code, field=error.field) from error
        return Reference(repository, tag, None if tag else source.digest)

    def _path(self, names: SourceNames, *, from_pattern: bool) -> str:
        if "{" in self.path:
            path = _fill(self.path, names)
        elif from_pattern or not self.path:
            path = f"{self.path}/{names.repository}".strip("/")
        else:
            path = self.path
        # As on the command line; known only now, since in front of a pattern docker.io/me is a namespace.
        return f"library/{path}" if self.registry == DOCKER_HUB and "/" not in path else path

    def _tag(self, names: SourceNames, position: int, was: Tag | None) -> Tag | None:
        if not self.tags:
            if was and not names.tag:
                message = f"what is substituted leaves nothing of the tag {was}"
                raise InvalidReferenceError(message, code="invalid_tag", field=("mapping", "substitute"))
            return Tag(names.tag) if names.tag else None
        return Tag(_fill(self.tags[position if len(self.tags) > 1 else 0], names))

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


def map_source(
    source: Reference,
    templates: tuple[DestinationTemplate, ...],
    *,
    position: int = 0,
    from_pattern: bool = False,
    mapping: NameMapping = AS_IT_IS,
) -> tuple[Reference, ...]:
    """Fill every template for one source; raise `InvalidRequestError` where the outcome is no name.

    `position` is the place of its tag among those the rule lists, `from_pattern` whether it was found by listing,
    `mapping` how its names change before they are filled in.
    """
    try:
        filled = [
            template.fill(source, position=position, from_pattern=from_pattern, mapping=mapping)
            for template in templates
        ]
    except InvalidReferenceError as error:
        raise InvalidRequestError(str(error), code="invalid_destination") from error
    return tuple(dict.fromkeys(filled))


def _fill(text: str, names: SourceNames) -> str:
    filled = _TEMPLATE_WORD.sub(lambda match: names.word(match[1]), text)
    return re.sub(r"/{2,}", "/", filled).strip("/")


def _split_prefix(text: str) -> tuple[Registry, str]:
    return (Registry(text), "") if is_bare_host(text) else split_host_prefix(text)


def _has_empty_part(text: str, tags: str, digest: str) -> bool:
    return (not digest and "@" in text) or (not tags and text.partition("@")[0].endswith(":"))
