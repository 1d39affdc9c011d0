"""Subscriptions by e-mail, over HTTP and to a real mail server: entered, sent, tried again, given up, changed."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap.mail import load_mail_server
from app.domain.errors import SettingsError
from app.settings import load_settings
from tests.api.conftest import Api, Serve, pointers
from tests.support.mail_server import ReceivingMailServer

MAIL = {"format": "email", "to": ["ops@example.com", "dev@example.com"]}
SENDER = "Registry sync <sync@example.com>"


@pytest.fixture
def mail_server() -> Iterator[ReceivingMailServer]:
    with ReceivingMailServer() as running:
        yield running


@pytest.fixture
async def here(serve: Serve, mail_server: ReceivingMailServer) -> AsyncIterator[Api]:
    place = {"smtp_host": "127.0.0.1", "smtp_port": mail_server.port, "smtp_tls": "none", "smtp_from": SENDER}
    async with serve(**place) as served:
        yield served


async def post_all(api: Api) -> None:
    await api.service.notifier.send_due()
    await api.service.notifier.settle()


async def test_an_e_mail_subscription_is_entered_and_tested(here: Api, mail_server: ReceivingMailServer) -> None:
    entered = await here.client.put("/v1/subscriptions/ops", json=MAIL)
    body = entered.json()
    assert (entered.status_code, body["url"], body["to"], body["secret"], body["secrets"]) == (
        201,
        None,
        MAIL["to"],
        None,
        [],
    )
    again = await here.client.put("/v1/subscriptions/ops", json=(await here.client.get("/v1/subscriptions/ops")).json())
    assert (again.status_code, again.json()["version"]) == (200, 2)
    accepted = await here.client.post("/v1/subscriptions/ops/test")
    await post_all(here)
    ended = (await here.client.get(accepted.headers["Location"])).json()
    assert (ended["state"], ended["status"], ended["error"]) == ("delivered", 250, None)
    [received] = mail_server.received
    assert received.recipients == MAIL["to"]
    assert "a test message for ops" in received.message["Subject"]


async def test_what_the_mail_server_refuses_is_tried_again(here: Api, mail_server: ReceivingMailServer) -> None:
    await here.client.put("/v1/subscriptions/ops", json=MAIL)
    mail_server.reply = "554 no"
    accepted = await here.client.post("/v1/subscriptions/ops/test")
    await post_all(here)
    where = accepted.headers["Location"]
    failed = (await here.client.get(where)).json()
    assert (failed["state"], failed["status"], failed["error"]) == ("failed", 554, "refused")
    mail_server.reply = "250 yes"
    await here.client.post(f"{where}/redeliver")
    await post_all(here)
    assert (await here.client.get(where)).json()["state"] == "delivered"
    assert len(mail_server.received) == 1


async def test_a_subscription_that_becomes_a_hook_gets_a_secret_and_ends_its_e_mail(here: Api) -> None:
    await here.client.put("/v1/subscriptions/ops", json=MAIL)
    accepted = await here.client.post("/v1/subscriptions/ops/test")
    hook = {"url": "https://ci.example.com/x"}
    changed = (await here.client.put("/v1/subscriptions/ops", json=hook)).json()
    assert changed["secret"].startswith("whsec_")
    ended = (await here.client.get(accepted.headers["Location"])).json()
    assert (ended["state"], ended["error"]) == ("failed", "subscription_changed")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"format": "email"}, {"/to": "missing"}),
        (MAIL | {"url": "https://ci.example.com/x"}, {"/url": "invalid_value"}),
        (MAIL | {"to": ["a@b.example\r\nBcc: c@d.example"]}, {"/to/0": "invalid_email"}),
        (MAIL | {"to": [f"a{number}@b.example" for number in range(21)]}, {"/to": "too_long"}),
        (MAIL | {"secret": "whsec_" + "A" * 32}, {"/secret": "invalid_value"}),
        ({"url": "https://ci.example.com/x", "to": ["a@b.example"]}, {"/to": "invalid_value"}),
    ],
)
async def test_what_is_wrong_is_named_by_field(here: Api, body: dict[str, Any], found: dict[str, str]) -> None:
    answer = await here.client.put("/v1/subscriptions/ops", json=body)
    assert (answer.status_code, pointers(answer)) == (422, found)


async def test_a_service_without_a_mail_server_says_which_setting_it_needs(api: Api) -> None:
    answer = await api.client.put("/v1/subscriptions/ops", json=MAIL)
    assert pointers(answer) == {"/format": "email_not_set_up"}
    assert "REGISTRY_SYNC_SMTP_HOST" in answer.text


async def test_a_job_can_bring_no_address_along_for_an_e_mail(here: Api) -> None:
    await here.client.put("/v1/subscriptions/ops", json=MAIL)
    notify = {"url": "https://ci.example.com/x", "subscription": "ops"}
    body = {"source": "a.example.com/x:1", "destination": "b.example.com/x", "notify": notify}
    assert pointers(await here.client.post("/v1/jobs", json=body)) == {"/notify/subscription": "unknown_subscription"}


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({}, "SMTP_FROM"),
        ({"smtp_from": "a@b.example\r\nBcc: c@d.example"}, "SMTP_FROM"),
        ({"smtp_from": SENDER, "smtp_username": "u"}, "SMTP_PASSWORD"),
        ({"smtp_from": SENDER, "smtp_username": "u", "smtp_password": "c4nary", "smtp_tls": "none"}, "SMTP_TLS"),
        ({"smtp_from": SENDER, "smtp_username": "u", "smtp_password_file": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_a_wrong_mail_server_stops_the_start_and_says_why(more: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_mail_server(load_settings(smtp_host="mail.example.com", **more))
    assert word in str(caught.value)
    assert "c4nary" not in str(caught.value)


def test_the_port_goes_by_the_encryption_and_the_password_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("c4nary\n")
    login = {"smtp_username": "u", "smtp_password_file": tmp_path / "password"}
    settings = load_settings(smtp_host="mail.example.com", smtp_from=SENDER, **login)
    server = load_mail_server(settings)
    assert server is not None
    assert (server.port, server.tls, server.password.get_secret_value()) == (587, "starttls", "c4nary")
    assert "c4nary" not in repr(server) + repr(settings)
    assert load_mail_server(load_settings()) is None
