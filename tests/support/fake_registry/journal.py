"""Every request the fake registry saw: what came, what it was answered, and how many bytes went each way."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Origin = Literal["registry", "auth", "storage", "stranger", "plain"]
"""Which of the fake's servers was asked; `plain` is the registry over plain http when it is served over https."""

Kind = Literal[
    "ping",
    "catalog",
    "tags",
    "referrers",
    "manifest",
    "blob",
    "upload_start",
    "upload_status",
    "upload_chunk",
    "upload_close",
    "upload_cancel",
    "token",
    "exchange",
    "storage",
    "api",
    "api_login",
    "other",
]

FOREIGN: frozenset[Origin] = frozenset({"storage", "stranger", "plain"})
SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization", "private-token", "job-token")


@dataclass(slots=True)
class Entry:
    """One request; the fields of the answer fill as it is given."""

    number: int
    origin: Origin
    method: str
    path: str
    query: str
    """As it came, still encoded."""
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in the order they came."""
    connection: int = 0
    """The client's port: requests of one connection have the same."""
    kind: Kind = "other"
    repository: str = ""
    reference: str = ""
    """A tag, a digest, or an upload's id."""
    body_secrets: tuple[str, ...] = ()
    """Names of the form fields by which a credential came."""
    received_bytes: int = 0
    status: int | None = None
    """None until answered, and for ever when the connection was cut before an answer."""
    answer_headers: tuple[tuple[str, str], ...] = ()
    sent_bytes: int = 0
    faulty: bool = False
    """A fault of the injector was met."""
    cut: bool = False
    """The registry broke the connection."""
    client_gone: bool = False
    """The client broke the connection."""
    finished: bool = False

    @property
    def target(self) -> str:
        """Path and query as they came."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def authorization(self) -> str | None:
        return self.header("authorization")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the names of the headers and form fields by which a credential came."""
        return (*(name for name, _ in self.headers if name in SECRET_HEADERS), *self.body_secrets)

    def header(self, name: str) -> str | None:
        """Return a header's first value; the name in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    def answer_header(self, name: str) -> str | None:
        """Return a header of the answer, whatever its case."""
        return next((value for key, value in self.answer_headers if key.lower() == name.lower()), None)

    def __str__(self) -> str:
        return f"#{self.number} {self.origin}: {self.method} {self.target} → {self.status or 'no answer'}"


@dataclass
class Journal:
    """The requests in the order they came, to read and to count."""

    entries: list[Entry] = field(default_factory=list)
    most_at_once: int = 0
    """The most requests the registry itself had in work at the same time."""
    in_work: int = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(
        self,
        kind: Kind | None = None,
        *,
        method: str | Iterable[str] | None = None,
        origin: Origin | None = None,
        repository: str | None = None,
        reference: str | None = None,
        status: int | None = None,
        since: int = 0,
    ) -> list[Entry]:
        """Return the entries that agree with everything given; `since` is a `mark()`."""
        methods = {method} if isinstance(method, str) else None if method is None else set(method)
        return [
            entry
            for entry in self.entries[since:]
            if kind in {None, entry.kind}
            and (methods is None or entry.method in methods)
            and origin in {None, entry.origin}
            and repository in {None, entry.repository}
            and reference in {None, entry.reference}
            and status in {None, entry.status}
        ]

    def count(
        self,
        kind: Kind | None = None,
        *,
        method: str | Iterable[str] | None = None,
        origin: Origin | None = None,
        repository: str | None = None,
        reference: str | None = None,
        status: int | None = None,
        since: int = 0,
    ) -> int:
        """Return how many entries agree, see `find`."""
        wanted = self.find(
            kind,
            method=method,
            origin=origin,
            repository=repository,
            reference=reference,
            status=status,
            since=since,
        )
        return len(wanted)

    def table(self, *, since: int = 0) -> Counter[str]:
        """Return `"HEAD manifest"` → how often."""
        return Counter(f"{entry.method} {entry.kind}" for entry in self.entries[since:])

    def mark(self) -> int:
        """Return a place to count from later (`since=`)."""
        return len(self.entries)

    def clear(self) -> None:
        """Forget what was; numbers begin at 1 again."""
        self.entries.clear()
        self.most_at_once = self.in_work

    def received_bytes(self, kind: Kind | None = None) -> int:
        """Return the body bytes that came in."""
        return sum(entry.received_bytes for entry in self.find(kind))

    def sent_bytes(self, kind: Kind | None = None) -> int:
        """Return the body bytes that went out (written to the connection; a client may have left before the last)."""
        return sum(entry.sent_bytes for entry in self.find(kind))

    def leaks(self) -> list[Entry]:
        """Return the requests that brought a credential to a server it does not belong to."""
        return [entry for entry in self.entries if entry.secrets and entry.origin in FOREIGN]

    def begin(self, entry: Entry) -> None:
        """Take in a request that has just come."""
        entry.number = len(self.entries) + 1
        entry.kind, entry.repository, entry.reference = classify(entry.method, entry.path)
        self.entries.append(entry)
        if entry.origin == "registry":
            self.in_work += 1
            self.most_at_once = max(self.most_at_once, self.in_work)

    def end(self, entry: Entry) -> None:
        """Note that a request is over."""
        entry.finished = True
        if entry.origin == "registry":
            self.in_work -= 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))


def classify(method: str, path: str) -> tuple[Kind, str, str]:
    """Return what a request is about: its kind, repository and reference (distribution-spec, "Endpoints")."""
    if path in {"/v2", "/v2/"}:
        return "ping", "", ""
    if path in {"/v2/_catalog", "/acr/v1/_catalog"}:
        return "catalog", "", ""
    if path in _TOKEN_PATHS:
        return "token", "", ""
    if path == "/oauth2/exchange":
        return "exchange", "", ""
    if path == "/v2/auth/token":
        return "api_login", "", ""
    if path.startswith(
        ("/api/", "/acr/v1/", "/gitlab/v1/", "/v2/namespaces/", "/orgs/", "/users/", "/v1/projects/", "/user")
    ):
        return "api", "", ""
    if path.startswith("/storage/"):
        return "storage", "", path.removeprefix("/storage/")
    if found := _UPLOAD.fullmatch(path):
        return _UPLOAD_KINDS.get(method, "other"), found["name"], found["id"]
    if found := _CONTENT.fullmatch(path):
        return _CONTENT_KINDS[found["what"]], found["name"], found["reference"]
    if found := _TAGS.fullmatch(path):
        return "tags", found["name"], ""
    return "other", "", ""


_TOKEN_PATHS = frozenset({"/token", "/service/token", "/jwt/auth", "/v2/auth", "/oauth2/token"})
"""Ours, and those of Harbor, GitLab, Quay and ACR."""
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?(?P<id>[^/]*)")
_CONTENT = re.compile(r"/v2/(?P<name>.+)/(?P<what>manifests|blobs|referrers)/(?P<reference>[^/]+)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")
_CONTENT_KINDS: dict[str, Kind] = {"manifests": "manifest", "blobs": "blob", "referrers": "referrers"}
_UPLOAD_KINDS: dict[str, Kind] = {
    "POST": "upload_start",
    "GET": "upload_status",
    "PATCH": "upload_chunk",
    "PUT": "upload_close",
    "DELETE": "upload_cancel",
}
