"""What a check of a registry is to try, and whether that is the entry's."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.errors import FieldError, InvalidRequestError
from app.domain.reference import InvalidReferenceError, Repository
from app.domain.registry import RegistryEntry


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What to try a registry with: a repository, a namespace to list, or nothing in particular."""

    repository: str | None = None
    namespace: str | None = None
    is_pushing: bool = False


def repository_of(entry: RegistryEntry, target: CheckRequest) -> Repository | None:
    """Return the repository to try; raise `InvalidRequestError` for one that is none, or not the entry's."""
    if target.repository is None and target.is_pushing:
        raise _wrong("/repository", "missing", "name a repository to push to")
    if target.repository is None:
        return None
    if target.namespace is not None:
        raise _wrong("/namespace", "conflicting_fields", "name a repository or a namespace, not both")
    try:
        repository = Repository(entry.registry, target.repository)
    except InvalidReferenceError as error:
        raise _wrong("/repository", error.code, str(error)) from error
    if not entry.covers(repository):
        raise _wrong("/repository", "invalid_repository", f"{target.repository!r} is not below {entry.host}")
    return repository


def namespace_of(entry: RegistryEntry, target: CheckRequest) -> str:
    """Return the namespace to list, the entry's own by default; raise `InvalidRequestError` as above."""
    if target.namespace is None:
        return entry.prefix
    try:
        namespace = Repository(entry.registry, target.namespace).path
    except InvalidReferenceError as error:
        raise _wrong("/namespace", error.code, str(error)) from error
    if entry.prefix and not f"{namespace}/".startswith(f"{entry.prefix}/"):
        raise _wrong("/namespace", "invalid_repository", f"{target.namespace!r} is not below {entry.host}")
    return namespace


def _wrong(pointer: str, code: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(detail, errors=(FieldError(pointer, code, detail),))
