"""`make demo`: two real registries, the real service, one request; then a check that both sides agree, byte for byte.

A story in the order it happens: start, fill, serve, submit, watch, compare, and once more to show that nothing is
copied twice. Everything it starts it ends, and nothing of it stays.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from tests.support.images import Blob, artifact, blob, docker_image, fallback_index, fallback_tag, oci_image, oci_index
from tests.support.plain_client import PlainClient, differences
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.service import ServiceProcess

MIB = 1024 * 1024

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run the demo; 0 when both registries agree and the second job moved no blob."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registry-sync-demo-")))
        step("Starting two registries (docker-registry, storage in a temporary folder)")
        source = stack.enter_context(RegistryProcess(RegistryOptions(catalog_page_cap=2)))
        destination = stack.enter_context(RegistryProcess())
        console.print(f"  source      {source.url}  (lists at most 2 repositories a page)")
        console.print(f"  destination {destination.url}")
        source_reader = stack.enter_context(PlainClient.of(source))
        destination_reader = stack.enter_context(PlainClient.of(destination))

        step("Filling the source")
        fill(source_reader)

        step("Starting the service on its defaults: an SQLite file, workers in processes of their own")
        service = stack.enter_context(ServiceProcess(folder))
        console.print(f"  {service.client.base_url} is ready; its documentation is at /docs")
        for name, registry in (("old", source), ("new", destination)):
            service.enter(name, registry)
            console.print(f"  http PUT :{service.port}/v1/registries/{name} host={registry.host} insecure:=true")

        request = {"source": f"{source.host}/**", "destination": destination.host}
        step("Submitting one request for the whole registry")
        console.print(f"  http POST :{service.port}/v1/jobs source='{source.host}/**' destination={destination.host}")
        first = run_job(service, request)
        show_images(service, first)

        step("Comparing both registries: every tag, manifest and blob, read back and hashed")
        repositories = source_reader.list_repositories()
        found = differences(source_reader, destination_reader, repositories=[(name, name) for name in repositories])
        missing = sorted(set(repositories) ^ set(destination_reader.list_repositories()))
        for line in [*found, *(f"only on one side: {name}" for name in missing)]:
            console.print(f"  [red]{line}[/red]")
        console.print(f"  {len(repositories)} repositories: " + ("they differ" if found or missing else "identical"))

        step("The same request again: nothing is copied twice")
        second = run_job(service, request)
        idle = second["progress"]["blobs"]["transferred"] == 0 and second["progress"]["images"]["copied"] == 0
        console.print(f"  {summary(second)}")

        good = not found and not missing and idle and first["state"] == second["state"] == "succeeded"
        step("Done: both sides agree digest for digest" if good else "[red]The demo failed, see above[/red]")
        return 0 if good else 1


def step(text: str) -> None:
    """Say what happens next."""
    console.print(f"\n[bold]● {text}[/bold]")


def fill(client: PlainClient) -> None:
    """Push a small but honest set: shared layers, many tags, a multi-arch index, docker's formats, an artifact."""
    base = [blob("base system", size=12 * MIB), blob("runtime", size=3 * MIB)]

    def image(seed: str, platform: str = "linux/amd64") -> Any:
        layers: list[Blob] = [*base, blob(f"{seed} {platform}", size=256 * 1024)]
        return oci_image(seed, platform=platform, layers=layers)

    pushed: list[tuple[str, Any, list[str]]] = []
    for team in ("payments", "search"):
        pushed += [(f"{team}/api", image(f"{team} api {minor}"), [f"1.{minor}.0", f"1.{minor}"]) for minor in range(4)]
        pushed.append((f"{team}/worker", image(f"{team} worker"), ["latest", "2026.11"]))
    platforms = ("linux/amd64", "linux/arm64", "linux/arm/v7")
    pushed.append(
        ("platform/gateway", oci_index([image("gateway", name) for name in platforms]), ["3.2.1", "3", "latest"])
    )
    pushed.append(("legacy/cron", docker_image("cron"), ["7"]))
    chart = artifact("chart", artifact_type="application/vnd.cncf.helm.config.v1+json")
    pushed.append(("charts/payments", chart, ["0.4.0"]))
    signed = image("signed")
    pushed.append(("platform/signed", signed, ["1.0"]))
    # A registry without the referrers API keeps them in an index under a tag made of the subject's digest.
    sbom = artifact("sbom", artifact_type="application/spdx+json", subject=signed)
    pushed.append(("platform/signed", sbom, []))
    pushed.append(("platform/signed", fallback_index([sbom]), [fallback_tag(signed.digest)]))
    for repository, manifest, tags in pushed:
        client.push(repository, manifest, tags=tags)
    names = client.list_repositories()
    console.print(f"  {len(names)} repositories, {sum(len(client.list_tags(name)) for name in names)} tags")


def run_job(service: ServiceProcess, request: dict[str, Any]) -> dict[str, Any]:
    """Submit a request and show its progress until it is done."""
    job = service.submit(request)
    console.print(f"  202 /v1/jobs/{job['id']}")
    columns = (TextColumn("  {task.description}"), BarColumn(20), DownloadColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("planning", total=None)

        def show(job: dict[str, Any]) -> None:
            size = job["progress"]["bytes"]
            bars.update(bar, description=summary(job), completed=size["done"], total=size["total"] or None)

        return service.follow(job["id"], show=show)


def summary(job: dict[str, Any]) -> str:
    """Describe a job in one line."""
    images, blobs = job["progress"]["images"], job["progress"]["blobs"]
    done = (
        f"{images['copied']} copied, {images['up_to_date']} up to date, {images['failed']} failed of {images['total']}"
    )
    return f"{job['state']}: {done}; blobs: {', '.join(f'{count} {what}' for what, count in blobs.items())}"


def show_images(service: ServiceProcess, job: dict[str, Any]) -> None:
    """Print a row for every image of the job."""
    table = Table("source", "state", "digest", "blobs sent / mounted / there", "bytes", box=None, pad_edge=False)
    for image in service.images(job["id"]):
        blobs = image["blobs"]
        counts = f"{blobs['transferred']} / {blobs['mounted']} / {blobs['present']}"
        name = image["source"].partition("/")[2]
        table.add_row(name, image["state"], (image["digest"] or "")[:19], counts, f"{image['bytes']['total']:,}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
