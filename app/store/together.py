"""Writing together: what came while the last was written goes into one transaction, and each who asked has an answer.

A transaction for each would spend most of its time on beginning and committing, and on SQLite, where one writes at a
time, each would wait for the disk by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from app.domain.errors import UnavailableError
from app.store.database import Database, Session

log = structlog.get_logger()

MOST_AT_ONCE = 64
"""How much one transaction writes: more would gain little, and keep others waiting for the locks it holds."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Write = Callable[[Session, Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]
"""Writes some, and returns what became of each, in order; an error there is that one's, and the others are written."""


@dataclass(frozen=True, slots=True, eq=False)
class _Wish(Generic[Item, Outcome]):
    item: Item
    outcome: asyncio.Future[Outcome]

    def settle(self, outcome: Outcome | Exception) -> None:
        if self.outcome.done():
            return  # who asked has gone
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Together(Generic[Item, Outcome]):
    """One kind of writing, for all who ask for it in this process; somebody waits, so it goes before other writing."""

    def __init__(self, database: Database, write: Write[Item, Outcome]) -> None:
        self._database = database
        self._write = write
        self._waiting: list[_Wish[Item, Outcome]] = []
        self._work: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Outcome:
        """Have one written and committed; raise its error, or what the transaction failed with.

        Whoever stops waiting for it may have it written all the same.
        """
        wish: _Wish[Item, Outcome] = _Wish(item, asyncio.get_running_loop().create_future())
        self._waiting.append(wish)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_waiting(), name="writing together")
        return await wish.outcome

    async def _write_waiting(self) -> None:
        while self._waiting:
            wishes, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            await self._write_all(wishes)

    async def _write_all(self, wishes: list[_Wish[Item, Outcome]]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            async with self._database.transaction(is_urgent=True) as session:
                outcomes = await self._write(session, [wish.item for wish in wishes])
        except UnavailableError as error:
            outcomes = [error] * len(wishes)
        except Exception as error:
            log.exception("not_written", number=len(wishes))
            if len(wishes) > 1:
                for wish in wishes:  # what is wrong with one is not to be the others' misfortune
                    await self._write_all([wish])
                return
            outcomes = [error]
        for wish, outcome in zip(wishes, outcomes, strict=True):
            wish.settle(outcome)
