"""The exception tree.

    RegistrySyncError                  everything this service raises on purpose; has a stable `code`
    ├── InvalidRequestError            the caller's input is wrong; names the fields
    ├── NotFoundError                  no such job, registry, key …
    ├── ConflictError                  the thing exists, but not in a state that allows this
    ├── AccessError                    who is calling is unknown, or may not do this
    ├── UnavailableError               a part this service needs (its database) does not answer; try again
    ├── TransferError                  what can end one image; each becomes an `ExecutionError` in the job's data
    │   ├── RegistryError              a registry answered badly, or did not answer
    │   ├── ContentError               bytes are not what their descriptor says
    │   └── CopyError                  any of these, with the side and step it happened on
    ├── HookError                      a push event could not be verified or understood
    └── JobInterrupted                 the work goes back (shutdown, lost claim); never a failure of the job

HTTP statuses of our own answers live in `app.api.errors` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["source", "destination"]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field: a JSON pointer, a stable code and a sentence."""

    pointer: str
    code: str
    detail: str


class RegistrySyncError(Exception):
    """Root of the tree. `code` is stable and part of the contract; the message is for people."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class InvalidRequestError(RegistrySyncError):
    """The input can be known to be wrong without asking anyone."""

    code = "validation_failed"

    def __init__(self, message: str, *, errors: tuple[FieldError, ...] = (), code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.errors = errors


class NotFoundError(RegistrySyncError):
    """No such resource, or none this caller may see."""

    code = "not_found"


class ConflictError(RegistrySyncError):
    """The resource's present state does not allow the request."""

    code = "conflict"


class AccessError(RegistrySyncError):
    """The caller is unknown (`unauthenticated`) or lacks a scope (`insufficient_scope`)."""

    code = "unauthenticated"


class UnavailableError(RegistrySyncError):
    """Something this service depends on does not answer right now."""

    code = "unavailable"


class TransferError(RegistrySyncError):
    """What can go wrong with one image; `temporary` says whether trying again may help."""

    temporary = False


class RegistryError(TransferError):
    """A registry refused, failed or could not be reached.

    `status` is the HTTP status if there was an answer, `spec_codes` the distribution-spec error codes in its body,
    `retry_after` the seconds it asked for. `temporary` is decided once, in `app.registry`; `given_up` says that it was
    tried as often there as helps soon, and `was_alive` that this registry has answered before.
    """

    code = "registry_unreachable"

    def __init__(
        self,
        message: str,
        *,
        registry: str,
        operation: str,
        code: str,
        status: int | None = None,
        spec_codes: tuple[str, ...] = (),
        temporary: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.registry = registry
        self.operation = operation
        self.status = status
        self.spec_codes = spec_codes
        self.temporary = temporary
        self.retry_after = retry_after
        self.given_up = False
        self.was_alive = False


class ContentError(TransferError):
    """Bytes differ from what their descriptor, or the rules for manifests, say."""

    code = "manifest_invalid"

    def __init__(self, message: str, *, code: str, temporary: bool = False) -> None:
        super().__init__(message, code=code)
        self.temporary = temporary


class CopyError(TransferError):
    """One copy failed: on which side, at which step, from which cause (`__cause__` holds it too)."""

    def __init__(self, cause: TransferError, *, side: Side, step: str) -> None:
        super().__init__(f"{step} ({side}): {cause.message}", code=cause.code)
        self.cause = cause
        self.side: Side = side
        self.step = step
        self.temporary = cause.temporary


class HookError(RegistrySyncError):
    """A push event's secret is missing or wrong, or its body is not what its sender documents."""

    code = "hook_rejected"


class JobInterrupted(RegistrySyncError):  # noqa: N818 — an interruption is not an error of the job
    """The work goes back to the queue: this process is stopping, or another one holds the claim now."""

    code = "interrupted"
