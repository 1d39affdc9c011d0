"""The audit log: list its entries; they are written where things change, in the same transactions."""

from __future__ import annotations

from app.domain.audit import AuditEntry, AuditFilter
from app.domain.page import Page, PageRequest
from app.store.audit import AuditStore
from app.store.db.database import Database


class AuditService:
    """List who changed what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, wanted: AuditFilter, page: PageRequest) -> Page[AuditEntry]:
        """Read a page of the log, newest first."""
        async with self._database.reading() as session:
            return await AuditStore(session).list(wanted, page)
