"""What validation found, told field by field in the caller's own terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.schemas.problems import FieldProblem
from app.observability import without_secrets

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
    "list_type": "this has to be a list",
    "missing": "this is required",
    "object_type": "this has to be a JSON object",
    "unknown_field": "there is no such field",
}


def field_problems(found: Sequence[Mapping[str, Any]], *, body: Any) -> list[FieldProblem]:
    """Name each field as the caller wrote it; where a check looks at several, its error's `field` says which."""
    problems: dict[tuple[str | None, str | None, str], FieldProblem] = {}
    locations = [tuple(error["loc"]) for error in found]
    for error in found:
        if error["type"] == "too_short" and _has_more_below(tuple(error["loc"]), locations):
            continue  # pydantic counts the items that passed: a list of one wrong item is "too short" as well
        problem = _problem_of(error, body)
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


def path_of(text: str) -> Path:
    """Read a JSON pointer."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _problem_of(error: Mapping[str, Any], body: Any) -> FieldProblem:
    code = _CODES.get(error["type"], error["type"])
    detail = _DETAILS.get(code) or without_secrets(str(error["msg"]).removeprefix("Value error, "))
    kind, *rest = error["loc"]
    path = (*rest, *error.get("ctx", {}).get("field", ()))
    if kind == "body":
        return FieldProblem(pointer=pointer(as_written(path, body)), code=code, detail=detail)
    return FieldProblem(parameter=str(path[0]), code=code, detail=detail)


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
