"""How this process stands with registries, written for the API to show and set on the gauges of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from app.domain.registry_state import RegistryState
from app.observability import (
    REGISTRY_CERTIFICATE_EXPIRES,
    REGISTRY_IN_FLIGHT,
    REGISTRY_LAST_ERROR,
    REGISTRY_LOGIN_EXPIRES,
    REGISTRY_LOGIN_FAILING,
    REGISTRY_LOGIN_VALID_UNTIL,
    REGISTRY_PAUSED_UNTIL,
    REGISTRY_QUOTA,
    REGISTRY_WINDOW,
    get_logger,
)
from app.registry.client import ClientPool
from app.store.db.database import Database
from app.store.registry_states import RegistryStateStore
from app.worker.shared_state import SAME_PAUSE

log = get_logger(__name__)

REPUBLISH = timedelta(minutes=1)
"""How often a process writes how it stands with registries though nothing has changed: so it is known to be alive."""


class PublishedRegistryStates:
    """Writes how this process stands with registries, for the API and the metrics to show.

    - `pool`: the windows of this process
    - `worker`: its id, under which it writes
    """

    def __init__(self, database: Database, pool: ClientPool, *, worker: str, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._pool = pool
        self._worker = worker
        self._clock = clock
        self._published: dict[str, RegistryState] = {}
        self._published_at = clock() - REPUBLISH

    async def publish(self) -> None:
        """Write what has changed, and now and then all of it; raise `UnavailableError`."""
        now, states = self._clock(), self._pool.registry_states()
        _show_metrics(states, self._pool.login_ends())
        is_due = now - self._published_at >= REPUBLISH
        news = {name: state for name, state in states.items() if is_due or self._is_news(name, state)}
        if news:
            async with self._database.transaction() as session:
                await RegistryStateStore(session).put(news, worker=self._worker, now=now)
            self._log_pauses(news)
            self._published |= news
        if is_due:
            self._published_at = now

    def _log_pauses(self, news: Mapping[str, RegistryState]) -> None:
        for name, state in news.items():
            known = self._published.get(name)
            was_paused = known is not None and known.paused_until is not None
            if state.paused_until is not None and not was_paused:
                log.info("registry_paused", registry=name, until=state.paused_until.isoformat(), reason=state.reason)

    def _is_news(self, name: str, state: RegistryState) -> bool:
        known = self._published.get(name)
        if known is None:
            return True
        has_same_end = _is_same_moment(known.paused_until, state.paused_until)
        return replace(known, paused_until=None) != replace(state, paused_until=None) or not has_same_end


def _is_same_moment(one: datetime | None, other: datetime | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SAME_PAUSE


def _show_metrics(states: Mapping[str, RegistryState], login_ends: Mapping[str, datetime | None]) -> None:
    for name, ends_at in login_ends.items():
        REGISTRY_LOGIN_EXPIRES.labels(name).set(ends_at.timestamp() if ends_at else 0)
    for name, state in states.items():
        REGISTRY_WINDOW.labels(name).set(state.window)
        REGISTRY_IN_FLIGHT.labels(name).set(state.in_flight)
        REGISTRY_PAUSED_UNTIL.labels(name).set(state.paused_until.timestamp() if state.paused_until else 0)
        if state.certificate_ends_at is not None:
            REGISTRY_CERTIFICATE_EXPIRES.labels(name).set(state.certificate_ends_at.timestamp())
        if state.login is not None:
            until = state.login.valid_until
            REGISTRY_LOGIN_VALID_UNTIL.labels(name).set(until.timestamp() if until else 0)
            REGISTRY_LOGIN_FAILING.labels(name).set(state.login.last_error is not None)
        if state.quota is not None:
            REGISTRY_QUOTA.labels(name).set(state.quota.remaining)
        if state.last_error is not None:
            REGISTRY_LAST_ERROR.labels(name, state.last_error.code).set(state.last_error.at.timestamp())
