"""Turns a list of dregsy's tags into selections: tags as they are, `semver:` and `regex:` filters, `keep:` on top.

github.com/xelalexv/dregsy, README.md, "Tag Filtering"; internal/pkg/tags. Any filter may match; what filters selected
has to match every `keep:`; a tag that stands there as it is needs neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from app.importers.patterns import blang_ranges, regex_matcher

_REGEX, _SEMVER, _KEEP = "regex:", "semver:", "keep:"
_KEEP_LATEST = re.compile(r"keep:\s+latest\s+([0-9]{1,18})")
_MAX_NEWEST = 100_000
"""As many as `tags.newest` takes."""
COUNTED = "`keep: latest` counts versions only, there; here it counts every tag that the filters select"
COUNTED_ALONE = "`keep: latest` counts tags that stand in the list as well, there; here these are always copied"


@dataclass(frozen=True, slots=True)
class TagRule:
    """What one rule says of tags: behind its source, or as fields."""

    suffix: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class TagList:
    """A list of tags, sorted out."""

    tags: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    filters: list[list[str]] = field(default_factory=list)
    """Matchers that must match together, of which any may."""
    exclude: list[str] = field(default_factory=list)
    has_filters: bool = False
    newest: int | None = None
    differs: list[str] = field(default_factory=list)

    def rules(self, *, is_pattern: bool) -> list[TagRule]:
        """Return what the rules of one mapping say: one for what filters select, one for tags, one for each digest."""
        found = [TagRule(f":{text}") if "@" in text else TagRule(f"@{text}") for text in self.digests]
        if self.tags and is_pattern:
            found.append(TagRule(fields={"tags": {"include": [regex_matcher(f"^{tag}$") for tag in self._escaped]}}))
        elif self.tags:
            found.append(TagRule(f":{','.join(self.tags)}"))
        if self.has_filters or not found:
            include = [one[0] if len(one) == 1 else {"all": one} for one in self.filters]
            selection = {"include": include, "exclude": self.exclude, "newest": self.newest}
            found.append(TagRule(fields={"tags": selection}))
        return found

    @property
    def _escaped(self) -> list[str]:
        return [re.escape(tag) for tag in self.tags]


def anchored(expression: str) -> str:
    """Write an expression so that it has to match all, as dregsy reads it: an anchor that is there stays alone."""
    start = "" if expression.startswith("^") else "^"
    return f"{start}{expression}{'' if expression.endswith('$') else '$'}"


def read_tags(texts: tuple[str, ...]) -> TagList:
    """Sort out a list of tags; raise `ValueError` for what can't be said in a rule."""
    choice = TagList()
    keeps: list[str] = []
    inverted: list[str] = []
    for text in dict.fromkeys(text.strip() for text in texts):
        if latest := _KEEP_LATEST.fullmatch(text):
            choice.newest = min(int(latest[1]), _MAX_NEWEST) or None
        elif text.startswith(_KEEP):
            _add_expression(text.removeprefix(_KEEP), keeps, choice.exclude)
        elif text.startswith(_SEMVER):
            ranges = blang_ranges(text.removeprefix(_SEMVER))
            choice.filters += [[one, ranges.only] for one in ranges.include]
        elif text.startswith(_REGEX):
            found: list[str] = []
            _add_expression(text.removeprefix(_REGEX), found, inverted)
            choice.filters += [[one] for one in found]
        elif "sha256:" in text:
            choice.digests.append(text)
        else:
            choice.tags.append(text)
    _combine(choice, keeps, inverted)
    return choice


def _combine(choice: TagList, keeps: list[str], inverted: list[str]) -> None:
    is_listed = bool(choice.tags or choice.digests)
    choice.has_filters = bool(choice.filters or inverted) or not is_listed
    if inverted and (choice.filters or len(inverted) > 1):
        raise ValueError("`regex: !…` beside another filter has no counterpart: each of them takes what it matches")
    if choice.newest and not all(one[0].startswith("semver") for one in choice.filters or [[""]]):
        choice.differs.append(COUNTED)
    if choice.newest and is_listed:
        choice.differs.append(COUNTED_ALONE)
    choice.exclude += inverted
    choice.filters = [[*one, *keeps] for one in choice.filters] or ([keeps] if keeps else [])


def _add_expression(text: str, found: list[str], inverted: list[str]) -> None:
    expression = text.strip()
    is_inverted = expression.startswith("!")
    (inverted if is_inverted else found).append(regex_matcher(anchored(expression[is_inverted:])))
