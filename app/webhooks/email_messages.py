"""Notifications as e-mail: plain text, made of the message in its standard form when it is sent.

No header has anything but what is known to fit into one line: addresses are `name@host` in plain ASCII
(`EmailAddress`), the subject loses control characters before it becomes one, and `EmailMessage` refuses what would end
a header.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage

from app.webhooks.chat_messages import error_of, facts_of, title_of

MAX_SUBJECT = 150
_POLICY = policy.SMTP.clone(cte_type="7bit")
"""What every server takes: bytes beyond ASCII are written as quoted-printable or base64."""


def email_message(body: str, *, sender: Address, to: Sequence[str], message_id: str, page: str | None) -> EmailMessage:
    """Write a stored message as an e-mail: at each attempt the same, under the same `Message-ID`.

    `page` is the address of what it is about, where known.
    """
    message = json.loads(body)
    title = title_of(message)
    lines = [title, "", *(f"{name}: {value}" for name, value in facts_of(message))]
    if error := error_of(message):
        lines += ["", error]
    if page is not None:
        lines += ["", page]
    email = EmailMessage(policy=_POLICY)
    email["From"] = sender
    email["To"] = ", ".join(to)
    email["Subject"] = _one_line(title)[:MAX_SUBJECT]
    email["Date"] = datetime.fromisoformat(message["timestamp"])
    email["Message-ID"] = f"<{message_id}@{sender.domain}>"
    email["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is answered to it
    email.set_content("\n".join(lines) + "\n")
    return email


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
