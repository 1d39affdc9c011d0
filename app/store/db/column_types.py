"""Column types that behave the same on SQLite and PostgreSQL, and how values in JSON columns are written and read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB

from app.domain.job import JobPause
from app.domain.plan import Listing
from app.domain.report import ExecutionError, FailureCount, JobWarning, SelectionCount

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""Any JSON document; `None` is SQL's NULL."""

Serial = BigInteger().with_variant(Integer, "sqlite")
"""A number the database gives out; SQLite numbers rows by plain INTEGER columns only."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite stores it as text without an offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time that does not say where it is."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive time can't be stored: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 — the base's signature
        """Return what was stored, aware."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def error_document(error: ExecutionError | None) -> dict[str, Any] | None:
    """Write an execution error, leaving out what it does not say."""
    if error is None:
        return None
    return {key: value for key, value in asdict(error).items() if value not in (None, ())}


def read_error(document: dict[str, Any] | None) -> ExecutionError | None:
    """Read an execution error."""
    if document is None:
        return None
    return ExecutionError(**{**document, "failures": read_failures(document.get("failures"))})


def failure_documents(failures: tuple[FailureCount, ...]) -> list[dict[str, Any]] | None:
    """Write what images failed for; null for nothing."""
    return [asdict(failure) for failure in failures] or None


def read_failures(documents: list[dict[str, Any]] | None) -> tuple[FailureCount, ...]:
    """Read what images failed for."""
    return tuple(FailureCount(**document) for document in documents or ())


def warning_documents(warnings: tuple[JobWarning, ...]) -> list[dict[str, Any]]:
    """Write a job's warnings."""
    return [asdict(warning) for warning in warnings]


def read_warnings(documents: list[dict[str, Any]]) -> tuple[JobWarning, ...]:
    """Read a job's warnings; those that an older release wrote have one text each."""
    return tuple(
        JobWarning(document["code"], (document["message"],))
        if "message" in document
        else JobWarning(**{**document, "first": tuple(document["first"])})
        for document in documents
    )


def selection_documents(counts: Iterable[SelectionCount]) -> list[dict[str, Any]]:
    """Write how many tags and repositories rules take and drop."""
    return [asdict(count) for count in counts]


def read_selection(documents: list[dict[str, Any]] | None) -> tuple[SelectionCount, ...]:
    """Read how many tags and repositories rules take and drop."""
    return tuple(SelectionCount(**{**document, "first": tuple(document["first"])}) for document in documents or ())


def listing_documents(listings: Iterable[Listing]) -> list[dict[str, Any]]:
    """Write lists that are to be had."""
    return [asdict(listing) for listing in listings]


def read_listings(documents: list[dict[str, Any]] | None) -> frozenset[Listing] | None:
    """Read lists that are to be had; None for all."""
    return None if documents is None else frozenset(Listing(**document) for document in documents)


def pause_document(pause: JobPause | None) -> dict[str, Any] | None:
    """Write what a job waits for."""
    return None if pause is None else {**asdict(pause), "until": pause.until.isoformat()}


def read_pause(document: dict[str, Any] | None) -> JobPause | None:
    """Read what a job waits for."""
    if document is None:
        return None
    return JobPause(**{**document, "until": datetime.fromisoformat(document["until"])})


def is_id(text: str) -> bool:
    """Return whether a text has the form of our ids; only then may a column of ids be asked for it."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
