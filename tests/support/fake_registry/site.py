"""What all handlers of one fake registry share: switches, content, time, addresses and tallies."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.support.fake_registry.content import Content
from tests.support.fake_registry.journal import Journal, Origin
from tests.support.fake_registry.messages import HUGE_BYTES, Answer, Headers, Request, page_answer
from tests.support.fake_registry.quirks import Quirks
from tests.support.fake_registry.quirks_content import RedirectTo


@dataclass
class Site:
    """One fake registry behind all its servers."""

    quirks: Quirks
    clock: Callable[[], datetime]
    accounts: Mapping[str, str]
    """Name → password; an account may do everything."""
    identity_tokens: dict[str, str]
    """Refresh token → name; those that ACR gives for tokens of Entra are put here."""
    anonymous_actions: frozenset[str]
    entra: Callable[[str], str | None] | None = None
    """Whose a token of Entra is, None for one that is worth nothing; without it the registry is none of ACR."""
    content: Content = field(default_factory=Content)
    journal: Journal = field(default_factory=Journal)
    made: dict[str, Any] = field(default_factory=dict)
    """What was made by the registry's own API: project or repository → what was asked for."""
    rules: dict[str, list[Any]] = field(default_factory=dict)
    """Rules of immutable tags, by project of Harbor's."""
    retentions: dict[str, Any] = field(default_factory=dict)
    """What is deleted when, by project of Harbor's."""
    urls: dict[Origin, str] = field(default_factory=dict)
    """Base URL of each server, without a slash at the end."""
    tallies: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a switch that acts a number of times has acted: (switch, on what)."""

    def basic(self, name: str) -> str:
        """Return the `Authorization` header of an account."""
        return "Basic " + base64.b64encode(f"{name}:{self.accounts[name]}".encode()).decode()

    def acts(self, switch: str, on: str, *, times: int | None) -> bool:
        """Say whether a switch acts once more, and count it."""
        if times is not None and self.tallies[switch, on] >= times:
            return False
        self.tallies[switch, on] += 1
        return True

    def redirect(self, kind: RedirectTo, request: Request, *, storage_path: str, status: int) -> Answer:
        """Answer a redirect of a GET."""
        answer = Answer(status)
        target = f"{request.entry.target}"
        hop = "&" if "?" in target else "?"
        where = {
            "storage": f"{self.urls['storage']}{storage_path}",
            "stranger": f"{self.urls['stranger']}{storage_path}",
            "same_host": f"{self.urls['registry']}{storage_path}",
            "relative": storage_path,
            "loop": f"{target}{hop}again=1" if len(target) < MAX_TARGET else target,
            "plain_http": f"{self.urls['plain']}{storage_path}",
            "link_local": "http://169.254.169.254/latest/meta-data/",
        }
        if kind in where:
            answer.headers.append(("Location", where[kind]))
        return answer

    def shape_error(self, answer: Answer) -> None:
        """Give an error the body this registry has for errors."""
        match self.quirks.error_body:
            case "json":
                return
            case "html":
                shaped = page_answer(answer.status)
            case "empty":
                shaped = Answer(answer.status)
            case "text":
                shaped = Answer(answer.status, [("Content-Type", "text/plain")], b"went wrong\r\n\x1b[31mbadly\x00")
            case "huge":
                body = json.dumps({"errors": [{"code": "UNKNOWN", "message": "x" * HUGE_BYTES}]}).encode()
                shaped = Answer(answer.status, [("Content-Type", "application/json")], body)
        existing: Headers = [pair for pair in answer.headers if pair[0].lower() != "content-type"]
        answer.headers, answer.body = existing + shaped.headers, shaped.body


MAX_TARGET = 500
