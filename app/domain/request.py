"""A sync request: rules, selection, options; checked when it is made, JSON both ways.

Everything that can be known to be wrong without asking a registry is refused here, with the field named. Input errors
are pydantic's, so that a door can turn their location into a JSON pointer; `code` is the pydantic error type, and
where a check looks at more than one field, the context's `field` is the path to the one at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from app.domain.duration import MAX_DURATION, parse_duration
from app.domain.expression import BUDGET, Budget
from app.domain.manifest import Platform
from app.domain.pattern import AS_IT_IS, DestinationTemplate, NameMapping, SourcePattern
from app.domain.reference import InvalidReferenceError, Reference, Repository, Tag
from app.domain.selection import ArtifactTypeSelection, RepositorySelection, RequestPart, TagSelection

MAX_RULES = 10_000
"""What bounds a request first is its size: a rule takes about a hundred bytes."""
MAX_DESTINATIONS = 16
MAX_LABELS = 32
MAX_SOURCE_LENGTH, MAX_DESTINATION_LENGTH = 32_768, 1_024
_ALL_REPOSITORIES, _ALL_TAGS, _ALL_TYPES = RepositorySelection(), TagSelection(), ArtifactTypeSelection()

# What a rule's fields say is parsed to be checked, and once more when the rule is there.
_parse_source = lru_cache(maxsize=256)(SourcePattern.parse)
_parse_destination = lru_cache(maxsize=256)(DestinationTemplate.parse)


def _source_text(text: str) -> str:
    return _checked(_parse_source, text, max_length=MAX_SOURCE_LENGTH)


def _destination_text(text: str) -> str:
    return _checked(_parse_destination, text, max_length=MAX_DESTINATION_LENGTH)


def _platform_text(text: str) -> str:
    try:
        return str(Platform.parse(text))
    except ValueError as error:
        code, message = "invalid_platform", "{reason}"
        raise PydanticCustomError(code, message, {"reason": str(error)}) from error


def _duration_text(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        code, message = "invalid_duration", "{reason}"
        raise PydanticCustomError(code, message, {"reason": str(error)}) from error
    return text


def _since_text(text: str) -> str:
    """Keep a duration as it is, for it counts from each run; write a time, or a date, as UTC."""
    with suppress(ValueError):
        parse_duration(text)
        return text
    try:
        time = datetime.fromisoformat(text)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        return f"{time.replace(tzinfo=None).isoformat(timespec='seconds')}Z"  # a year has four digits, as it has to
    except (ValueError, OverflowError) as error:
        message = "{shown} is neither a time such as 2026-11-25 nor a duration such as 30d, of {most} at the most"
        raise PydanticCustomError("invalid_time", message, {"shown": repr(text[:40]), "most": MAX_DURATION}) from error


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Source = Annotated[str, Field(max_length=MAX_SOURCE_LENGTH), AfterValidator(_source_text)]
Destination = Annotated[str, Field(max_length=MAX_DESTINATION_LENGTH), AfterValidator(_destination_text)]
PlatformText = Annotated[str, Field(max_length=64), AfterValidator(_platform_text)]


PlatformMode = Literal["auto", "sparse", "rewrite", "single"]
"""What becomes of an index for a choice of platforms: it stays, with children left out (`sparse`), or a smaller one is
made (`rewrite`); `auto` is sparse where the destination takes that, `single` a plain image of one platform."""


class Rule(RequestPart):
    """One line of a request: from where, to where, which of it."""

    source: Source
    destination: Annotated[
        tuple[Destination, ...],
        BeforeValidator(_as_list),
        Field(min_length=1, max_length=MAX_DESTINATIONS),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_DESTINATIONS},
                ]
            }
        ),
    ]
    repositories: RepositorySelection = _ALL_REPOSITORIES
    tags: TagSelection = _ALL_TAGS
    platforms: tuple[PlatformText, ...] = Field(default=(), max_length=64)
    platform_mode: PlatformMode = "auto"
    artifact_types: ArtifactTypeSelection = _ALL_TYPES
    created_since: Annotated[str, Field(max_length=40), AfterValidator(_since_text)] | None = Field(
        default=None,
        description="Only images created since then: a time, a date, or a duration before each run such as `30d`.",
    )
    min_age: Annotated[str, Field(max_length=40), AfterValidator(_duration_text)] | None = Field(
        default=None,
        description="Only images created at least so long before each run, such as `7d`; one that says no time, "
        "so long after a job first saw it.",
    )
    mapping: NameMapping = AS_IT_IS

    @property
    def needs_metadata(self) -> bool:
        """Whether it can't be decided by names alone."""
        return (
            self.created_since is not None
            or self.min_age is not None
            or self.artifact_types != _ALL_TYPES
            or self.tags.newest_by == "created"
        )

    @cached_property
    def source_pattern(self) -> SourcePattern:
        """The source, parsed."""
        return _parse_source(self.source)

    @cached_property
    def destination_templates(self) -> tuple[DestinationTemplate, ...]:
        """The destinations, parsed."""
        return tuple(_parse_destination(text) for text in self.destination)

    @cached_property
    def named_references(self) -> list[tuple[Reference, tuple[Reference, ...]]]:
        """Each reference the source names, and where it goes; empty where tags or repositories have to be listed."""
        pattern, templates = self.source_pattern, self.destination_templates
        if pattern.repository is None or not (pattern.tags or pattern.digest):
            return []
        tags: tuple[Tag | None, ...] = pattern.tags or (None,)
        sources = [Reference(pattern.repository, tag, pattern.digest) for tag in tags]
        return [
            (source, tuple(template.fill(source, position=position, mapping=self.mapping) for template in templates))
            for position, source in enumerate(sources)
        ]

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
        if not pattern.is_pattern and self.repositories != _ALL_REPOSITORIES:
            code, message = (
                "selection_without_pattern",
                "`repositories` selects among those of a source that ends in /**",
            )
            raise PydanticCustomError(code, message, {"field": ("repositories",)})
        if (pattern.tags or pattern.digest) and self.tags != _ALL_TAGS:
            code, message = (
                "selection_without_pattern",
                "`tags` selects among all tags, but the source lists what to take",
            )
            raise PydanticCustomError(code, message, {"field": ("tags",)})
        _newest_is_given(self.tags)
        if self.platform_mode == "single" and len(self.platforms) != 1:
            code, message = (
                "single_platform",
                "`platform_mode: single` makes an image of one platform: name exactly one",
            )
            raise PydanticCustomError(code, message, {"field": ("platforms",)})
        for template in self.destination_templates:
            _renames_fit(pattern, template)
        _fixed_names_are_valid(self)
        return self


class Options(RequestPart):
    """How a request's copies are made."""

    referrers: bool = True
    digest_tags: bool = True
    companions: Literal["always", "on_change", "never"] = "always"
    """When referrers and digest tags come along: also with images that are there (one request more for each at the
    source), with those that are copied, or not at all."""
    force: bool = False
    """Check what is there down to its blobs, and bring what is missing."""
    overwrite: Literal["always", "never", "fail"] = "always"
    foreign_layers: Literal["skip", "copy"] = "skip"
    max_bytes_per_second: int | None = Field(default=None, ge=1)
    fail_fast: bool = False


Labels = Annotated[
    # How keys look is checked, not described: `patternProperties` is nothing that client generators know.
    dict[
        Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")],
        Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")],
    ],
    Field(max_length=MAX_LABELS),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 255},
            "maxProperties": MAX_LABELS,
            "description": "Keys of up to 63 letters, digits, `.`, `_`, `/` and `-`.",
        }
    ),
]


@contextmanager
def expression_budget(budget: Budget | None = None) -> Iterator[None]:
    """Give all expressions that are compiled inside one common budget; within another one, that one goes on."""
    if BUDGET.get() is not None:
        yield
        return
    token = BUDGET.set(budget or Budget())
    try:
        yield
    finally:
        BUDGET.reset(token)


class SyncRequest(RequestPart):
    """What a job does: normalised, the full form only."""

    rules: tuple[Rule, ...] = Field(min_length=1, max_length=MAX_RULES)
    options: Options = Options()

    @model_validator(mode="wrap")
    @classmethod
    def _within_budget(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        with expression_budget():
            return handler(value)

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
        for source, destinations in rule.named_references
        for destination in destinations
        if destination.tag
    ]


def destinations_that_are_sources(rule: Rule) -> list[int]:
    """List which destinations of a rule are its source, by place: a copy there does nothing.

    Of a source that has to be listed, a repository stands for all, unless the rule changes their names one by one; an
    index of fewer platforms may well take the place of the whole one. Stored requests are not refused for it.
    """
    if rule.platforms:
        return []
    sources = rule.named_references
    if not sources and rule.mapping == AS_IT_IS:
        sample = _sample_of(rule.source_pattern)
        is_listed = rule.source_pattern.is_pattern
        with suppress(InvalidReferenceError):  # the template wants a longer name than the sample's: it changes names
            filled = tuple(template.fill(sample, from_pattern=is_listed) for template in rule.destination_templates)
            sources = [(sample, filled)]
    return sorted({place for source, filled in sources for place, one in enumerate(filled) if one == source})


def _sample_of(pattern: SourcePattern) -> Reference:
    path = "/".join(part for part in (pattern.namespace, "some/sample/repository") if part)
    repository = pattern.repository or Repository(pattern.registry, path)
    return Reference(repository, Tag("sample"))


def _fixed_names_are_valid(rule: Rule) -> None:
    try:
        rule.named_references  # noqa: B018 — reading it is the check
    except InvalidReferenceError as error:
        message, facts = "{reason}", {"reason": str(error), "field": error.field or ("destination",)}
        raise PydanticCustomError(error.code, message, facts) from error


def _newest_is_given(tags: TagSelection) -> None:
    for name, is_given in (("always", bool(tags.always)), ("newest_by", tags.newest_by != "version")):
        if is_given and tags.newest is None:
            code, message = "newest_missing", "`{name}` says more about `newest`, which is not given"
            raise PydanticCustomError(code, message, {"name": name, "field": ("tags", name)})


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


def _checked(parse: Callable[[str], object], text: str, *, max_length: int) -> str:
    """Return a text in full, which is what is stored: it has to be one that is taken again."""
    try:
        full = str(parse(text))
    except InvalidReferenceError as error:
        message = "{reason}"
        raise PydanticCustomError(error.code, message, {"reason": str(error)}) from error
    if len(full) > max_length:
        raise PydanticKnownError("string_too_long", {"max_length": max_length})
    return full
