"""Why is my tag not copied? What every rule of a request, and every matcher in it, says of one tag.

It asks the source what planning would ask (lists, and manifests where a rule needs them) for this one tag, and decides
with the same functions. Every rule says something, also one that is about other repositories.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.clock import now
from app.domain.explanation import Explanation, RuleExplanation
from app.domain.plan import PlannedCopy
from app.domain.reference import InvalidReferenceError, Reference, Tag
from app.domain.request import Rule, SyncRequest
from app.registry.client import RegistryClients
from app.sync.destination import DestinationNotes
from app.sync.planner import DestinationClaims
from app.sync.rule_explanation import ListReader, RuleReader


async def explain(
    clients: RegistryClients,
    request: SyncRequest,
    text: str,
    *,
    clock: Callable[[], datetime] = now,
    notes: DestinationNotes | None = None,
) -> Explanation:
    """Return what each rule does with a tag, written as `tag`, `repository:tag` or `host/repository:tag`.

    `notes` say when images that say no time were first seen; by default that is now.
    Raise `InvalidReferenceError` for a text that is none of these, or a tag alone where a rule reads many repositories.
    """
    references = [_reference(text, rule) for rule in request.rules]
    lists = ListReader(clients, notes or DestinationNotes.in_memory())
    claims, explained = DestinationClaims(), list[RuleExplanation]()
    for number, (rule, reference) in enumerate(zip(request.rules, references, strict=True)):
        explaining = RuleReader(lists, rule, number, reference=reference, options=request.options, clock=clock)
        await explaining.run()
        _leave_out(explaining.said, claims)
        explained.append(explaining.said)
    return Explanation(text, tuple(explained))


def _leave_out(said: RuleExplanation, claims: DestinationClaims) -> None:
    """Drop a copy whose destinations all belong to a rule before, as far as this tag goes."""
    found = list(claims.take(said.copy)) if said.copy is not None else []
    refused = [one for one in found if not isinstance(one, PlannedCopy)]
    if said.copy is None or len(refused) < len(found):
        return
    if refused:
        said.end("drops", "destination_conflict", refused[0].error.message)
    else:
        said.end("drops", "taken_before", "a rule before this one copies it to the same place")


def _reference(text: str, rule: Rule) -> Reference:
    """Read what is asked about as a rule may mean it: a path without a host is one of the rule's own registry."""
    pattern = rule.source_pattern
    head, slash, _ = text.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        found = Reference.parse(text)
    elif slash or ":" in text or "@" in text:
        found = Reference.parse(f"{pattern.registry}/{text}")
    elif pattern.repository is None:
        message = f"{rule.source} reads many repositories: say which, as in repository:{text[:128]}"
        raise InvalidReferenceError(message, code="repository_unclear")
    else:
        found = Reference(pattern.repository, Tag(text))
    if found.tag is None and found.digest is None:
        raise InvalidReferenceError(f"{text[:300]!r} names no tag", code="tag_unclear")
    return found
