"""Schedules of policies: a cron line in a time zone, with jitter, and what becomes of missed runs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.domain.duration import parse_duration

MAX_JITTER_SECONDS = 24 * 60 * 60
"""A day: more would be another schedule."""


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:  # by zoneinfo: unknown name, name of a folder, no name at all
        code, message = "invalid_timezone", "{name} is no time zone of the IANA database, such as Europe/Berlin"
        raise PydanticCustomError(code, message, {"name": name}) from error
    return name


def _cron_line(text: str) -> str:
    try:
        if len(text.split()) != 5:  # noqa: PLR2004 — minute, hour, day, month, weekday
            raise _invalid_cron("it has not five fields")
        next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise _invalid_cron(str(error)) from error
    except StopIteration as error:
        raise _invalid_cron("there is no such day") from error
    return text


def _invalid_cron(reason: str) -> PydanticCustomError:
    code, message = "invalid_cron", "not a cron line (minute hour day month weekday): {reason}"
    return PydanticCustomError(code, message, {"reason": reason})


def _jitter(text: str) -> str:
    if parse_duration(text) > MAX_JITTER_SECONDS:
        message = "a jitter is at most a day"
        raise ValueError(message)
    return text


class Schedule(BaseModel):
    """When a policy runs by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: Annotated[str, Field(max_length=256), AfterValidator(_cron_line)]
    timezone: Annotated[str, Field(max_length=64), AfterValidator(_known_timezone)] = "UTC"
    jitter: Annotated[str, AfterValidator(_jitter)] = "0s"
    """Up to this much later, the same for every process that asks: so that not all policies start at once."""
    catch_up: Literal["once", "skip"] = "once"
    """What becomes of runs that came due while no worker was there: one run for all of them, or none."""

    def next_after(self, moment: datetime, *, name: str) -> datetime:
        """Find the first run later than `moment`, in UTC; `name` (the policy's) decides its share of the jitter.

        The jitter is the same for all runs of a policy, so runs keep their order and their distance.
        """
        shift = timedelta(seconds=self._shift(name))
        local = (moment - shift).astimezone(ZoneInfo(self.timezone))
        return next(CronSim(self.cron, local)).astimezone(UTC) + shift

    def _shift(self, name: str) -> int:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return number % (parse_duration(self.jitter) + 1)
