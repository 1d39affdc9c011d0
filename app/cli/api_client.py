"""The API as commands use it: one address and key, errors in the service's own words.

A client of the contract and nothing else; it loads none of the service.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from app.cli.api_errors import WrongArgumentError, check, in_words_of_commands
from app.domain.errors import UnavailableError

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_SECONDS = 5.0
"""A wrong address is known after this long."""
READ_SECONDS = 90.0
"""Above the 60 s that an answer may wait for a job."""
PAGE = 500


class ApiClient:
    """Calls the API of one service.

    - `url`: where it is, such as `https://sync.example.com`
    - `key`: an API key; None where the service wants none
    - `transport`: another way there, such as a Unix socket
    - `is_local`: it is inside this process, for one command

    Raise `WrongArgumentError` where the URL is none.
    """

    def __init__(
        self, url: str, *, key: str | None, transport: httpx.BaseTransport | None = None, is_local: bool = False
    ) -> None:
        self.is_local = is_local
        if not url.startswith(("http://", "https://")):
            _, _, rest = url.rpartition("://")
            raise WrongArgumentError(f"{url!r} is no URL of a service: write http://{rest} or https://{rest}")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        try:
            self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        except httpx.InvalidURL as error:
            raise WrongArgumentError(f"{url!r} is no URL of a service: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def error_text(self, error: Mapping[str, Any]) -> str:
        """Return an error that the service keeps of an image or a job, in the words of the command line."""
        return f"{error['code']}: {in_words_of_commands(error['message'], is_local=self.is_local)}"

    def get(self, path: str, **query: Any) -> Any:
        """Read a resource; raise as `check` does."""
        return self.send("GET", path, query=query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Send a document; raise as `get`."""
        return self.send("POST", path, body=body, query=query)

    def put(self, path: str, body: Any, *, version: int | None = None, **query: Any) -> Any:
        """Create or replace a resource, where one is given only of that version; raise as `get`."""
        return self.send("PUT", path, body=body, query=query, version=version)

    def delete(self, path: str, **query: Any) -> None:
        """Delete a resource; raise as `get`."""
        self.send("DELETE", path, query=query)

    def pages(self, path: str, *, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, page after page, at most `limit`; raise as `get`."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.get(path, limit=size, cursor=cursor, **query)
            yield from page["items"]
            cursor = page["next_cursor"]
            left = None if left is None else left - len(page["items"])
            if cursor is None:
                return

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        content: tuple[str, bytes] | None = None,
        version: int | None = None,
    ) -> Any:
        """Send a request and return the answer's document, None where there is none; raise as `get`.

        `content` is a media type and bytes, in place of a JSON body; `version` is the only one that is changed.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        sent: dict[str, Any] = {"json": body} if body is not None else {}
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        if content is not None:
            sent = {"content": content[1]}
            headers["Content-Type"] = content[0]
        try:
            answer = self.http.request(method, path, params=given, headers=headers, **sent)
        except httpx.HTTPError as error:
            raise UnavailableError(f"{self.http.base_url} does not answer: {error}") from error
        check(answer, is_local=self.is_local)
        return answer.json() if answer.content else None


def config_file() -> Path:
    """Return where the contexts of this user are: `$XDG_CONFIG_HOME/registry-sync/config.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "registry-sync" / "config.yaml"


def find_context(name: str | None) -> dict[str, str]:
    """Return a context of the configuration: `url`, and `key` or `key_file`; empty where there is none.

    The file has `current: NAME` and `contexts: {NAME: {url: …, key_file: …}}`. Raise `WrongArgumentError` for a
    context that is not there, or a file that can't be read.
    """
    file = config_file()
    if not file.is_file():
        if name is not None:
            raise WrongArgumentError(f"there is no context {name!r}: {file} is not there")
        return {}
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        wanted = name or document.get("current")
        contexts = document.get("contexts") or {}
        context = contexts.get(wanted, {})
        if wanted is not None and wanted not in contexts:
            raise WrongArgumentError(
                f"there is no context {wanted!r} in {file}; there are: {', '.join(contexts) or 'none'}"
            )
        if "key_file" in context and "key" not in context:
            context = context | {"key": Path(context["key_file"]).expanduser().read_text(encoding="utf-8").strip()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise WrongArgumentError(f"{file} can't be read: {error}") from error
    return {name: str(value) for name, value in context.items()}


class OnCommandLine(str):
    """The value of an option that was typed; what the environment says is a `str`."""

    __slots__ = ()


def open_client(url: str | None, key: str | None, context: str | None) -> ApiClient:
    """Open a client: what is given goes before the context, the context before the default address.

    A context that was typed goes before the address and the key of the environment: those are another service's.
    Raise `WrongArgumentError`, also for an address that was typed beside it.
    """
    known = find_context(context) if context or not url else {}
    if context and isinstance(context, OnCommandLine):
        if isinstance(url, OnCommandLine):
            raise WrongArgumentError("--url and --context are two services: give one of them")
        if "url" not in known:
            raise WrongArgumentError(f"the context {str(context)!r} has no `url`")
        return ApiClient(known["url"], key=key if isinstance(key, OnCommandLine) else known.get("key"))
    if url:
        return ApiClient(url, key=key)
    return ApiClient(known.get("url") or DEFAULT_URL, key=key or known.get("key"))
