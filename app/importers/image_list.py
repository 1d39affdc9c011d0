"""Reads lists of images: one a line, or a source and its destination; and makes rules of whatever names images.

`#` begins a comment. An image without a tag is its `latest`, as on the docker command line. Where a line names no
destination, the template decides; one without template words is a prefix that the repository is put below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from app.domain.errors import FieldError, InvalidRequestError
from app.domain.pattern import DestinationTemplate
from app.domain.reference import InvalidReferenceError, split_reference
from app.domain.request import Options
from app.importers.document import Node
from app.importers.result import Draft, Group, ImportResult

_FILE = "list"
_SCHEME = re.compile(r"docker://")
"""How skopeo writes images; other schemes are not those of registries."""
_PAIR = 2
LATEST = "an image without a tag is its `latest`, as for docker"


def read_image_list(text: str, *, destination: str = "", name: str = "list") -> ImportResult:
    """Read a list of images; `destination` is the template for those that name none. Raise `InvalidRequestError`."""
    rules = ImageRules(Draft(name), destination, file=_FILE)
    for number, line in enumerate(text.splitlines(), start=1):
        words = [_SCHEME.sub("", word, count=1) for word in line.partition("#")[0].split()]
        node = Node("", number)
        if len(words) > _PAIR:
            rules.draft.left_out(
                "invalid_line", node, "a line is an image, or a source and its destination", file=_FILE
            )
        elif words:
            rules.add(words[0], node, destination="".join(words[1:]))
    return rules.draft.result()


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Makes one rule of each image, and none of what was there before."""

    draft: Draft
    template: str
    """Where images go that name no destination of their own."""
    file: str
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Refuse a template that is none; raise `InvalidRequestError`."""
        if self.template:
            try:
                DestinationTemplate.parse(self.template)
            except InvalidReferenceError as error:
                raise _refused(str(error), error.code) from error

    def add(self, image: str, node: Node, *, destination: str = "") -> None:
        """Take an image over, or note why not; raise `InvalidRequestError` where it has nowhere to go."""
        if not destination and not self.template:
            detail = f"{image} names no destination: give a template such as registry.example.com/mirror/{{repository}}"
            raise _refused(detail, "missing")
        source, place = self._tagged(image, node), destination or _below(self.template)
        if (source, place) in self._seen:
            return
        self._seen.add((source, place))
        fields: dict[str, Any] = {"source": source, "destination": place}
        self.draft.add_rule(fields, node, group=Group(Options()), file=self.file)

    def add_all(self, images: Iterable[tuple[str, Node]]) -> None:
        """Take images over, each where the template says."""
        for image, node in images:
            self.add(image, node)

    def _tagged(self, image: str, node: Node) -> str:
        _, tags, digest = split_reference(image)
        if tags or digest or image.endswith("/**"):
            return image
        self.draft.differs_once("latest", node, LATEST, file=self.file)
        return f"{image}:latest"


def _below(template: str) -> str:
    _, tags, _ = split_reference(template)
    return template if "{" in template or tags else f"{template.rstrip('/')}/{{repository}}"


def _refused(detail: str, code: str) -> InvalidRequestError:
    return InvalidRequestError(detail, errors=(FieldError("/destination", code, detail),))
