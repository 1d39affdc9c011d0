"""Reads the images of a cluster, or of manifests: `kubectl get pods -A -o json`, YAML files, what Helm renders.

Wherever containers stand (pods, templates of any kind, lists), and volumes that are images (Kubernetes, "Image
volumes"); nothing else that is called image is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.importers.document import Node, read_documents
from app.importers.image_list import ImageRules
from app.importers.result import Draft, ImportResult

_FILE = "kubernetes"
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def read_kubernetes(text: str, *, destination: str, name: str = "kubernetes") -> ImportResult:
    """Read objects as JSON or YAML; each image goes where the template `destination` says.

    Raise `InvalidRequestError` for what is neither, and for a destination that is none.
    """
    rules = ImageRules(Draft(name), destination, file=_FILE)
    for document in read_documents(text, name=_FILE):
        rules.add_all(_images(document))
    return rules.draft.result()


def _images(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the images below a node with where they stand."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        for kind in _CONTAINERS:
            for container in here.get(kind).items or ():
                yield from _named(container.get("image"))
        for volume in here.get("volumes").items or ():
            yield from _named(volume.get("image").get("reference"))
        below = (*(here.items or ()), *(here.fields or {}).values())
        waiting += reversed(below)


def _named(node: Node) -> Iterator[tuple[str, Node]]:
    if node.text and not node.is_null:
        yield node.text, node
