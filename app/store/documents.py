"""Values inside JSON columns: requests, errors, warnings; how they are written and read again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.domain.report import ExecutionError, JobWarning


def error_document(error: ExecutionError | None) -> dict[str, Any] | None:
    """Write an execution error, leaving out what it does not say."""
    if error is None:
        return None
    return {key: value for key, value in asdict(error).items() if value is not None}


def read_error(document: dict[str, Any] | None) -> ExecutionError | None:
    """Read an execution error."""
    return None if document is None else ExecutionError(**document)


def warning_documents(warnings: tuple[JobWarning, ...]) -> list[dict[str, Any]]:
    """Write a job's warnings."""
    return [asdict(warning) for warning in warnings]


def read_warnings(documents: list[dict[str, Any]]) -> tuple[JobWarning, ...]:
    """Read a job's warnings."""
    return tuple(JobWarning(**document) for document in documents)
