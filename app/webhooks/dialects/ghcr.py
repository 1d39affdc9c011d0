"""GitHub's container registry: the web hook events `package` and `registry_package`."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Payload, Reading, load_object_or_form, malformed

_PUSHES = frozenset({"published", "updated", "create", "created"})
_KINDS = frozenset({"container", "docker"})


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read one event; GitHub keeps an owner's capitals, ghcr.io has none."""
    document = load_object_or_form(body, headers)
    reading = Reading(Dialect.GHCR)
    event = headers.get("x-github-event", "")
    package = document.at("package") or document.at("registry_package")
    if event == "ping":
        reading.ignore("test", "ping")
    elif not package and event:
        reading.ignore("not_a_push", event)
    elif not package:
        raise malformed("not a package event of GitHub's: there is no package")
    elif (kind := package.first_text("package_type", "ecosystem")).lower() not in _KINDS:
        reading.ignore("not_a_manifest", kind)
    elif document.text("action") not in _PUSHES:
        reading.ignore("not_a_push", document.text("action"))
    else:
        _read_package(document.text("action"), package, reading, event_id=headers.get("x-github-delivery", ""))
    return reading.delivery()


def _read_package(action: str, package: Payload, reading: Reading, *, event_id: str) -> None:
    version = package.at("package_version")
    container = version.at("container_metadata")
    owner = package.text("owner", "login") or package.text("namespace")
    reading.push(
        repository=f"{owner}/{package.text('name')}".lower(),
        tag=container.text("tag", "name"),
        digest=container.text("tag", "digest") or container.text("manifest", "digest") or _digest(version),
        host="ghcr.io",
        action=action,
        event_id=event_id,
        occurred_at=package.moment("updated_at"),
    )


def _digest(version: Payload) -> str:
    # docker.pkg.github.com, before ghcr.io, had the tag here.
    return next((text for key in ("version", "name") if ":" in (text := version.text(key))), "")
