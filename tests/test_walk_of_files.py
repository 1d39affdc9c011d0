"""The walk of one image from `POST /v1/jobs` to the tag at the destination, counted in files of `app/` that it enters.

Few files are a short way for who reads the code. Idle loops (heartbeat, retention, schedules, …) are not on the way.
"""

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import httpx
import pytest
from pydantic import SecretStr

from app.main import create_app
from app.security import Sealer
from app.settings import Settings
from tests.conftest import PROJECT, Namespace
from tests.support.images import oci_image
from tests.support.registries import RegistryProcess

MOST_FILES = 60
"""How many files are entered; lowered whenever it can be."""
APP = PROJECT / "app"
IDLE = frozenset({"Worker._repeat", "Scheduler.run", "PushMatcher.run", "Notifier.run"})
"""Tasks that do again and again what has nothing to do with this image."""


@contextmanager
def files_entered() -> Iterator[set[str]]:
    """Gather the files of `app/` that something is called in while inside, but not by idle tasks."""
    entered: set[str] = set()

    def enter(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(f"{APP}/") and not _is_idle():
            entered.add(str(Path(name).relative_to(APP)))

    sys.setprofile(enter)
    try:
        yield entered
    finally:
        sys.setprofile(None)


def _is_idle() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and getattr(task.get_coro(), "__qualname__", "") in IDLE


@pytest.fixture
async def client(migrated_sqlite: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    file = tmp_path / "registry-sync.db"
    shutil.copy(migrated_sqlite, file)
    settings = Settings(database_url=f"sqlite+aiosqlite:///{file}", secret_keys=(SecretStr(Sealer.make_key()),))
    app = create_app(settings, is_working=True)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            try:
                yield client
            finally:
                app.state.stopping.set()


@pytest.mark.timeout(600)
async def test_one_image_enters_few_files(
    client: httpx.AsyncClient, source: Namespace, destination: Namespace, tmp_path: Path
) -> None:
    image = oci_image("walk")
    source.push("app", image, "1")
    await enter(client, "source", source.registry)
    await enter(client, "destination", destination.registry)
    request = {"source": source.reference("app", "1"), "destination": destination.reference("app", "1")}

    with files_entered() as entered:
        answer = await client.post("/v1/jobs", json=request)
        await the_job_is_done(tmp_path / "registry-sync.db")

    assert answer.status_code == 202
    assert destination.tags("app") == {"1": image.digest}
    assert len(entered) <= MOST_FILES, sorted(entered)


async def the_job_is_done(file: Path) -> None:
    """Ask the database itself, which enters no file; at the tag, what is recorded of it may or may not have begun."""
    with closing(sqlite3.connect(file)) as database:
        while database.execute("SELECT finished_at FROM jobs").fetchone()[0] is None:  # noqa: ASYNC110 — no event tells of another connection
            await asyncio.sleep(0.02)


async def enter(client: httpx.AsyncClient, name: str, registry: RegistryProcess) -> None:
    body = {"host": registry.host, "insecure": True}
    (await client.put(f"/v1/registries/{name}", json=body)).raise_for_status()
