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
    parameter: str | None = None
    """The query parameter it is about, where it is not about the body."""


class RegistrySyncError(Exception):
    """Root of the tree. `code` is stable and part of the contract; the message is for people."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class InvalidRequestError(RegistrySyncError):
    """The input can be known to be wrong without asking a registry."""

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


class TooManyError(RegistrySyncError):
    """The caller has as much open, or waiting, as one may have; it may ask again in `retry_seconds`."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_seconds: int) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class UnavailableError(RegistrySyncError):
    """Something this service depends on does not answer right now."""

    code = "unavailable"


class TransferError(RegistrySyncError):
    """What can go wrong with one image; `temporary` says whether trying again may help."""

    temporary = False

    @property
    def asked_pause(self) -> float | None:
        """Seconds that a registry which limits its rate asked to be left alone (`Retry-After`), or None."""
        return None


class RegistryError(TransferError):
    """A registry refused, failed or could not be reached.

    `status` is the HTTP status if there was an answer, `spec_codes` the distribution-spec error codes in its body,
    `retry_after` the seconds it asked for. `temporary` is decided once, in `app.registry.http.errors`;
    `retries_exhausted` says that the request was repeated as often as helps soon, `registry_responded` that this
    registry has answered before.
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
        self.retries_exhausted = False
        self.registry_responded = False

    def copied(self) -> RegistryError:
        """Return an equal error that was not raised yet: each of those who waited for one thing raises its own."""
        copy = RegistryError(
            self.message,
            registry=self.registry,
            operation=self.operation,
            code=self.code,
            status=self.status,
            spec_codes=self.spec_codes,
            temporary=self.temporary,
            retry_after=self.retry_after,
        )
        copy.retries_exhausted, copy.registry_responded = self.retries_exhausted, self.registry_responded
        return copy

    @property
    def asked_pause(self) -> float | None:
        """How many seconds it asked to be left alone, where it limits its rate."""
        return (self.retry_after or None) if self.temporary and self.code == "rate_limited" else None


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

    @property
    def asked_pause(self) -> float | None:
        """What its cause says."""
        return self.cause.asked_pause


class HookError(RegistrySyncError):
    """A push event's secret is missing or wrong, or its body is not what its sender documents."""

    code = "hook_rejected"


class JobInterrupted(RegistrySyncError):  # noqa: N818 — an interruption is not an error of the job
    """The work goes back to the queue: this process is stopping, or another one holds the claim now."""

    code = "interrupted"


class SettingsError(Exception):
    """A setting is wrong; the message is one line for people and holds no secret."""
