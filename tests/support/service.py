"""The service as its users run it: `registry-sync serve` and `work` in processes of their own, in an empty folder.

with ServiceProcess(folder) as service:
    job = service.run_job({"source": ..., "destination": ...})
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import httpx

from tests.support.preloaded import Preloaded
from tests.support.processes import Program, free_port
from tests.support.registries import RegistryProcess

READY_SECONDS = 120.0
JOB_SECONDS = 240.0
POLL_SECONDS = 0.05
LONG_LIVED = ("serve", "work")
ROOT = Path(__file__).parent.parent.parent


class AppProcess:
    """One `registry-sync` command in a folder, with only the settings given to it.

    - `is_preloaded`: whether its modules may be loaded already; False starts Python anew, as users do
    """

    preloaded: ClassVar[Preloaded | None] = None
    """What long-lived commands are forked from; None where there is none."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        is_preloaded: bool = True,
    ) -> None:
        self._preloaded = self.preloaded if is_preloaded and arguments[0] in LONG_LIVED else None
        self.folder = folder
        self.arguments = arguments
        self.settings = {"LOG_FORMAT": "json", **(settings or {})}
        self.program: Program | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.arguments[0]}.log"

    def start(self) -> None:
        """Start the command; a stopped or killed one may be started again."""
        environment = {
            "PYTHONPATH": str(ROOT),
            **{f"REGISTRY_SYNC_{name}": value for name, value in self.settings.items()},
        }
        inherited = sorted(name for name in os.environ if name.startswith("REGISTRY_SYNC_"))
        if self._preloaded is not None:
            clean = {name: value for name, value in os.environ.items() if name not in inherited}
            self.program = self._preloaded.start(
                self.arguments, log=self.log, environment=clean | environment, folder=self.folder
            )
        else:
            self.program = Program(
                ["env", *(f"--unset={name}" for name in inherited), sys.executable, "-m", "app", *self.arguments],
                log=self.log,
                environment=environment,
                folder=self.folder,
            )

    def stop(self) -> None:
        """Ask it to end in good order (SIGTERM) and wait for that."""
        self.running.end(seconds=60)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.running.kill()

    def close(self) -> None:
        """End it if it still runs."""
        if self.program is not None:
            self.program.end(seconds=30)

    @property
    def running(self) -> Program:
        """The program; an error before the first start."""
        if self.program is None:
            raise RuntimeError("the process was never started")
        return self.program


class ServiceProcess(AppProcess):
    """`registry-sync serve`, with a client of its API."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        is_preloaded: bool = True,
    ) -> None:
        self.port = free_port()
        super().__init__(
            folder, "serve", "--port", str(self.port), *arguments, settings=settings, is_preloaded=is_preloaded
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=70)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        super().start()
        self.running.wait_until(self._is_ready, seconds=READY_SECONDS)

    def close(self) -> None:
        """End it and its client."""
        super().close()
        self.client.close()

    def enter(self, name: str, registry: RegistryProcess, **more: Any) -> None:
        """Enter a plain-http registry under a name."""
        body = {"host": registry.host, "insecure": True, **more}
        self.client.put(f"/v1/registries/{name}", json=body).raise_for_status()

    def submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a request and return the job as accepted."""
        answer = self.client.post("/v1/jobs", json=dict(request))
        if answer.status_code != httpx.codes.ACCEPTED:
            raise AssertionError(f"submit answered {answer.status_code}: {answer.text}")
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job as it is now."""
        job: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return job

    def follow_until(
        self, job_id: str, reached: Callable[[dict[str, Any]], bool], *, seconds: float = JOB_SECONDS
    ) -> dict[str, Any]:
        """Poll a job until a condition holds and return it as it was then; a job that ends first is an error."""
        deadline = time.monotonic() + seconds
        while not reached(job := self.job(job_id)):
            if job["done"] or time.monotonic() > deadline:
                raise AssertionError(f"job {job_id} never came to what was waited for: {job}")
            time.sleep(POLL_SECONDS / 5)
        return job

    def follow(
        self, job_id: str, *, seconds: float = JOB_SECONDS, show: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Poll a job until it is done and return it; `show` sees every answer."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if show is not None:
                show(job)
            if job["done"]:
                return job
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} was not done within {seconds} s: {job}\n{self.running.log_tail()}")
            time.sleep(POLL_SECONDS)

    def run_job(self, request: Mapping[str, Any], *, seconds: float = JOB_SECONDS) -> dict[str, Any]:
        """Submit a request and return the job when it is done."""
        return self.follow(self.submit(request)["id"], seconds=seconds)

    def images(self, job_id: str) -> list[dict[str, Any]]:
        """Return all images of a job, page by page."""
        found: list[dict[str, Any]] = []
        following: str | None = f"/v1/jobs/{job_id}/images?limit=200"
        while following:
            page = self.client.get(following).raise_for_status()
            found += page.json()["items"]
            following = page.links.get("next", {}).get("url")
        return found

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False
