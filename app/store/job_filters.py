"""The filters of the list of jobs, as a statement that reads along an index.

Equal values have indexes of their own. What texts contain is looked for in the rows that are read anyway, the newest
first: as many as it takes to fill a page, and at most those that retention leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, cast, func, literal_column, or_, select, tuple_, union_all
from sqlalchemy.dialects.postgresql import JSONPATH

from app.domain.access import VisibleJobs
from app.domain.job import JobFilter, JobState
from app.domain.page import SortKey
from app.store.db.name_patterns import is_named
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobLabelRow, JobRow

_jobs = table_of(JobRow)
_labels = table_of(JobLabelRow)
_SOURCES, _DESTINATIONS = "$.rules[*].source", "$.rules[*].destination[*]"
Test = Callable[[ColumnElement[str]], ColumnElement[bool]]


def list_statement(
    wanted: JobFilter, limit: int, after: SortKey | None, *, visible: VisibleJobs | None, is_sqlite: bool
) -> Select[Any]:
    """Return the statement of a page of jobs, newest first, and one job more that says whether there is another.

    With `visible` only jobs among those are on the page.
    """
    states = dict.fromkeys(wanted.states)
    if len(states) < 2:  # noqa: PLR2004 — none, or one
        return _page(wanted, next(iter(states), None), after, visible=visible, is_sqlite=is_sqlite).limit(limit + 1)
    # One index range a state, each in its order: so no more is sorted than a page of each.
    pages = [
        _page(wanted, state, after, visible=visible, is_sqlite=is_sqlite)
        .with_only_columns(_jobs.c.number)
        .limit(limit + 1)
        .subquery()
        for state in states
    ]
    numbers = union_all(*(select(page.c.number) for page in pages))
    statement = select(_jobs).where(_jobs.c.number.in_(numbers))
    return statement.order_by(_jobs.c.created_at.desc(), _jobs.c.number.desc()).limit(limit + 1)


def _page(
    wanted: JobFilter, state: JobState | None, after: SortKey | None, *, visible: VisibleJobs | None, is_sqlite: bool
) -> Select[Any]:
    statement = select(_jobs)
    if visible is not None:
        of_policies = _jobs.c.policy.is_not(None) & is_named(_jobs.c.policy, visible.policies)
        statement = statement.where((_jobs.c.created_by == visible.created_by) | of_policies)
    created_at, number = _jobs.c.created_at, _jobs.c.number
    for position, (key, value) in enumerate(dict.fromkeys(wanted.labels)):
        labels = _labels.alias(f"label_{position}")
        statement = statement.join(labels, labels.c.job_number == _jobs.c.number)
        statement = statement.where(labels.c.key == key, labels.c.value == value)
        if position == 0:
            created_at, number = labels.c.created_at, labels.c.job_number
    if state is not None:
        statement = statement.where(_jobs.c.state == state)
    equal = {
        _jobs.c.policy: wanted.policy,
        _jobs.c.created_by: wanted.created_by,
        _jobs.c.trigger_type: wanted.trigger,
        _jobs.c.kind: wanted.kind,
    }
    statement = statement.where(*(column == value for column, value in equal.items() if value is not None))
    if wanted.since is not None:
        statement = statement.where(created_at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(created_at < wanted.until)
    statement = statement.where(*_text_conditions(wanted, is_sqlite=is_sqlite))
    if after is not None:
        last_created_at = datetime.fromisoformat(str(after[0]))
        statement = statement.where(tuple_(created_at, number) < tuple_(last_created_at, int(after[1])))
    return statement.order_by(created_at.desc(), number.desc())


def _text_conditions(wanted: JobFilter, *, is_sqlite: bool) -> Iterator[ColumnElement[bool]]:
    if wanted.source is not None:
        yield _any_text(_jobs.c.request, _SOURCES, _beginning(wanted.source), is_sqlite=is_sqlite)
    if wanted.destination is not None:
        yield _any_text(_jobs.c.request, _DESTINATIONS, _beginning(wanted.destination), is_sqlite=is_sqlite)
    if wanted.q is not None:
        contains = _containing(wanted.q)
        error = _jobs.c.error
        yield or_(
            *_id_conditions(wanted.q),
            contains(_jobs.c.policy),
            contains(_jobs.c.created_by),
            contains(error["code"].as_string()),
            contains(error["message"].as_string()),
            _any_text(_jobs.c.labels, "$.*", contains, is_sqlite=is_sqlite),
            _any_text(_jobs.c.request, _SOURCES, contains, is_sqlite=is_sqlite),
            _any_text(_jobs.c.request, _DESTINATIONS, contains, is_sqlite=is_sqlite),
        )


def _id_conditions(text: str) -> Iterator[ColumnElement[bool]]:
    """Compare without dashes: SQLite stores ids without them."""
    digits = text.replace("-", "").lower()
    if digits and not digits.strip("0123456789abcdef"):
        yield func.replace(cast(_jobs.c.id, Text), "-", "", type_=Text()).contains(digits)


def _any_text(column: ColumnElement[Any], place: str, test: Test, *, is_sqlite: bool) -> ColumnElement[bool]:
    """Return whether a text at a place of a JSON document, given as a path of SQL/JSON, passes a test."""
    if is_sqlite:
        texts = func.json_tree(column).table_valued("atom", "fullkey")
        return select(texts.c.atom).where(texts.c.fullkey.like(place.replace("*", "%")), test(texts.c.atom)).exists()
    values = func.jsonb_path_query(column, cast(place, JSONPATH)).table_valued("value").render_derived()
    text: ColumnElement[str] = values.c.value.op("#>>", return_type=Text())(literal_column("'{}'"))
    return select(values.c.value).where(test(text)).exists()


def _beginning(text: str) -> Test:
    return lambda column: column.istartswith(text, autoescape=True)


def _containing(text: str) -> Test:
    return lambda column: column.icontains(text, autoescape=True)
