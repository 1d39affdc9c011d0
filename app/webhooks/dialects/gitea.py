"""Gitea's and Forgejo's web hook event `package`, for packages of type container."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Reading, host_of_url, load_object_or_form, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read one event; the version is the tag, or the digest of a manifest pushed without one."""
    document = load_object_or_form(body, headers)
    reading = Reading(Dialect.GITEA)
    package, kind = document.at("package"), headers.get("x-gitea-event", headers.get("x-forgejo-event", ""))
    if not package and kind:
        reading.ignore("not_a_push", kind)
    elif not package:
        raise malformed("not a package event of Gitea's: there is no package")
    elif package.text("type") != "container":
        reading.ignore("not_a_manifest", f"a package of type {package.text('type')}")
    elif document.text("action") != "created":
        reading.ignore("not_a_push", document.text("action"))
    else:
        reading.push(
            repository=f"{package.text('owner', 'login')}/{package.text('name')}".lower(),
            tag=package.text("version"),
            host=host_of_url(package.text("html_url")),
            action="created",
            event_id=headers.get("x-gitea-delivery", headers.get("x-forgejo-delivery", "")),
            occurred_at=package.moment("created_at"),
        )
    return reading.delivery()
