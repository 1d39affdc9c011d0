"""The same work done by this service and by skopeo (`apt-get install skopeo`), in turn, on the same two registries."""

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks.tables import Row
from tests.support.images import blob, oci_image
from tests.support.plain_client import PlainClient
from tests.support.registries import RegistryProcess
from tests.support.service import ServiceProcess

ROUNDS = 3
REPOSITORIES = 10
TAGS = 20
LARGE_BYTES = 512 * 1024 * 1024


def measure() -> Iterator[Row]:
    """Yield seconds of ours against skopeo's: many small images cold, the same again with nothing to do, one large."""
    skopeo = shutil.which("skopeo")
    for what, fill, names in (
        (f"{REPOSITORIES * TAGS} small images", fill_small, [f"small-{number}" for number in range(REPOSITORIES)]),
        (f"one layer of {LARGE_BYTES // 1024**2} MiB", fill_large, ["large"]),
    ):
        ours: dict[str, list[float]] = {"cold": [], "again": []}
        theirs: dict[str, list[float]] = {"cold": [], "again": []}
        for _ in range(ROUNDS):
            with ExitStack() as stack:
                source, for_us, for_them = (stack.enter_context(RegistryProcess()) for _ in range(3))
                with PlainClient.of(source) as client:
                    fill(client)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                service = stack.enter_context(ServiceProcess(folder))
                service.enter("source", source)
                service.enter("destination", for_us)
                for state in ("cold", "again"):
                    ours[state].append(timed(partial(run_ours, service, source, for_us)))
                    if skopeo:
                        theirs[state].append(timed(partial(run_skopeo, skopeo, (source, for_them), names)))
        for state in ("cold", "again"):
            against = statistics.median(theirs[state]) if skopeo else None
            yield Row(f"{what}, {state}", statistics.median(ours[state]), "s", against, "skopeo sync" if skopeo else "")


def fill_small(client: PlainClient) -> None:
    """Push images that share a base layer and one layer per repository."""
    for number in range(REPOSITORIES):
        for tag in range(TAGS):
            seeds = [("base", 200_000), (f"small-{number}", 50_000), (f"small-{number}:{tag}", 5_000)]
            layers = [blob(seed, size=size) for seed, size in seeds]
            client.push(f"small-{number}", oci_image(f"{number}:{tag}", layers=layers), tags=[f"v{tag}"])


def fill_large(client: PlainClient) -> None:
    """Push one image of one large layer."""
    client.push("large", oci_image("large", layers=[blob("large", size=LARGE_BYTES)]), tags=["v1"])


def run_ours(service: ServiceProcess, source: RegistryProcess, destination: RegistryProcess) -> None:
    """Submit one job for the whole registry and wait for its end."""
    job = service.submit({"source": f"{source.host}/**", "destination": destination.host})
    done = service.client.get(f"/v1/jobs/{job['id']}", params={"wait": "60s"}).raise_for_status().json()
    if done["state"] != "succeeded":
        raise RuntimeError(f"the job did not succeed: {done}")


def run_skopeo(skopeo: str, sides: tuple[RegistryProcess, RegistryProcess], names: list[str]) -> None:
    """Sync the same repositories, one after the other, as skopeo does."""
    source, destination = sides
    insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    for name in names:
        command = [skopeo, "--insecure-policy", "sync", "--all", *insecure, "--src", "docker", "--dest", "docker"]
        subprocess.run([*command, f"{source.host}/{name}", destination.host], check=True, capture_output=True)


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that work took."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
