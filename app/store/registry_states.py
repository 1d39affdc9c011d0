"""How each worker process stands with registries, for the API to show; written every few seconds where it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.registry_state import LastErrorState, LoginState, QuotaState, RegistryState, combined_state
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.registries import RegistryStateRow

_states = table_of(RegistryStateRow)
FRESH = timedelta(minutes=3)
"""A worker writes at least once in this time; of one that does not, only what outlasts it is believed."""


class RegistryStateStore:
    """States in the transaction of a session, by the name of the registry's entry."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(self, states: Mapping[str, RegistryState], *, worker: str, now: datetime) -> None:
        """Write how a worker stands with registries."""
        statement = insert_into(self._session, _states)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=["name", "worker"], set_={"state": new.state, "updated_at": new.updated_at}
        )
        rows = [
            {"name": name, "worker": worker, "state": _document(state), "updated_at": now}
            for name, state in sorted(states.items())
        ]
        await self._session.execute(statement, rows)

    async def list_combined(self, *, now: datetime) -> dict[str, RegistryState]:
        """Read how all workers together stand with each registry they asked anything of lately."""
        found: dict[str, list[RegistryState]] = {}
        for row in await self._session.execute(select(_states).order_by(_states.c.name, _states.c.worker)):
            state = _state(row.state)
            if row.updated_at < now - FRESH:
                state = replace(state, window=0, in_flight=0, quota=None, login=None, certificate_ends_at=None)
            if state.paused_until is not None and state.paused_until <= now:
                state = replace(state, paused_until=None, reason=None)
            found.setdefault(row.name, []).append(state)
        return {name: combined_state(states) for name, states in found.items()}

    async def delete_before(self, moment: datetime) -> None:
        """Forget what was written before a moment."""
        await self._session.execute(delete(_states).where(_states.c.updated_at < moment))


def _document(state: RegistryState) -> dict[str, Any]:
    document = asdict(state)
    document["paused_until"] = _text(state.paused_until)
    document["certificate_ends_at"] = _text(state.certificate_ends_at)
    document["last_error"] = _error_document(state.last_error)
    if state.login is not None:
        document["login"] = {
            "type": state.login.type,
            "valid_until": _text(state.login.valid_until),
            "renewing_since": _text(state.login.renewing_since),
            "last_error": _error_document(state.login.last_error),
        }
    return document


def _error_document(error: LastErrorState | None) -> dict[str, Any] | None:
    return {**asdict(error), "at": error.at.isoformat()} if error is not None else None


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None


def _error(document: dict[str, Any] | None) -> LastErrorState | None:
    return LastErrorState(**{**document, "at": datetime.fromisoformat(document["at"])}) if document else None


def _login(document: dict[str, Any] | None) -> LoginState | None:
    """Read a login's state; what a release before this one wrote has none."""
    if document is None:
        return None
    return LoginState(
        document["type"],
        _moment(document["valid_until"]),
        _moment(document["renewing_since"]),
        _error(document["last_error"]),
    )


def _state(document: dict[str, Any]) -> RegistryState:
    quota = document["quota"]
    return RegistryState(
        window=document["window"],
        in_flight=document["in_flight"],
        paused_until=_moment(document["paused_until"]),
        reason=document["reason"],
        quota=QuotaState(**quota) if quota else None,
        last_error=_error(document["last_error"]),
        login=_login(document.get("login")),
        certificate_ends_at=_moment(document.get("certificate_ends_at")),
    )
