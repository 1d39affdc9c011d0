"""Signs notifications and sends them: one POST, to a checked address, in bounded time.

Nothing of the answer is kept but its status and `Retry-After`: its body is not read, redirects are not followed, no
proxy of the environment is used, and what went wrong is reported as a code, never in the other side's words.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import httpcore
from standardwebhooks import Webhook

from app.domain.dead_letter import AttemptOutcome
from app.domain.notification import MessageFormat
from app.net.address_guard import (
    AddressRules,
    Dialer,
    HostRefusedError,
    is_address,
    shared_tls_context,
)
from app.net.http_headers import USER_AGENT, retry_after_seconds

ATTEMPT_SECONDS = 15.0
"""Standard Webhooks, "Delivery": 15 to 30 s; for everything, from the name's lookup to the answer's head."""

_ALLOW_IT = "the setting REGISTRY_SYNC_NOTIFY_PRIVATE_HOSTS names hosts that may be private"
_CONTENT_TYPES: dict[MessageFormat, str] = {
    "standard": "application/json",
    "cloudevents": "application/cloudevents+json",
    "slack": "application/json",
    "teams": "application/json",
    "email": "text/plain",
}


class Outbound:
    """Sends notifications; hosts that the settings name may be private and spoken to in plain http.

    - `rules`: the SSRF guard
    - `private_hosts`: host names, or patterns such as `*.corp.example`
    - `attempt_seconds`: for one attempt, from resolving to the answer's head; 15 s (Standard Webhooks: 15 to 30 s)
    - `tls`: a TLS context; the system's authorities by default
    """

    def __init__(
        self,
        rules: AddressRules,
        *,
        private_hosts: Collection[str] = (),
        attempt_seconds: float = ATTEMPT_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take host names, or patterns such as `*.corp.example`, that may resolve to private addresses."""
        self._rules = rules
        self._private_hosts = frozenset(host.lower() for host in private_hosts)
        self._attempt_seconds = attempt_seconds
        self._tls = tls
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}

    def refusal(self, url: str) -> str | None:
        """Return why an address can be known to be forbidden without resolving it; None when it can't."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        address = host if is_address(host) else None
        refusal = self._rules.refusal(host, address, is_registered=self._may_be_private(host))
        if refusal is not None:
            return f"{refusal.text}; {_ALLOW_IT}" if refusal.is_private else refusal.text
        if self._may_be_private(host):
            return None
        if parts.scheme != "https":
            return f"notifications go over https; {_ALLOW_IT}, in plain http too"
        if host == "localhost" or host.endswith(".localhost"):
            return f"{host} is not a public address; {_ALLOW_IT}"
        return None

    async def send(self, url: str, body: str, headers: Mapping[str, str], *, now: datetime) -> AttemptOutcome:
        """Send a notification once; whatever goes wrong is the outcome."""
        if self.refusal(url):
            return AttemptOutcome(error="address_refused")
        try:
            async with asyncio.timeout(self._attempt_seconds):
                return await self._post(url, body.encode(), headers, now=now)
        except (TimeoutError, httpcore.TimeoutException):
            return AttemptOutcome(error="timeout")
        except HostRefusedError:
            return AttemptOutcome(error="address_refused")
        except httpcore.ConnectError as error:
            is_tls = isinstance(error.__context__, ssl.SSLError)  # the pool takes the cause away, not the context
            return AttemptOutcome(error="tls_error" if is_tls else "unreachable")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            return AttemptOutcome(error="unreachable")

    async def aclose(self) -> None:
        """Close what is open."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str], *, now: datetime) -> AttemptOutcome:
        sent = {"Host": urlsplit(url).netloc, "User-Agent": USER_AGENT, "Content-Length": str(len(body)), **headers}
        async with self._pool(url).stream("POST", url, headers=list(sent.items()), content=body) as answer:
            # Left unread: closing the stream closes the connection.
            named = next((value for name, value in answer.headers if name.lower() == b"retry-after"), b"")
            wait = retry_after_seconds(named.decode("latin-1"), now=now)
            return AttemptOutcome(answer.status, retry_after_seconds=wait or None)

    def _pool(self, url: str) -> httpcore.AsyncConnectionPool:
        is_private = self._may_be_private(urlsplit(url).hostname or "")
        if is_private not in self._pools:
            self._pools[is_private] = httpcore.AsyncConnectionPool(
                ssl_context=self._tls or shared_tls_context(),
                max_connections=None,
                max_keepalive_connections=0,
                network_backend=Dialer(self._rules, is_registered=is_private),
            )
        return self._pools[is_private]

    def _may_be_private(self, host: str) -> bool:
        return any(fnmatchcase(host.lower(), pattern) for pattern in self._private_hosts)


def message_headers(
    body: str, message_format: MessageFormat, *, message_id: str, secrets: Sequence[str], now: datetime
) -> dict[str, str]:
    """Make the headers of one attempt, its signature among them (Standard Webhooks, "Webhook Headers").

    - `secrets`: each makes one signature, and a receiver needs one of them only
    """
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "Content-Type": _CONTENT_TYPES[message_format],
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
