"""The generic format, for senders that have none: a pipeline's curl, a script, a body written from a template.

One object, or `{"events": [...]}` of them, each with `repository` and `tag`, `tags` or `digest`, or with one
`reference` (`host/repository:tag`); and if known `host`, `id`, `occurred_at`, `action` (anything but `push` is
ignored) and, of a referrer that has a digest and no tag, the digest of its `subject`.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.domain.reference import InvalidReferenceError, Reference
from app.webhooks.payload import Payload, Reading, load_object


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read one event or several."""
    document = load_object(body)
    reading = Reading(Dialect.GENERIC)
    for event in document.objects("events") if "events" in document else (document,):
        _read_event(event, reading)
    return reading.delivery()


def _read_event(event: Payload, reading: Reading) -> None:
    action = event.text("action") or "push"
    if action != "push":
        reading.ignore("not_a_push", action)
    elif event.text("reference"):
        _read_reference(event, reading)
    else:
        for tag in event.texts("tags") or (event.text("tag"),):
            _push(event, reading, names=(event.text("host"), event.text("repository"), tag, event.text("digest")))


def _read_reference(event: Payload, reading: Reading) -> None:
    try:
        named = Reference.parse(event.text("reference"))
    except InvalidReferenceError as error:
        reading.ignore("invalid_name", str(error))
        return
    names = (named.repository.registry, named.repository.path, named.tag or "", named.digest or event.text("digest"))
    _push(event, reading, names=names)


def _push(event: Payload, reading: Reading, *, names: tuple[str, str, str, str]) -> None:
    host, repository, tag, digest = names
    reading.push(
        repository=repository,
        tag=tag,
        digest=digest,
        host=host,
        subject=event.text("subject"),
        action="push",
        event_id=event.text("id"),
        occurred_at=event.moment("occurred_at"),
    )
