"""The mail server as the settings name it."""

from __future__ import annotations

from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path

from pydantic import SecretStr

from app.domain.errors import SettingsError
from app.domain.notify_url import is_email_address
from app.settings import PREFIX, Settings
from app.webhooks.mailer import MailServer

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def load_mail_server(settings: Settings) -> MailServer | None:
    """Read where e-mail is handed over; None where no setting says it. Raise `SettingsError`."""
    if settings.smtp_host is None:
        return None
    password = _password(settings)
    if (settings.smtp_username is None) != (password is None):
        raise SettingsError(f"{PREFIX}SMTP_USERNAME and {PREFIX}SMTP_PASSWORD (or SMTP_PASSWORD_FILE) go together")
    if password is not None and settings.smtp_tls == "none":
        raise SettingsError(f"{PREFIX}SMTP_TLS: a password goes over TLS only; take starttls or tls")
    return MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port or _PORTS[settings.smtp_tls],
        sender=_sender(settings.smtp_from or ""),
        tls=settings.smtp_tls,
        username=settings.smtp_username,
        password=password or SecretStr(""),
    )


def _password(settings: Settings) -> SecretStr | None:
    file = settings.smtp_password_file
    if file is None:
        return settings.smtp_password
    if settings.smtp_password is not None:
        raise SettingsError(f"set {PREFIX}SMTP_PASSWORD or {PREFIX}SMTP_PASSWORD_FILE, not both")
    return SecretStr(_read(file))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read {file}: {getattr(error, 'strerror', None) or 'not a text'}") from error


def _sender(text: str) -> Address:
    name, address = parseaddr(text)
    if not is_email_address(address) or not name.isprintable() or not text.isprintable():
        raise SettingsError(f"{PREFIX}SMTP_FROM: it is sync@example.com, or Registry sync <sync@example.com>")
    return Address(display_name=name, addr_spec=address)
