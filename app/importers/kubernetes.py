"""Reads the images of a cluster, or of manifests: `kubectl get pods -A -o json`, YAML files, what Helm renders.

Wherever containers stand (pods, templates of any kind, lists), and volumes that are images (Kubernetes, "Image
volumes"); nothing else that is called image is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.importers.document import Node, read_documents, unreadable
from app.importers.image_list import ImageRules
from app.importers.result import Draft, ImportResult
from app.importers.shape import TEXT, Shape, fit, list_of, with_fields

_FILE = "kubernetes"
_CONTAINERS = list_of(with_fields({"image": TEXT}, is_open=True))
_VOLUMES = list_of(with_fields({"image": with_fields({"reference": TEXT}, is_open=True)}, is_open=True))
_PLACES = {"initContainers": _CONTAINERS, "containers": _CONTAINERS, "ephemeralContainers": _CONTAINERS}
_WANTED = frozenset({*_PLACES, "volumes", "image", "reference"})
_SCHEMA = "openAPIV3Schema"
"""What describes objects of a kind, their containers too, and is none."""


def read_kubernetes(text: str, *, destination: str, name: str = "kubernetes") -> ImportResult:
    """Read objects as JSON or YAML; each image goes where the template `destination` says.

    Raise `InvalidRequestError` for what is neither, and for a destination that is none.
    """
    rules = ImageRules(Draft(name), destination, file=_FILE)
    reader = _Reader(rules.draft)
    for document in read_documents(text, name=_FILE, wanted=_WANTED):
        if document.text is not None and not document.is_null:
            raise unreadable(_FILE, f"{document.text[:64]!r} is no object, nor a list of them")
        rules.add_all(reader.images(document))
    return rules.draft.result()


@dataclass(frozen=True, slots=True)
class _Reader:
    draft: Draft

    def images(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Yield the images below a node with where they stand."""
        waiting = [node]
        while waiting:
            here = waiting.pop()
            fields = here.fields or {}
            for key in [key for key in _PLACES if key in fields]:
                for container in self._list(fields[key], _PLACES[key]):
                    yield from _named(container.get("image"))
            for volume in self._list(here.get("volumes"), _VOLUMES) if "volumes" in fields else ():
                yield from _named(volume.get("image").get("reference"))
            below = [value for key, value in fields.items() if key != _SCHEMA]
            waiting += reversed((*(here.items or ()), *below))

    def _list(self, node: Node, shape: Shape) -> tuple[Node, ...]:
        found = fit(node, shape, self.draft, file=_FILE)
        return (found.items or ()) if found is not None else ()


def _named(node: Node) -> Iterator[tuple[str, Node]]:
    if node.text and not node.is_null:
        yield node.text, node
