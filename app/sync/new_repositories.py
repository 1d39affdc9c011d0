"""Whether a destination's repository is new: then it is asked for no blob.

A list of tags that is not there does not say so by itself. Distribution has none of a repository that holds blobs and
no tag: a process was killed before it put the first manifest, or images are copied there by digest alone. So two blobs
are asked for meanwhile, and where one of them is there the others are asked for too.
"""

from __future__ import annotations

from collections.abc import Collection

from app.concurrency import run_limited
from app.domain.errors import ContentError, TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest
from app.sync.destination import DestinationState
from app.sync.known_blobs import KnownBlobs


async def look_for_repository(
    target: DestinationState, blobs: Collection[Descriptor], *, config: Descriptor, known: KnownBlobs
) -> frozenset[Digest]:
    """Find out, once in a process, whether a repository is new, and note it; return blobs that were not there.

    - `blobs`: what may be in it, two at least
    - `config`: what is no layer
    """
    async with known.looking_for(target.repository):
        if known.has_seen(target.repository):
            return frozenset()  # another image has asked
        chosen = _choose(blobs, config)
        questions = [_has_tags(target), *(_has_blob(target, blob) for blob in chosen)]
        is_listed, *answers = await run_limited(questions, at_once=len(questions))
        for blob, is_there in zip(chosen, answers, strict=True):
            if is_there:
                known.add(target.repository, blob.digest)
        may_hold_blobs = is_listed is not False or any(is_there is not False for is_there in answers)
        known.note_repository(target.repository, is_missing=not may_hold_blobs)
    return frozenset(blob.digest for blob, is_there in zip(chosen, answers, strict=True) if is_there is False)


def _choose(blobs: Collection[Descriptor], config: Descriptor) -> tuple[Descriptor, Descriptor]:
    """Choose the largest, which is sent first, and the first layer, which most images share."""
    largest, second, *_ = sorted(blobs, key=lambda blob: blob.size, reverse=True)
    first = next((blob for blob in blobs if blob.digest != config.digest), largest)
    return largest, first if first.digest != largest.digest else second


async def _has_tags(target: DestinationState) -> bool | None:
    """Return whether there is a list of tags; None where that was not to be had."""
    try:
        await anext(target.client.list_tags(target.path), None)
    except TransferError as error:
        return False if error.code == "repository_missing" else None
    return True


async def _has_blob(target: DestinationState, blob: Descriptor) -> bool | None:
    """Return whether a blob is there; None where that is not certain: it has another length, or no answer came.

    A refusal counts as no: who may not read, or reads nothing before a project is made, learns why from the push.
    """
    try:
        return await target.client.has_blob(target.path, blob)
    except TransferError as error:
        return None if error.temporary or isinstance(error, ContentError) else False
