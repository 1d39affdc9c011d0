"""The fault injector: fail exactly the k-th request, or those that match, before or after their work is done.

    registry.faults.add(Respond(503), number=7)
    registry.faults.add(Cut(), matching=lambda entry: entry.kind == "upload_close", after_work=True)
    registry.faults.add(CutBody(1000), matching=on("upload_close"), times=2)

A fault that is met marks the journal entry as `faulty`; `fault.met` counts how often, so that a loop over k knows when
it is beyond the last request.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.support.fake_registry.journal import Entry, Kind, Origin

Matching = Callable[[Entry], bool]


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer this instead; a body in the specification's form is made unless one is given."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class TooMany:
    """Answer 429 with `Retry-After` in the registry's form, or with these words."""

    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Echo:
    """Answer with the request's `Authorization`, as debugging proxies do: in an error and in a warning."""

    status: int


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """Answer 401 with the registry's challenge; all tokens issued so far stop working, unless they are kept."""

    revoke: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """Break the connection without an answer."""


@dataclass(frozen=True, slots=True)
class CutBody:
    """Break the connection after so many bytes of the request's body; a shorter body is served as ever."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """Break the connection after so many bytes of the answer's body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Never answer; wait until the client leaves."""


@dataclass(frozen=True, slots=True)
class Call:
    """Do something just then (move a tag, change the switches, wait for an event), and serve the request as ever."""

    action: Callable[[Entry], Awaitable[None] | None]


Deed = Respond | TooMany | Echo | Unauthorized | Cut | CutBody | CutAnswer | Stall | Call


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong, and when."""

    deed: Deed
    number: int = 1
    matching: Matching | None = None
    times: int | None = 1
    after_work: bool = False
    seen: int = 0
    met: int = 0

    def is_due(self, entry: Entry) -> bool:
        """Count a request that matches and say whether it is to fail."""
        if self.matching is not None and not self.matching(entry):
            return False
        self.seen += 1
        return self.seen >= self.number and (self.times is None or self.met < self.times)


@dataclass
class Faults:
    """The faults a registry has been given; the first that meets a request counts."""

    planned: list[Fault] = field(default_factory=list)

    def add(
        self,
        deed: Deed,
        *,
        number: int = 1,
        matching: Matching | None = None,
        times: int | None = 1,
        after_work: bool = False,
    ) -> Fault:
        """Plan a fault: from the `number`-th request that matches (any, of all servers) on, so many `times`.

        `times=None` is for ever; `after_work` does what was asked and then fails, as far as the client can tell.
        """
        fault = Fault(deed, number=number, matching=matching, times=times, after_work=after_work)
        self.planned.append(fault)
        return fault

    def clear(self) -> None:
        self.planned.clear()

    def meet(self, entry: Entry) -> Fault | None:
        """Return the fault for a request that has just come; every fault counts it."""
        due = [fault for fault in self.planned if fault.is_due(entry)]
        if not due:
            return None
        due[0].met += 1
        entry.faulty = not isinstance(due[0].deed, Call)
        return due[0]


def on(
    *kinds: Kind,
    method: str | None = None,
    origin: Origin | None = None,
    repository: str | None = None,
    reference: str | None = None,
) -> Matching:
    """Return a condition for `matching`: any of these kinds, and all of the rest that is given."""

    def matches(entry: Entry) -> bool:
        return (
            (not kinds or entry.kind in kinds)
            and method in {None, entry.method}
            and origin in {None, entry.origin}
            and repository in {None, entry.repository}
            and reference in {None, entry.reference}
        )

    return matches
