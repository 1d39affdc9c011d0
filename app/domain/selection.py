"""What a rule selects: repositories, tags, artifact types; every matcher is checked when it is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from app.domain.matcher import Matches, parse_all_of, parse_matcher

MAX_MATCHERS = 200
MAX_MATCHER_LENGTH = 512
MAX_ALL_OF = 16
"""Matchers that must match together."""
_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_MATCHER_LENGTH}


class RequestPart(BaseModel):
    """A part of a request: unknown fields are refused, blanks around texts do not count."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _checked_text(text: str) -> str:
    text = text.strip()
    if not text:
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    if len(text) > MAX_MATCHER_LENGTH:
        raise PydanticKnownError("string_too_long", {"max_length": MAX_MATCHER_LENGTH})
    try:
        parse_matcher(text)
    except ValueError as error:
        code, message = "invalid_matcher", "{reason}"
        raise PydanticCustomError(code, message, {"reason": str(error)}) from error
    return text


MatcherText = Annotated[str, AfterValidator(_checked_text), WithJsonSchema(_TEXT_SCHEMA)]


class CombinedMatcher(RequestPart):
    """Matchers that must all match; beside a glob with a `*`, a version range looks at what the `*` stands for."""

    all: tuple[MatcherText, ...] = Field(min_length=1, max_length=MAX_ALL_OF)


class _TextOrCombined:
    """Both forms of a matcher; unlike those of a union, errors have no form's name in the path of the field."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _either_form,
            handler.generate_schema(CombinedMatcher),
            serialization=core_schema.plain_serializer_function_ser_schema(_as_written),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [_TEXT_SCHEMA, handler(core)]}


def _either_form(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str):
        return _checked_text(value)
    if not isinstance(value, dict | CombinedMatcher):
        code, message = "matcher_type", 'a matcher is a text, or {"all": [...]} with texts that must all match'
        raise PydanticCustomError(code, message)
    return handler(value)


def _as_written(value: str | CombinedMatcher) -> Any:
    return value if isinstance(value, str) else {"all": list(value.all)}


Matcher = Annotated[str | CombinedMatcher, _TextOrCombined]
Matchers = Annotated[tuple[Matcher, ...], Field(max_length=MAX_MATCHERS)]


def matches_of(matcher: str | CombinedMatcher) -> Matches:
    """Return the function that a matcher of either form stands for."""
    return parse_matcher(matcher) if isinstance(matcher, str) else parse_all_of(matcher.all)


class RepositorySelection(RequestPart):
    """Which repositories of a pattern are taken: any include and no exclude must match."""

    include: Matchers = ()
    exclude: Matchers = ()


class ArtifactTypeSelection(RequestPart):
    """Which kinds of artifacts are taken, by `artifactType` or the config's media type: as repositories are."""

    include: Matchers = ()
    exclude: Matchers = ()


class TagSelection(RequestPart):
    """Which tags are taken: any include and no exclude must match; of those the `newest` N are kept.

    What `always` matches is kept beside them and not counted. Where fewer than `min_matches` are left of what a
    repository holds, nothing of it is copied and the listing has failed: a repository that was emptied is not mirrored.
    """

    include: Matchers = ()
    exclude: Matchers = ()
    always: Matchers = ()
    newest: int | None = Field(default=None, ge=1, le=100_000)
    newest_by: Literal["version", "natural", "created"] = Field(
        default="version",
        description="What is newest: the highest version and then natural order, natural order alone, or what was "
        "created last, which costs two to three requests a tag.",
    )
    min_matches: int | None = Field(default=None, ge=1, le=100_000)
