"""Validation errors, reported field by field as the caller wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from app.api.known_fields import KnownFields
from app.api.schemas.problems import FieldProblem
from app.api.schemas.registries import REGISTRY_NAME_PATTERN as NAME_PATTERN
from app.redaction import without_secrets

Path = tuple[str | int, ...]

_CODES = {
    "assertion_error": "invalid_value",
    "extra_forbidden": "unknown_field",
    "model_attributes_type": "object_type",
    "model_type": "object_type",
    "tuple_type": "list_type",
    "value_error": "invalid_value",
}
"""Codes of ours for those of pydantic that speak of Python."""
_DETAILS = {
    "bool_parsing": "this has to be true or false",
    "bool_type": "this has to be true or false",
    "dict_type": "this has to be a JSON object",
    "finite_number": "this has to be a finite number",
    "float_parsing": "this has to be a number",
    "float_type": "this has to be a number",
    "greater_than": "this has to be more than {gt}",
    "greater_than_equal": "this has to be {ge} or more",
    "int_from_float": "this has to be a whole number",
    "int_parsing": "this has to be a whole number",
    "int_type": "this has to be a whole number",
    "less_than": "this has to be less than {lt}",
    "less_than_equal": "this has to be {le} or less",
    "list_type": "this has to be a list, in [ ], even of one item",
    "missing": "this is required",
    "repeated": "this is taken once",
    "object_type": "this has to be a JSON object",
    "string_too_long": "this may have {max_length} characters at the most",
    "string_too_short": "this may not be empty",
    "string_type": "this has to be a text",
    "too_long": "this may have {max_length} items at the most, and has {actual_length}",
    "too_short": "this needs at least {min_length} item",
    "union_tag_not_found": "this needs a {discriminator} that says which kind it is",
    "union_tag_invalid": "{tag!r} is no kind of this; there are: {expected_tags}",
    "uuid_parsing": "this has to be an id of the service's, such as 01a20a83-6c5b-7a3e-8f51-6a1d2c7e9b04",
    "uuid_type": "this has to be an id of the service's, such as 01a20a83-6c5b-7a3e-8f51-6a1d2c7e9b04",
    "unknown_field": "there is no such field",
}
"""Words for the errors that pydantic puts in terms of Python, with what its context knows."""
_DETAILS_OF_PATTERNS = {
    NAME_PATTERN: "a name has 1 to 63 small letters, digits, '.', '_' and '-', and begins and ends with one of the "
    "first two",
    r"^[^:]*$": "a user name has no colon",
    r"^[A-Za-z0-9][A-Za-z0-9._/-]*$": "a label's key has letters, digits, '.', '_', '/' and '-', and begins with one "
    "of the first two",
    r"^[^\x00]*$": "this has no NUL character",
}
_MEMBER = re.compile(r"<\w+\.\w+: ('[^']*')>")
"""How an enum's member looks where pydantic lists what is allowed."""
_ALLOWED = re.compile(r"'([^']*)'")


def field_problems(
    found: Sequence[Mapping[str, Any]], *, body: Any, known: KnownFields | None = None
) -> list[FieldProblem]:
    """Return one problem per field, named as the caller wrote it; where a check reads several, its error says which.

    `known` are the operation's fields, where an unknown one is among what was found.
    """
    problems: dict[tuple[str | None, str | None, str], FieldProblem] = {}
    locations = [tuple(error["loc"]) for error in found]
    for error in found:
        if error["type"] == "too_short" and _has_more_below(tuple(error["loc"]), locations):
            continue  # pydantic counts the items that passed: a list of one wrong item is "too short" as well
        problem = _problem_of(error, body, known)
        problems.setdefault((problem.pointer, problem.parameter, problem.code), problem)
    return list(problems.values())


def as_written(path: Path, body: Any) -> Path:
    """Undo what reading did to the path of a field.

    The short form's `source` was checked as `rules/0/source`, a lone text as a list, and what depends on an object's
    `type` under the name of that type.
    """
    if isinstance(body, Mapping) and "rules" not in body and path[:2] == ("rules", 0):
        path = path[2:]
    written: Path = ()
    for part in path:
        if isinstance(body, str):
            return written
        if isinstance(body, Mapping) and part not in body and part == body.get("type"):
            continue
        written += (part,)
        body = _below(body, part)
    return written


def pointer(path: Path) -> str:
    """Write a path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


MAX_INDEX_DIGITS = 9
"""Of a place in a list; a longer number is the name of a field, and `int` refuses thousands of digits."""


def path_of(text: str) -> Path:
    """Read a JSON pointer."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]
    return tuple(int(part) if part.isdecimal() and len(part) <= MAX_INDEX_DIGITS else part for part in parts)


def _problem_of(error: Mapping[str, Any], body: Any, known: KnownFields | None) -> FieldProblem:
    code = _CODES.get(error["type"], error["type"])
    detail = without_secrets(_detail_of(error, code))
    kind, *rest = error["loc"]
    path = (*rest, *error.get("ctx", {}).get("field", ()))
    if kind != "body":
        if code == "unknown_field":
            detail = "there is no such parameter"
            detail += f"; {known.advice_for_parameter(str(path[0]))}" if known else ""
        return FieldProblem(parameter=str(path[0]), code=code, detail=detail)
    path = as_written(path, body)
    if code == "missing" and not path:
        detail = "the request has no body: send a JSON object, with Content-Type: application/json"
    elif code == "unknown_field" and known and (advice := known.advice_for_field(path)):
        detail = f"{detail}; {advice}"
    return FieldProblem(pointer=pointer(path), code=code, detail=detail)


def _detail_of(error: Mapping[str, Any], code: str) -> str:
    """Say what is wrong, in our words where pydantic's are about Python."""
    context = error.get("ctx", {})
    if code in {"enum", "literal_error"}:
        return _detail_of_choice(_MEMBER.sub(r"\1", context["expected"]), error["input"])
    if code == "string_pattern_mismatch":
        return _DETAILS_OF_PATTERNS.get(context["pattern"]) or f"this does not match {context['pattern']}"
    if code in _DETAILS:
        return _DETAILS[code].format_map(context)
    return str(error["msg"]).removeprefix("Value error, ")


def _detail_of_choice(expected: str, given: Any) -> str:
    allowed = _ALLOWED.findall(expected)
    meant = get_close_matches(given.lower(), allowed, n=1) if isinstance(given, str) else []
    return f"this has to be {expected}{f'; did you mean {meant[0]}?' if meant else ''}"


def _below(value: Any, part: str | int) -> Any:
    match value:
        case Mapping():
            return value.get(part)
        case list() if isinstance(part, int) and part < len(value):
            return value[part]
        case _:
            return None


def _has_more_below(path: Path, others: Sequence[Path]) -> bool:
    return any(len(other) > len(path) and other[: len(path)] == path for other in others)
