"""What `registry-sync doctor` looks at on the machine it runs on: a line for each thing, with what to do about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.bootstrap.service import open_service
from app.bootstrap.startup import COMMAND_LINE, LOOPBACK, database_place, load_sealer
from app.clock import now
from app.domain.errors import RegistrySyncError, SettingsError
from app.services.check_requests import CheckRequest
from app.settings import PREFIX, Settings
from app.store.db.database import Database

CLOCK_SECONDS = 5.0
"""Leases, signatures and tokens are minutes long: a clock that is this far off is worth a line."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    text: str

    @property
    def line(self) -> str:
        """The finding in one line."""
        return f"{'ok  ' if self.ok else 'FAIL'} {self.what}: {self.text}"


async def examine(settings: Settings, *, check_registries: bool) -> list[Finding]:
    """Look at everything that can be looked at; what is below something broken is left out."""
    findings = [
        Finding(
            "settings", ok=True, text=f"database {database_place(settings)}, listens on {settings.host}:{settings.port}"
        )
    ]
    findings.append(_keys(settings))
    database = await _database(settings)
    findings.append(database)
    if not all(finding.ok for finding in findings):
        return findings
    async with open_service(settings) as service:
        has_keys = await service.keys.any_exists()
        is_open = not has_keys and settings.host not in LOOPBACK
        advice = "make one: registry-sync create-key --name admin --scope admin"
        text = "there are some" if has_keys else f"none yet, so callers on this machine may do everything; {advice}"
        findings.append(Finding("API keys", ok=not is_open, text=text))
        findings.append(await _clock(settings))
        for stored in await service.registries.list(caller=COMMAND_LINE) if check_registries else ():
            checked = await service.checks.check(stored.entry.name, CheckRequest(), caller=COMMAND_LINE)
            failed = [step for step in checked.steps if not step.ok and step.is_needed]
            text = "; ".join(f"{step.name}: {step.detail}" for step in failed) or "reached and logged in"
            findings.append(Finding(f"registry {stored.entry.name}", ok=not failed, text=text))
    return findings


def _keys(settings: Settings) -> Finding:
    file = Database(settings.database_url).file
    if file is not None and not (settings.secret_keys or settings.secret_keys_file):
        beside = Path(file).with_suffix(".keys")
        if not beside.is_file():
            return Finding("secret keys", ok=True, text=f"none yet; the first start makes {beside}")
    try:
        load_sealer(settings)
    except SettingsError as error:
        return Finding("secret keys", ok=False, text=str(error))
    return Finding("secret keys", ok=True, text="they seal and open; keep a copy apart from the database")


async def _database(settings: Settings) -> Finding:
    database = Database(settings.database_url)
    if database.file is not None and not await asyncio.to_thread(Path(database.file).is_file):
        return Finding("database", ok=False, text=f"{database.file} is not there; `registry-sync serve` makes it")
    try:
        await database.check_schema()
    except RegistrySyncError as error:
        return Finding("database", ok=False, text=f"{error.message}; see {PREFIX}DATABASE_URL")
    finally:
        await database.aclose()
    return Finding("database", ok=True, text="it answers, and its schema is current")


async def _clock(settings: Settings) -> Finding:
    database = Database(settings.database_url)
    if database.is_sqlite:
        return Finding("clock", ok=True, text=f"this machine's, {now():%Y-%m-%d %H:%M:%S} UTC")
    connection = await database.connect()
    try:
        theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    finally:
        await connection.close()
        await database.aclose()
    off = abs((now() - theirs).total_seconds())
    if off > CLOCK_SECONDS:
        return Finding("clock", ok=False, text=f"{off:.0f} s away from the database's; let NTP set both")
    return Finding("clock", ok=True, text="as the database's")
