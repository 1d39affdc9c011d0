"""A sync request: rules, selection, options; checked when it is made, JSON both ways.

Everything that can be known to be wrong without asking a registry is refused here, with the field named. Input errors
are pydantic's, so that a door can turn their location into a JSON pointer; `code` is the pydantic error type, and
where a check looks at more than one field, the context's `field` is the path to the one at fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.domain.manifest import Platform
from app.domain.matcher import parse_matcher
from app.domain.pattern import DestinationTemplate, SourcePattern
from app.domain.reference import InvalidReferenceError, Reference, Tag

MAX_RULES = 100
MAX_DESTINATIONS = 16
MAX_MATCHERS = 200
MAX_MATCHER_LENGTH = 512
MAX_LABELS = 32


def _source_text(text: str) -> str:
    return str(_checked(SourcePattern.parse, text))


def _destination_text(text: str) -> str:
    return str(_checked(DestinationTemplate.parse, text))


def _matcher_text(text: str) -> str:
    try:
        parse_matcher(text)
    except ValueError as error:
        code, message = "invalid_matcher", "{reason}"
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
        _fixed_names_are_valid(self)
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
    """List (destination, what goes there) as far as known before any registry is asked."""
    chosen = f" ({', '.join(rule.platforms)}: {rule.platform_mode})" if rule.platforms else ""
    return [
        (str(destination), f"{source}{chosen}")
        for source, destinations in fixed_references(rule)
        for destination in destinations
        if destination.tag
    ]


def fixed_references(rule: Rule) -> list[tuple[Reference, tuple[Reference, ...]]]:
    """List each reference a rule's source names, and where it goes; empty where tags or repositories must be listed."""
    pattern, templates = rule.source_pattern, rule.destination_templates
    if pattern.repository is None or not (pattern.tags or pattern.digest):
        return []
    tags: tuple[Tag | None, ...] = pattern.tags or (None,)
    sources = [Reference(pattern.repository, tag, pattern.digest) for tag in tags]
    return [
        (source, tuple(template.fill(source, position=position) for template in templates))
        for position, source in enumerate(sources)
    ]


def _fixed_names_are_valid(rule: Rule) -> None:
    try:
        fixed_references(rule)
    except InvalidReferenceError as error:
        message = "{reason}"
        raise PydanticCustomError(error.code, message, {"reason": str(error), "field": ("destination",)}) from error


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


def _checked(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text)
    except InvalidReferenceError as error:
        message = "{reason}"
        raise PydanticCustomError(error.code, message, {"reason": str(error)}) from error
