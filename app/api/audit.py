"""The audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.api.dependencies import Auditor, TheService, page_answer
from app.api.problems import problems
from app.api.queries import Moment, PageQuery
from app.api.schemas.audit import AuditEntryOut, AuditPage
from app.domain.audit import AuditAction, AuditFilter

router = APIRouter(tags=["Audit"])


class AuditQuery(PageQuery):
    """Which changes."""

    actor: str | None = Field(default=None, max_length=255)
    action: AuditAction | None = None
    target: str | None = Field(default=None, max_length=255)
    since: Moment | None = Field(default=None, description="At this time or later.")

    @property
    def wanted(self) -> AuditFilter:
        """The filter asked for."""
        return AuditFilter(actor=self.actor, action=self.action, target=self.target, since=self.since)


@router.get(
    "/v1/audit",
    summary="List audit entries",
    response_model=AuditPage,
    responses=problems("validation_failed", "invalid_cursor"),
)
async def list_audit(
    request: Request, *, _: Auditor, service: TheService, query: Annotated[AuditQuery, Query()]
) -> Response:
    """List changes of keys, registries, policies, subscriptions and jobs, the newest first."""
    page = await service.audit.list(query.wanted, query.page)
    return page_answer(request, page, out=AuditPage, show=AuditEntryOut.of)
