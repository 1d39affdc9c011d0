"""GitLab's container registry, a fork of Distribution: the same envelope from self-managed instances.

gitlab.com sends none, and project web hooks know no event for a container push.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import read_distribution_event
from app.webhooks.payload import Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read an envelope of the registry; GitLab's own web hooks are known by their header and no pushes of images."""
    document = load_object(body)
    reading = Reading(Dialect.GITLAB)
    if "events" not in document and (kind := headers.get("x-gitlab-event", "")):
        reading.ignore("not_a_push", kind)
        return reading.delivery()
    if "events" not in document:
        raise malformed("not a notification of GitLab's registry: there is no list of events")
    for event in document.objects("events"):
        read_distribution_event(event, reading)
    return reading.delivery()
