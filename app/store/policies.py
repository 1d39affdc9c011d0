"""Policies: stored, listed, and claimed when they are due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import NotFoundError
from app.domain.job import JobState
from app.domain.page import Page, PageRequest, cursor_after
from app.domain.pattern import SourcePattern
from app.domain.policy import LastJob, Policy, StoredPolicy
from app.domain.reference import Registry, Repository
from app.store.db.name_patterns import is_named
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow
from app.store.tables.policies import PolicyRow, PolicySourceRow

_policies = table_of(PolicyRow)
_sources = table_of(PolicySourceRow)
_jobs = table_of(JobRow)


class PolicyStore:
    """Policies in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(self, policy: Policy, *, next_run_at: datetime | None, now: datetime) -> bool:
        """Keep a policy, new or in the place of the one before; return whether it is new."""
        values = {
            "document": policy.model_dump(mode="json"),
            "is_on_push": policy.enabled and policy.on_push,
            "next_run_at": next_run_at,
            "updated_at": now,
        }
        mine = update(_policies).where(_policies.c.name == policy.name)
        changed = mine.values(version=_policies.c.version + 1).returning(_policies.c.name)
        is_new = (await self._session.execute(changed, values)).one_or_none() is None
        if is_new:
            await self._session.execute(insert(_policies), {"name": policy.name, "created_at": now, **values})
        await self._session.execute(delete(_sources).where(_sources.c.policy == policy.name))
        places = sorted({_place(rule.source_pattern) for rule in policy.rules})
        rows = [{"policy": policy.name, "host": host, "path": path} for host, path in places]
        await self._session.execute(insert(_sources), rows)
        return is_new

    async def find(self, name: str, *, for_update: bool = False) -> StoredPolicy | None:
        """Return a policy or None; with `for_update` it is locked against changes and submissions until the commit."""
        if for_update:
            await self._session.execute(select(_policies.c.name).where(_policies.c.name == name).with_for_update())
        row = (await self._session.execute(_with_last_job().where(_policies.c.name == name))).one_or_none()
        return None if row is None else _stored(row)

    async def find_names(self, names: Collection[str]) -> set[str]:
        """Return which of these names are taken."""
        return set(await self._session.scalars(select(_policies.c.name).where(_policies.c.name.in_(names))))

    async def get(self, name: str, *, for_update: bool = False) -> StoredPolicy:
        """Read a policy; raise `NotFoundError`."""
        existing = await self.find(name, for_update=for_update)
        if existing is None:
            raise NotFoundError(f"there is no policy {name[:64]!r}")
        return existing

    async def list(self, page: PageRequest, *, visible: Sequence[str] = ("*",)) -> Page[StoredPolicy]:
        """Read a page of policies, by name: those that are called as `visible` says, or begin as it says with `*`."""
        after = page.after("policies")
        statement = _with_last_job().where(is_named(_policies.c.name, visible))
        statement = statement.order_by(_policies.c.name).limit(page.limit + 1)
        if after is not None:
            statement = statement.where(_policies.c.name > str(after[0]))
        rows = (await self._session.execute(statement)).all()
        items = tuple(_stored(row) for row in rows[: page.limit])
        if len(rows) <= page.limit:
            return Page(items)
        return Page(items, cursor_after((items[-1].policy.name,), bound_to="policies"))

    async def list_on_push(self, repositories: Collection[Repository]) -> tuple[Policy, ...]:
        """Read the policies that pushes to some repositories of one registry may set off, by name."""
        hosts = {repository.registry for repository in repositories}
        paths = {path for repository in repositories for path in _at_and_above(repository.path)}
        wanted = select(_sources.c.policy).where(_sources.c.host.in_(hosts), _sources.c.path.in_(paths))
        mine = _policies.c.is_on_push & _policies.c.name.in_(wanted.scalar_subquery())
        documents = await self._session.execute(select(_policies.c.document).where(mine).order_by(_policies.c.name))
        return tuple(Policy.model_validate(document) for document in documents.scalars())

    async def list_naming(self, registry: Registry) -> tuple[str, ...]:
        """List the names of policies that copy from or to a registry."""
        rows = await self._session.execute(select(_policies.c.name, _policies.c.document).order_by(_policies.c.name))
        policies = {row.name: Policy.model_validate(row.document) for row in rows}
        return tuple(
            name
            for name, policy in policies.items()
            if any(
                registry == rule.source_pattern.registry
                or any(registry == template.registry for template in rule.destination_templates)
                for rule in policy.rules
            )
        )

    async def lock(self, names: Collection[str]) -> tuple[Policy, ...]:
        """Read those of some policies that pushes set off, by name, and hold them."""
        mine = _policies.c.name.in_(names) & _policies.c.is_on_push
        statement = select(_policies.c.document).where(mine).order_by(_policies.c.name).with_for_update()
        documents = (await self._session.execute(statement)).scalars()
        return tuple(Policy.model_validate(document) for document in documents)

    async def list_due(self, now: datetime, *, limit: int) -> tuple[StoredPolicy, ...]:
        """Read policies that are due, the longest waiting first."""
        due = _with_last_job().where(_policies.c.next_run_at <= now).order_by(_policies.c.next_run_at).limit(limit)
        return tuple(_stored(row) for row in await self._session.execute(due))

    async def claim_run(self, due: StoredPolicy, *, next_run_at: datetime | None) -> bool:
        """Move a due policy on to its next run; say whether this caller did it, and so has the run.

        Of many that try, one succeeds; none does when the policy was changed since it was read.
        """
        unmoved = (
            (_policies.c.name == due.policy.name)
            & (_policies.c.next_run_at == due.next_run_at)
            & (_policies.c.version == due.version)
        )
        moved = update(_policies).where(unmoved).values(next_run_at=next_run_at).returning(_policies.c.name)
        return (await self._session.execute(moved)).one_or_none() is not None

    async def note_job(self, name: str, job_id: str) -> None:
        """Remember the job made last for a policy."""
        await self._session.execute(update(_policies).where(_policies.c.name == name).values(last_job_id=job_id))

    async def delete(self, name: str) -> None:
        """Remove a policy; raise `NotFoundError`."""
        statement = delete(_policies).where(_policies.c.name == name).returning(_policies.c.name)
        if (await self._session.execute(statement)).one_or_none() is None:
            raise NotFoundError(f"there is no policy {name[:64]!r}")


def _place(source: SourcePattern) -> tuple[str, str]:
    return source.registry, source.namespace if source.repository is None else source.repository.path


def _at_and_above(path: str) -> tuple[str, ...]:
    """List a path and all it is below: `a/b/c`, `a/b`, `a`, and the root."""
    parts = path.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts) + 1))


def _with_last_job() -> Select[Any]:
    last_job = (
        _jobs.c.id.label("job_id"),
        _jobs.c.state.label("job_state"),
        _jobs.c.trigger_type.label("job_trigger"),
        _jobs.c.created_at.label("job_created_at"),
        _jobs.c.finished_at.label("job_finished_at"),
    )
    return select(_policies, *last_job).outerjoin(_jobs, _jobs.c.id == _policies.c.last_job_id)


def _stored(row: Row[Any]) -> StoredPolicy:
    last_job = None
    if row.job_id is not None:
        state = JobState(row.job_state)
        last_job = LastJob(row.job_id, state, row.job_trigger, row.job_created_at, row.job_finished_at)
    return StoredPolicy(
        policy=Policy.model_validate(row.document),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        next_run_at=row.next_run_at,
        last_job=last_job,
    )
