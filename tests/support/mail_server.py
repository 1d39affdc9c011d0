"""A real mail server (aiosmtpd) on a loopback socket: STARTTLS or TLS, a login, and whom it refuses.

with ReceivingMailServer(accounts={"sync": "password"}, tls=context, required="starttls") as server:
    ...
    received = server.received
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(frozen=True, slots=True)
class ReceivedEmail:
    """One message as it was handed over."""

    sender: str
    recipients: list[str]
    content: bytes
    is_encrypted: bool
    is_logged_in: bool

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=policy.default)


class _Listener(Controller):
    """Listens at a free port, which the controller's own first connection does not look up."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd's


@dataclass
class ReceivingMailServer:
    """Takes mail, but from whom it doesn't know and to whom it refuses.

    - `tls`: a server's context; without one nothing is encrypted
    - `is_tls_from_first_byte`: instead of STARTTLS
    - `accounts`: who may log in, by password; who they are must log in then
    - `refused`: replies to recipients by address
    - `reply`: the reply to each message
    """

    tls: ssl.SSLContext | None = None
    is_tls_from_first_byte: bool = False
    accounts: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    reply: str = "250 taken"
    received: list[ReceivedEmail] = field(default_factory=list)

    def __enter__(self) -> Self:
        offered = {"tls_context": self.tls, "require_starttls": True} if self.tls else {}
        options: dict[str, Any] = {} if self.is_tls_from_first_byte else offered
        if self.accounts:
            options |= {"authenticator": self._authenticate, "auth_required": True}
            options |= {"auth_require_tls": not self.is_tls_from_first_byte}
        self._controller = _Listener(
            self,
            hostname="127.0.0.1",
            port=0,
            ssl_context=self.tls if self.is_tls_from_first_byte else None,
            **options,
        )
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    @property
    def port(self) -> int:
        return int(self._controller.port)

    async def handle_RCPT(self, *given: Any) -> str:  # noqa: N802 — aiosmtpd's name
        _, _, envelope, address, _ = given
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 known"

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 — as above
        content = envelope.content
        assert isinstance(content, bytes)
        is_encrypted = self.is_tls_from_first_byte or session.ssl is not None
        recipients = list(envelope.rcpt_tos)
        received = ReceivedEmail(
            envelope.mail_from or "", recipients, content, is_encrypted, bool(session.authenticated)
        )
        if self.reply.startswith("250"):
            self.received.append(received)
        return self.reply

    def _authenticate(self, *given: Any) -> AuthResult:
        data = given[-1]
        assert isinstance(data, LoginPassword)
        is_known = self.accounts.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=is_known, handled=False)
