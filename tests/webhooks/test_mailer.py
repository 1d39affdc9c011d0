"""E-mail over real sockets: encryption, login, refusals; and what no header can be made to say."""

import json
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from email.headerregistry import Address
from pathlib import Path

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from app.domain.dead_letter import AttemptOutcome
from app.domain.notification import EventType
from app.domain.notify_url import EmailAddress
from app.webhooks.mailer import Mailer, MailServer, SmtpTls
from app.webhooks.messages import email_of, write_message
from tests.support.certificates import ServerCertificate, make_server_certificate
from tests.support.mail_server import ReceivingMailServer

SENDER = Address("Registry sync", addr_spec="sync@example.com")
TO = ("ops@example.com", "o'neil+x@sub.example.org")
AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return make_server_certificate(tmp_path_factory.mktemp("mail"))


@pytest.fixture
def server_tls(certificate: ServerCertificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return context


def mailer_to(server: ReceivingMailServer, ca: Path, *, tls: SmtpTls, login: str | None = None) -> Mailer:
    name, _, password = (login or "").partition(":")
    place = MailServer(host="127.0.0.1", port=server.port, sender=SENDER, tls=tls)
    if login:
        place = replace(place, username=name, password=SecretStr(password))
    return Mailer(place, attempt_seconds=10, tls=ssl.create_default_context(cafile=ca))


def stored(policy: str = "hub", error: str = "no right") -> str:
    data = {
        "id": "j" * 36,
        "href": f"/v1/jobs/{'j' * 36}",
        "state": "failed",
        "policy": policy,
        "labels": {},
        "created_by": "ann",
        "trigger": {"type": "api"},
        "images": {"total": 3, "copied": 2, "failed": 1},
        "error": {"code": "denied", "message": error},
    }
    return write_message(
        "email", message_id="msg_1", event=EventType.JOB_FAILED, occurred_at=AT, subject="j", data=data
    )


async def send(mailer: Mailer, body: str = "", to: tuple[str, ...] = TO) -> AttemptOutcome:
    email = email_of(body or stored(), sender=SENDER, to=to, message_id="msg_1", public_url="https://sync.example.com")
    return await mailer.send(email, to)


@pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")  # the server's own: it sees STARTTLS only
@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_an_e_mail_arrives_encrypted_after_a_login(
    tls: SmtpTls, server_tls: ssl.SSLContext, certificate: ServerCertificate
) -> None:
    accounts = {"sync": "p4ss:word"}
    with ReceivingMailServer(tls=server_tls, is_tls_from_first_byte=tls == "tls", accounts=accounts) as server:
        mailer = mailer_to(server, certificate.ca_file, tls=tls, login="sync:p4ss:word")
        assert await send(mailer) == AttemptOutcome(250)
        refused = mailer_to(server, certificate.ca_file, tls=tls, login="sync:wrong")
        assert await send(refused) == AttemptOutcome(535, "login_refused")
    [received] = server.received
    assert (received.is_encrypted, received.is_logged_in) == (True, True)
    assert (received.sender, received.recipients) == ("sync@example.com", list(TO))
    message = received.message
    assert message["Subject"] == "❌ policy hub failed"
    assert str(message["From"]) == "Registry sync <sync@example.com>"
    assert [str(one) for one in message["To"].addresses] == list(TO)
    assert (message["Message-ID"], message["Auto-Submitted"]) == ("<msg_1@example.com>", "auto-generated")
    assert message["Date"].datetime == AT
    text = message.get_content()
    for line in ("Images: 2 copied, 1 failed", "denied: no right", f"https://sync.example.com/console/jobs/{'j' * 36}"):
        assert line in text.splitlines()
    received.content.decode("ascii")


async def test_a_server_that_offers_no_encryption_gets_neither_password_nor_message(
    certificate: ServerCertificate,
) -> None:
    with ReceivingMailServer() as server:
        mailer = mailer_to(server, certificate.ca_file, tls="starttls", login="sync:secret")
        assert await send(mailer) == AttemptOutcome(error="tls_error")
        assert server.received == []
        assert await send(mailer_to(server, certificate.ca_file, tls="none")) == AttemptOutcome(250)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_certificate_of_nobody_we_trust_ends_it(
    tls: SmtpTls, server_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    other = make_server_certificate(tmp_path)
    with ReceivingMailServer(tls=server_tls, is_tls_from_first_byte=tls == "tls") as server:
        assert await send(mailer_to(server, other.ca_file, tls=tls)) == AttemptOutcome(error="tls_error")
    assert server.received == []


async def test_refusals_keep_the_code_and_what_some_have_got_is_not_sent_again(certificate: ServerCertificate) -> None:
    with ReceivingMailServer() as server:
        mailer = mailer_to(server, certificate.ca_file, tls="none")
        server.reply = "451 later, you"
        assert await send(mailer) == AttemptOutcome(451, "refused")
        server.reply = "250 taken"
        server.refused = {TO[0]: "550 no such user"}
        partly = await send(mailer)
        assert (partly.is_taken, partly.reason) == (True, "recipients_refused")
        server.refused[TO[1]] = "550 nor such"
        wholly = await send(mailer)
        assert (wholly.status, wholly.is_taken, wholly.reason) == (550, False, "refused")
        server.refused = {TO[0]: "410 gone fishing", TO[1]: "410 gone fishing"}
        assert not (await send(mailer)).is_gone


async def test_a_server_that_is_silent_or_away_or_not_set_is_told_apart(certificate: ServerCertificate) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    place = MailServer(host="127.0.0.1", port=port, sender=SENDER, tls="none")
    assert await send(Mailer(place, attempt_seconds=0.2)) == AttemptOutcome(error="timeout")
    silent.close()
    assert await send(Mailer(place)) == AttemptOutcome(error="unreachable")
    assert await send(Mailer(None)) == AttemptOutcome(error="email_not_set_up")


@pytest.mark.parametrize(
    "text",
    [
        "a@b.example\r\nBcc: c@d.example",
        "a@b.example\nx",
        "a@b.example,c@d.example",
        "A <a@b.example>",
        '"a b"@c.example',
        "a@b.example>",
        "a b@c.example",
        "a@b@c.example",
        "a..b@c.example",
        "ä@c.example",
        "a@ä.example",
        "a@",
        "@b",
        "x" * 65 + "@b.example",
    ],
)
def test_an_address_is_one_plain_address(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(EmailAddress).validate_python(text)


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\x00", "\x1b"])
async def test_no_text_becomes_a_header_or_ends_the_message(end: str, certificate: ServerCertificate) -> None:
    evil = f"x{end}Bcc: evil@example.com{end}{end}.{end}MAIL FROM:<evil@example.com>{end}" + "y" * 2_000
    with ReceivingMailServer() as server:
        mailer = mailer_to(server, certificate.ca_file, tls="none")
        assert await send(mailer, stored(policy=evil, error=evil)) == AttemptOutcome(250)
    [received] = server.received
    message = received.message
    assert set(message.keys()) == {
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "Content-Type",
        "Content-Transfer-Encoding",
        "MIME-Version",
    } - (set() if message["Content-Transfer-Encoding"] else {"Content-Transfer-Encoding"})
    assert received.recipients == list(TO)
    assert "evil@example.com" in message.get_content()
    assert all(char.isprintable() for char in str(message["Subject"]))
    assert max(map(len, received.content.split(b"\r\n"))) <= 998


def test_what_is_stored_is_the_standard_message() -> None:
    assert json.loads(stored())["type"] == "job.failed"
