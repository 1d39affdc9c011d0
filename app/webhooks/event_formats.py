"""Formats of events that several senders share: Distribution's event, Harbor's, and CloudEvents.

Sources: Distribution's docs/content/about/notifications.md, Harbor's notifier, the CloudEvents specification with its
HTTP binding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from app.domain.errors import HookError
from app.domain.manifest import INDEX_TYPES, MANIFEST_TYPES, SCHEMA1_TYPES
from app.webhooks.payload import Payload, Reading, host_of_url, load_object, load_objects, malformed

_MANIFESTS = INDEX_TYPES | MANIFEST_TYPES | SCHEMA1_TYPES
_HARBOR_PUSHES = frozenset({"PUSH_ARTIFACT", "pushImage", "harbor.artifact.pushed"})
_PUSH_WORDS = ("push", "publish", "upload", "created", "updated")
_ATTRIBUTES = ("specversion", "id", "source", "type", "subject", "time")
_OTHER_WORDS = ("delete", "remove", "pull", "download", "fail")


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event in CloudEvents 1.0 form, from whichever of its three HTTP modes it came in."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime | None
    data: Payload

    @property
    def event_id(self) -> str:
        """Source and id: what the specification calls unique."""
        return f"{self.source} {self.id}"


def read_distribution_event(event: Payload, reading: Reading, *, event_id: str = "") -> None:
    """Read one event of Distribution's; its blobs, mounts, pulls and deletes are not pushes of a manifest."""
    action, target = event.text("action"), event.at("target")
    if action != "push":
        reading.ignore("not_a_push", action or "an event without an action")
        return
    media_type, tag = target.text("mediaType"), target.text("tag")
    if media_type not in _MANIFESTS and not (tag and not media_type):
        reading.ignore("not_a_manifest", media_type or "a push without a media type")
        return
    reading.push(
        repository=target.text("repository"),
        tag=tag,
        digest=target.text("digest"),
        host=event.text("request", "host") or host_of_url(target.text("url")),
        action=action,
        event_id=event_id or event.text("id"),
        occurred_at=event.moment("timestamp"),
        user_agent=event.text("request", "useragent"),
    )


def read_harbor_event(
    kind: str, data: Payload, reading: Reading, *, event_id: str = "", occurred_at: datetime | None = None
) -> None:
    """Read one event of Harbor's; `resource_url` is `host/repository:tag` without a scheme."""
    if kind not in _HARBOR_PUSHES:
        reading.ignore("not_a_push", kind or "an event without a type")
        return
    resources = data.objects("resources")
    if not resources:
        reading.ignore("incomplete", "a push without resources")
    for resource in resources:
        reading.push(
            repository=data.text("repository", "repo_full_name"),
            tag=resource.text("tag"),
            digest=resource.text("digest"),
            host=resource.text("resource_url").partition("/")[0],
            action=kind,
            event_id=event_id,
            occurred_at=occurred_at,
        )


def cloud_events(body: bytes, headers: Mapping[str, str]) -> tuple[CloudEvent, ...]:
    """Read the events of a structured, binary or batched delivery; raise `HookError` where it is none of these."""
    items = load_objects(body)
    if "ce-type" in headers and len(items) != 1:
        raise malformed("a CloudEvent in binary mode has one JSON object as its body")
    return tuple(cloud_event(item, headers) for item in items)


def cloud_event(item: Payload, headers: Mapping[str, str]) -> CloudEvent:
    """Read one event, its attributes from the headers or from the object; raise `HookError` where they are missing."""
    if "ce-type" in headers:
        named = {key: unquote(headers.get(f"ce-{key}", "")) for key in _ATTRIBUTES}
        item = Payload({**named, "data": item.fields})
    if not (item.text("specversion") and item.text("type") and item.text("id")):
        raise malformed("not a CloudEvent: specversion, type and id must be there")
    return CloudEvent(
        id=item.text("id"),
        source=item.text("source"),
        type=item.text("type"),
        subject=item.text("subject"),
        time=item.moment("time"),
        data=item.at("data"),
    )


def read_image_event(event: CloudEvent, reading: Reading, *, host: str = "") -> None:
    """Read a CloudEvent about an image, of any sender, by the names that are in use for its fields."""
    kind = event.type.lower()
    is_push = any(word in kind for word in _PUSH_WORDS) and not any(word in kind for word in _OTHER_WORDS)
    if not is_push or not ("image" in kind or "container" in kind or "artifact" in kind):
        reading.ignore("not_a_push", event.type)
        return
    data = event.data
    named, _, tag = event.subject.partition(":")
    reading.push(
        repository=data.first_text("repositoryName", "repository", "name") or named,
        tag=data.first_text("imageTag", "tag", "reference") or tag,
        digest=data.first_text("imageDigest", "digest"),
        subject=_subject(data),
        host=host or data.first_text("registryUrl", "registry") or host_of_url(event.source),
        action=event.type,
        event_id=event.event_id,
        occurred_at=event.time,
    )


def _subject(data: Payload) -> str:
    """Read what a manifest is about, where it comes along: zot sends it whole, as text."""
    try:
        manifest = load_object(data.text("manifest")) if data.text("manifest") else data.at("manifest")
    except HookError:
        return ""
    return manifest.text("subject", "digest")
