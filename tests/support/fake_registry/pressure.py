"""How much a fake registry bears: 429 and its headers."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime

from tests.support.fake_registry.journal import Entry
from tests.support.fake_registry.messages import Answer, Headers, error
from tests.support.fake_registry.site import Site

DEFAULT_LIMIT = 100
DEFAULT_WINDOW_SECONDS = 21600


@dataclass
class Pressure:
    """Counts requests in a window and refuses those beyond."""

    site: Site
    used: int = 0
    refused: int = 0
    _began_at: datetime | None = field(default=None)

    def check(self, entry: Entry) -> Answer | None:
        """Count a request; return the refusal, None when it may go on."""
        quirks = self.site.quirks
        if quirks.most_at_once is not None and self.site.journal.in_work > quirks.most_at_once:
            return self.refuse()
        self._roll()
        if quirks.limit_counts == "manifest_gets" and (entry.kind, entry.method) != ("manifest", "GET"):
            return None
        if quirks.limit_requests is None:
            return None
        if self.used >= quirks.limit_requests:
            return self.refuse()
        self.used += 1
        return None

    def refuse(self) -> Answer:
        """Answer that it was too much."""
        self.refused += 1
        answer = error(self.site.quirks.limit_status, "TOOMANYREQUESTS", "you have reached your pull rate limit")
        answer.headers += retry_after(self.site)
        return answer

    def headers(self, entry: Entry) -> Headers:
        """Return the headers that tell the budget."""
        quirks = self.site.quirks
        limit = DEFAULT_LIMIT if quirks.limit_requests is None else quirks.limit_requests
        window = int(quirks.limit_window_seconds or DEFAULT_WINDOW_SECONDS)
        left = max(0, limit - self.used)
        match quirks.limit_headers:
            case "none":
                return []
            case "docker_hub":
                told = [("ratelimit-limit", f"{limit};w={window}"), ("ratelimit-remaining", f"{left};w={window}")]
                return [*told, ("docker-ratelimit-source", "192.0.2.7")] if entry.kind == "manifest" else []
            case "x":
                return [("X-RateLimit-Limit", str(limit)), ("X-RateLimit-Remaining", str(left))]
            case "draft":
                told = [("RateLimit-Limit", str(limit)), ("RateLimit-Remaining", str(left))]
                return [*told, ("RateLimit-Reset", str(self._seconds_left(window)))]
            case "structured":
                told = [("RateLimit-Policy", f'"default";q={limit};w={window}')]
                return [*told, ("RateLimit", f'"default";r={left};t={self._seconds_left(window)}')]

    def _roll(self) -> None:
        """Begin a new window when the old one is over."""
        now, seconds = self.site.clock(), self.site.quirks.limit_window_seconds
        if self._began_at is None or (seconds is not None and now >= self._began_at + timedelta(seconds=seconds)):
            self._began_at, self.used = now, 0

    def _seconds_left(self, window: int) -> int:
        began_at = self._began_at or self.site.clock()
        return max(0, int((began_at + timedelta(seconds=window) - self.site.clock()).total_seconds()))


def retry_after(site: Site) -> Headers:
    """Return `Retry-After` in this registry's form (RFC 9110, 10.2.3)."""
    seconds = site.quirks.retry_after_seconds
    match site.quirks.retry_after:
        case "seconds":
            return [("Retry-After", str(seconds))]
        case "date":
            return [("Retry-After", format_datetime(site.clock() + timedelta(seconds=seconds), usegmt=True))]
        case "missing":
            return []
        case "garbage":
            return [("Retry-After", "soon")]
