"""Group commit: what came while the last transaction was written goes into the next one, and each caller has an answer.

A transaction for each would spend most of its time on beginning and committing, and on SQLite, which has one writer at
a time, each would wait for the disk by itself. Databases call it group commit for their log; here it is for requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from app.domain.errors import UnavailableError
from app.store.db.database import Database, Session

log = structlog.get_logger()

MOST_AT_ONCE = 64
"""How much one transaction writes: more would gain little, and keep others waiting for the locks it holds."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Write = Callable[[Session, Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]
"""Writes some, and returns what became of each, in order; an error there is that one's, and the others are written."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pending(Generic[Item, Outcome]):
    item: Item
    outcome: asyncio.Future[Outcome]

    def settle(self, outcome: Outcome | Exception) -> None:
        if self.outcome.done():
            return  # who asked has gone
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class GroupCommit(Generic[Item, Outcome]):
    """Group commit for one kind of write in this process; callers wait for it, so it goes before other writes.

    - `write`: writes a batch in one transaction and returns an outcome or an error for each item, in order
    - `linger_seconds`: how long the first of a batch waits for others; 0
    """

    def __init__(self, database: Database, write: Write[Item, Outcome], *, linger_seconds: float = 0.0) -> None:
        self._database = database
        self._write = write
        self._linger_seconds = linger_seconds
        self._waiting: list[_Pending[Item, Outcome]] = []
        self._work: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Outcome:
        """Have one written and committed; raise its error, or what the transaction failed with.

        A caller that is cancelled meanwhile may have it written all the same.
        """
        pending: _Pending[Item, Outcome] = _Pending(item, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_waiting(), name="writing together")
        return await pending.outcome

    async def _write_waiting(self) -> None:
        while self._waiting:
            if self._linger_seconds:
                await asyncio.sleep(self._linger_seconds)
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            await self._write_all(batch)

    async def _write_all(self, batch: list[_Pending[Item, Outcome]]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            async with self._database.transaction(is_urgent=True, is_short=True) as session:
                outcomes = await self._write(session, [pending.item for pending in batch])
        except UnavailableError as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            log.exception("not_written", number=len(batch))
            if len(batch) > 1:
                for pending in batch:  # what is wrong with one is not to be the others' misfortune
                    await self._write_all([pending])
                return
            outcomes = [error]
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.settle(outcome)
