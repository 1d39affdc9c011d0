"""A sync request: rules, selection, options; checked when it is made, JSON both ways.

Everything that can be known to be wrong without asking a registry is refused here, with the field named. Input errors
are pydantic's, so that a door can turn their location into a JSON pointer; `code` is the pydantic error type, and
where a check looks at more than one field, the context's `field` is the path to the one at fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.domain.manifest import Platform
from app.domain.reference import (
    Digest,
    InvalidReferenceError,
    Registry,
    Repository,
    Tag,
    is_bare_host,
    split_host,
    split_reference,
)

MAX_RULES = 100
MAX_DESTINATIONS = 16
MAX_MATCHERS = 200
MAX_MATCHER_LENGTH = 512
MAX_LABELS = 32
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
        registry, path = _split_prefix(name) if is_bare_host(name) else split_host(name)
        template = cls(registry, path.strip("/"), tuple(tags.split(",")) if tags else ())
        template._check()
        return template

    @property
    def has_words(self) -> bool:
        """Whether the repository path holds a template word."""
        return "{" in self.path

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


def _source_text(text: str) -> str:
    return str(_checked(SourcePattern.parse, text))


def _destination_text(text: str) -> str:
    return str(_checked(DestinationTemplate.parse, text))


def _matcher_text(text: str) -> str:
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        try:
            re.compile(text[1:-1])
        except (re.error, OverflowError, RecursionError) as error:
            code, message = "invalid_matcher", "not a regular expression: {reason}"
            raise PydanticCustomError(code, message, {"reason": str(error)}) from error
    return text


def _platform_text(text: str) -> str:
    try:
        return str(Platform.parse(text))
    except ValueError as error:
        code, message = "invalid_platform", "{reason}"
        raise PydanticCustomError(code, message, {"reason": str(error)}) from error


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Source = Annotated[str, Field(max_length=32_768), AfterValidator(_source_text)]
Destination = Annotated[str, Field(max_length=1_024), AfterValidator(_destination_text)]
Matcher = Annotated[str, Field(min_length=1, max_length=MAX_MATCHER_LENGTH), AfterValidator(_matcher_text)]
PlatformText = Annotated[str, Field(max_length=64), AfterValidator(_platform_text)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class RepositorySelection(_Value):
    """Which repositories of a pattern are taken: any include and no exclude must match."""

    include: tuple[Matcher, ...] = Field(default=(), max_length=MAX_MATCHERS)
    exclude: tuple[Matcher, ...] = Field(default=(), max_length=MAX_MATCHERS)


class TagSelection(_Value):
    """Which tags are taken: any include and no exclude must match, then the `newest` N of them are kept."""

    include: tuple[Matcher, ...] = Field(default=(), max_length=MAX_MATCHERS)
    exclude: tuple[Matcher, ...] = Field(default=(), max_length=MAX_MATCHERS)
    newest: int | None = Field(default=None, ge=1, le=100_000)


class Rule(_Value):
    """One line of a request: from where, to where, which of it."""

    source: Source
    destination: Annotated[
        tuple[Destination, ...],
        BeforeValidator(
            _as_list, json_schema_input_type=str | Annotated[list[str], Field(max_length=MAX_DESTINATIONS)]
        ),
        Field(min_length=1, max_length=MAX_DESTINATIONS),
    ]
    repositories: RepositorySelection = RepositorySelection()
    tags: TagSelection = TagSelection()
    platforms: tuple[PlatformText, ...] = Field(default=(), max_length=64)
    platform_mode: Literal["sparse", "rewrite"] = "sparse"

    @property
    def source_pattern(self) -> SourcePattern:
        """The source, parsed."""
        return SourcePattern.parse(self.source)

    @property
    def destination_templates(self) -> tuple[DestinationTemplate, ...]:
        """The destinations, parsed."""
        return tuple(DestinationTemplate.parse(text) for text in self.destination)

    @field_validator("destination")
    @classmethod
    def _no_destination_twice(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            code = "duplicate_destination"
            raise PydanticCustomError(code, "a destination is listed twice")
        return value

    @model_validator(mode="after")
    def _selection_fits_source(self) -> Self:
        pattern = self.source_pattern
        if not pattern.is_pattern and self.repositories != RepositorySelection():
            code, message = (
                "selection_without_pattern",
                "`repositories` selects among those of a source that ends in /**",
            )
            raise PydanticCustomError(code, message, {"field": ("repositories",)})
        if (pattern.tags or pattern.digest) and self.tags != TagSelection():
            code, message = (
                "selection_without_pattern",
                "`tags` selects among all tags, but the source lists what to take",
            )
            raise PydanticCustomError(code, message, {"field": ("tags",)})
        for template in self.destination_templates:
            _renames_fit(pattern, template)
        return self


class Options(_Value):
    """How a request's copies are made."""

    referrers: bool = True
    digest_tags: bool = True
    overwrite: Literal["always", "never", "fail"] = "always"
    foreign_layers: Literal["skip", "copy"] = "skip"
    max_bytes_per_second: int | None = Field(default=None, ge=1)
    fail_fast: bool = False


Labels = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")],
        Annotated[str, Field(max_length=255)],
    ],
    Field(max_length=MAX_LABELS),
]


class SyncRequest(_Value):
    """What a job does: normalised, the full form only."""

    rules: tuple[Rule, ...] = Field(min_length=1, max_length=MAX_RULES)
    options: Options = Options()

    @model_validator(mode="after")
    def _no_destination_twice(self) -> Self:
        seen: dict[str, str] = {}
        for index, rule in enumerate(self.rules):
            for destination, source in fixed_destinations(rule):
                if seen.setdefault(destination, source) != source:
                    code, message = "destination_conflict", "{first} and {second} would both become {destination}"
                    facts = {"first": seen[destination], "second": source, "destination": destination}
                    raise PydanticCustomError(code, message, facts | {"field": ("rules", index, "destination")})
        return self


def fixed_destinations(rule: Rule) -> list[tuple[str, str]]:
    """List (destination, source) as far as known before any registry is asked: one repository, its tags listed."""
    pattern = rule.source_pattern
    if pattern.repository is None or not pattern.tags:
        return []
    pairs = []
    for template in rule.destination_templates:
        path = expand_path(template, pattern.repository)
        for position, tag in enumerate(pattern.tags):
            new_tag = expand_tag(template, pattern.repository, tag, position=position)
            pairs.append((f"{template.registry}/{path}:{new_tag}", f"{pattern.repository}:{tag}"))
    return pairs


def expand_path(template: DestinationTemplate, source: Repository, *, from_pattern: bool = False) -> str:
    """Fill a destination's repository path for one source repository (not checked yet)."""
    if template.has_words:
        return _fill(template.path, source, tag="")
    if from_pattern or not template.path:
        return f"{template.path}/{source.path}".strip("/")
    return template.path


def expand_tag(template: DestinationTemplate, source: Repository, tag: str, *, position: int = 0) -> str:
    """Fill a destination's tag for the source tag at `position` of the listed ones (not checked yet)."""
    if not template.tags:
        return tag
    return _fill(template.tags[position if len(template.tags) > 1 else 0], source, tag=tag)


def _fill(text: str, source: Repository, *, tag: str) -> str:
    words = {
        "registry": source.registry.hostname,
        "repository": source.path,
        "namespace": source.namespace,
        "name": source.name,
        "tag": tag,
    }
    filled = _TEMPLATE_WORD.sub(lambda match: words[match[1]], text)
    return re.sub(r"/{2,}", "/", filled).strip("/")


def _renames_fit(pattern: SourcePattern, template: DestinationTemplate) -> None:
    count = len(template.tags)
    if count == 0 or (count == 1 and "{tag}" in template.tags[0]):
        return
    wanted = 1 if pattern.digest else len(pattern.tags)
    if wanted != count:
        code = "rename_count"
        message = "the destination names {count} tags for {wanted}: renames go by position, so the numbers must match"
        shown = "a source that lists none" if wanted == 0 else f"{wanted} in the source"
        raise PydanticCustomError(code, message, {"count": count, "wanted": shown, "field": ("destination",)})


def _split_prefix(text: str) -> tuple[Registry, str]:
    return (Registry(text), "") if is_bare_host(text) else split_host_prefix(text)


def split_host_prefix(text: str) -> tuple[Registry, str]:
    """Divide `host[/prefix]`; unlike a repository, a prefix on Docker Hub gets no `library/`."""
    first, slash, _ = text.partition("/")
    if not slash and is_bare_host(first):
        return Registry(first), ""
    registry, path = split_host(f"{text}/x")
    return registry, path.removesuffix("/x")


def _has_empty_part(text: str, tags: str, digest: str) -> bool:
    return (not digest and "@" in text) or (not tags and text.partition("@")[0].endswith(":"))


def _checked(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text)
    except InvalidReferenceError as error:
        message = "{reason}"
        raise PydanticCustomError(error.code, message, {"reason": str(error)}) from error
