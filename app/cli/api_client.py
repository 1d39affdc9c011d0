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

from app.domain.errors import NotFoundError, RegistrySyncError, UnavailableError

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_SECONDS = 5.0
"""A wrong address is known after this long."""
READ_SECONDS = 90.0
"""Above the 60 s that an answer may wait for a job."""
PAGE = 500


class RefusedError(RegistrySyncError):
    """The service answered with an error; the message is the service's, with each field it names."""

    code = "refused"


class ApiClient:
    """Calls the API of one service.

    - `url`: where it is, such as `https://sync.example.com`
    - `key`: an API key; None where the service wants none
    - `transport`: another way there, such as a Unix socket
    """

    def __init__(self, url: str, *, key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Read a resource; raise `NotFoundError`, `RefusedError`, `UnavailableError`."""
        return self.send("GET", path, query=query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Send a document; raise as `get`."""
        return self.send("POST", path, body=body, query=query)

    def put(self, path: str, body: Any) -> Any:
        """Create or replace a resource; raise as `get`."""
        return self.send("PUT", path, body=body)

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
    ) -> Any:
        """Send a request and return the answer's document, None where there is none; raise as `get`.

        `content` is a media type and bytes, in place of a JSON body.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        sent: dict[str, Any] = {"json": body} if body is not None else {}
        if content is not None:
            sent = {"content": content[1], "headers": {"Content-Type": content[0]}}
        try:
            answer = self.http.request(method, path, params=given, **sent)
        except httpx.HTTPError as error:
            raise UnavailableError(f"{self.http.base_url} does not answer: {error}") from error
        check(answer)
        return answer.json() if answer.content else None


def check(answer: httpx.Response) -> None:
    """Raise `NotFoundError`, `RefusedError` or `UnavailableError` for an answer that is no success."""
    if answer.is_success:
        return
    answer.read()
    text = _text_of(answer)
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(text)
    if answer.is_server_error:
        raise UnavailableError(text)
    raise RefusedError(text)


def _text_of(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        fields = [f"{error.get('pointer') or error.get('parameter')}: {error['detail']}" for error in problem["errors"]]
        return "; ".join(fields) or str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        pass
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code}; is {answer.request.url.copy_with(query=None)} its address?"


def config_file() -> Path:
    """Return where the contexts of this user are: `$XDG_CONFIG_HOME/registry-sync/config.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "registry-sync" / "config.yaml"


def find_context(name: str | None) -> dict[str, str]:
    """Return a context of the configuration: `url`, and `key` or `key_file`; empty where there is none.

    The file has `current: NAME` and `contexts: {NAME: {url: …, key_file: …}}`. Raise `RefusedError` for a context that
    is not there, or a file that can't be read.
    """
    file = config_file()
    if not file.is_file():
        if name is not None:
            raise RefusedError(f"there is no context {name!r}: {file} is not there")
        return {}
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        wanted = name or document.get("current")
        contexts = document.get("contexts") or {}
        context = contexts.get(wanted, {})
        if wanted is not None and wanted not in contexts:
            raise RefusedError(f"there is no context {wanted!r} in {file}; there are: {', '.join(contexts) or 'none'}")
        if "key_file" in context and "key" not in context:
            context = context | {"key": Path(context["key_file"]).expanduser().read_text(encoding="utf-8").strip()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise RefusedError(f"{file} can't be read: {error}") from error
    return {name: str(value) for name, value in context.items()}


def open_client(url: str | None, key: str | None, context: str | None) -> ApiClient:
    """Open a client: what is given goes before the context, the context before the default address."""
    known = {} if url else find_context(context)
    return ApiClient(url or known.get("url") or DEFAULT_URL, key=key or known.get("key"))
