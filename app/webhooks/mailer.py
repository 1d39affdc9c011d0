"""Sends notifications by e-mail, through the one server that the settings name.

The server is an operator's choice, never a caller's, so it may be anywhere. As with posted messages nothing of what it
says is kept but its reply code: what went wrong is reported as a code of ours.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Literal

import aiosmtplib
from pydantic import SecretStr

from app.domain.dead_letter import AttemptOutcome
from app.net.address_guard import shared_tls_context

ATTEMPT_SECONDS = 30.0
"""For everything, from the name's lookup to the reply to the message."""
SmtpTls = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where e-mail is handed over, how, and from whom it is.

    - `tls`: `starttls` (never without), `tls` from the first byte, or `none`
    """

    host: str
    port: int
    sender: Address
    tls: SmtpTls = "starttls"
    username: str | None = None
    password: SecretStr = field(default=SecretStr(""), repr=False)


class Mailer:
    """Sends e-mail; without a server it refuses to.

    - `attempt_seconds`: for one attempt; 30 s
    - `tls`: a TLS context; the system's authorities by default
    """

    def __init__(
        self, server: MailServer | None, *, attempt_seconds: float = ATTEMPT_SECONDS, tls: ssl.SSLContext | None = None
    ) -> None:
        self.server = server
        self._attempt_seconds = attempt_seconds
        self._tls = tls

    async def send(self, email: EmailMessage, to: Sequence[str]) -> AttemptOutcome:
        """Send an e-mail once; whatever goes wrong is the outcome, with the server's reply code where there is one."""
        if self.server is None:
            return AttemptOutcome(error="email_not_set_up")
        client = aiosmtplib.SMTP(
            hostname=self.server.host,
            port=self.server.port,
            use_tls=self.server.tls == "tls",
            start_tls=False,
            tls_context=self._tls or shared_tls_context(),
            local_hostname=socket.gethostname(),  # not the fully qualified one: that would ask DNS, and block
            timeout=self._attempt_seconds,
        )
        try:
            async with asyncio.timeout(self._attempt_seconds):
                return await _hand_over(client, self.server, email, to=to)
        except TimeoutError:  # aiosmtplib's own is one
            return AttemptOutcome(error="timeout")
        except aiosmtplib.SMTPAuthenticationError as error:
            return AttemptOutcome(error.code, error="login_refused")
        except aiosmtplib.SMTPRecipientsRefused as error:
            return AttemptOutcome(error.recipients[0].code if error.recipients else None, error="refused")
        except aiosmtplib.SMTPResponseException as error:
            return AttemptOutcome(error.code, error="refused")
        except (aiosmtplib.SMTPException, OSError) as error:
            return AttemptOutcome(error="tls_error" if _is_tls(error) else "unreachable")
        finally:
            client.close()


async def _hand_over(
    client: aiosmtplib.SMTP, server: MailServer, email: EmailMessage, *, to: Sequence[str]
) -> AttemptOutcome:
    await client.connect()
    await client.ehlo()
    if server.tls == "starttls":
        if not client.supports_extension("starttls"):
            return AttemptOutcome(error="tls_error")  # taken out on the way: to have the password in the clear
        await client.starttls()
        await client.ehlo()
    if server.username is not None:
        await client.login(server.username, server.password.get_secret_value())
    refused, _ = await client.send_message(email, sender=server.sender.addr_spec, recipients=list(to))
    # What some have got is not sent again: that the others were refused stands beside it.
    return AttemptOutcome(250, error="recipients_refused" if refused else None)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
