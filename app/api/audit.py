"""The audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response

from app.api.deps import Admin, TheService
from app.api.problems import problems
from app.api.queries import PageQuery, page_answer
from app.api.schemas.audit import AuditEntryOut, AuditPage
from app.domain.audit import AuditAction, AuditFilter

router = APIRouter(tags=["audit"])


class AuditQuery(PageQuery):
    """Which changes."""

    actor: str | None = Field(default=None, max_length=255)
    action: AuditAction | None = None
    target: str | None = Field(default=None, max_length=255)
    since: AwareDatetime | None = Field(default=None, description="At this time or later.")

    @property
    def wanted(self) -> AuditFilter:
        """The filter asked for."""
        return AuditFilter(actor=self.actor, action=self.action, target=self.target, since=self.since)


@router.get(
    "/v1/audit",
    summary="List who changed what",
    response_model=AuditPage,
    responses=problems("validation_failed", "invalid_cursor"),
)
async def list_audit(
    request: Request, *, _: Admin, service: TheService, query: Annotated[AuditQuery, Query()]
) -> Response:
    """List changes of keys, registries, policies, subscriptions and jobs, the newest first."""
    page = await service.audit.list(query.wanted, query.page)
    return page_answer(request, page, out=AuditPage, show=AuditEntryOut.of)
