"""A sender proves who it is in the way its hook is set to, and in no other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.errors import HookError
from app.domain.push_event import HookSettings
from app.webhooks.google_tokens import check_google_token, key_id, read_keys
from app.webhooks.inbound import RawDelivery, event_grid_answer, origin_answer, read, rejected, verify

NOW = datetime(2026, 3, 2, 7, 15, 9, tzinfo=UTC)
SECRET = "a secret of the hook's"
BODY = b'{"repository": "team/shop", "tag": "1"}\n'


def hook(format: str = "generic", /, **auth: Any) -> HookSettings:  # noqa: A002 — the contract's word
    return HookSettings.model_validate({"format": format, "auth": auth})


def is_proven(settings: HookSettings, headers: dict[str, str], *, body: bytes = BODY, token: str = "") -> bool:
    try:
        verify(settings, RawDelivery(body, headers, token), now=NOW)
    except HookError as error:
        return (error.code, error.message) != (rejected().code, rejected().message)
    return True


def signed(body: bytes = BODY, algorithm: str = "sha256", secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, algorithm).hexdigest()


def test_a_header_must_hold_the_whole_value() -> None:
    settings = hook(type="header", header="X-Registry-Token", secret=SECRET)
    assert is_proven(settings, {"x-registry-token": SECRET})
    for wrong in ("", SECRET[:-1], f"{SECRET} ", SECRET.upper(), f"Bearer {SECRET}"):
        assert not is_proven(settings, {"x-registry-token": wrong}), wrong
    assert not is_proven(settings, {"authorization": SECRET})
    assert not is_proven(settings, {})


def test_a_header_is_authorization_when_none_is_named() -> None:
    assert is_proven(hook(type="header", secret=f"Basic {SECRET}"), {"authorization": f"Basic {SECRET}"})


def test_a_bearer_token_stands_after_its_scheme() -> None:
    settings = hook(type="bearer", secret=SECRET)
    assert is_proven(settings, {"authorization": f"Bearer {SECRET}"})
    assert is_proven(settings, {"authorization": f"bearer {SECRET}"})
    for wrong in (SECRET, f"Basic {SECRET}", "Bearer", "Bearer wrong", ""):
        assert not is_proven(settings, {"authorization": wrong}), wrong


def test_basic_login_needs_both_name_and_password() -> None:
    settings = hook(type="basic", username="acr", secret=SECRET)

    def login(text: str) -> dict[str, str]:
        return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}

    assert is_proven(settings, login(f"acr:{SECRET}"))
    for wrong in (f"other:{SECRET}", "acr:wrong", "acr", f"{SECRET}:acr", ""):
        assert not is_proven(settings, login(wrong)), wrong
    assert not is_proven(settings, {"authorization": "Basic %%%"})
    assert not is_proven(settings, {"authorization": "Basic é"})


@pytest.mark.parametrize(
    ("format", "header", "value"),
    [
        ("ghcr", "x-hub-signature-256", f"sha256={signed()}"),
        ("gitea", "x-hub-signature-256", f"sha256={signed()}"),
        ("artifactory", "x-jfrog-event-auth", signed()),
        ("nexus", "x-nexus-webhook-signature", signed(algorithm="sha1")),
    ],
)
def test_a_signature_is_where_the_format_documents_it(format: str, header: str, value: str) -> None:  # noqa: A002 — the parameter's name in the table
    settings = hook(format, type="hmac", secret=SECRET)
    assert is_proven(settings, {header: value})
    assert not is_proven(settings, {header: value}, body=BODY.strip()), "the raw bytes count, to the last one"
    assert not is_proven(settings, {header: value[:-1]})
    assert not is_proven(settings, {header: ""})
    assert not is_proven(settings, {})
    assert not is_proven(hook(format, type="hmac", secret="another secret"), {header: value})


def test_a_signature_may_be_set_up_in_every_part() -> None:
    made = base64.b64encode(hmac.new(SECRET.encode(), BODY, hashlib.sha512).digest()).decode()
    settings = hook(type="hmac", secret=SECRET, header="X-Sig", algorithm="sha512", prefix="v1,", encoding="base64")
    assert is_proven(settings, {"x-sig": f"v1,{made}"})
    assert not is_proven(settings, {"x-sig": f"v2,{made}"})


def test_giteas_own_header_has_no_prefix() -> None:
    settings = hook("gitea", type="hmac", secret=SECRET, header="X-Gitea-Signature")
    assert is_proven(settings, {"x-gitea-signature": signed()})


def test_a_weaker_signature_does_not_stand_in_for_the_one_asked_for() -> None:
    settings = hook("ghcr", type="hmac", secret=SECRET)
    assert not is_proven(settings, {"x-hub-signature-256": f"sha1={signed(algorithm='sha1')}"})
    assert not is_proven(settings, {"x-hub-signature": f"sha1={signed(algorithm='sha1')}"})


def test_a_url_token_is_taken_from_the_address_only() -> None:
    token = "tok_0123456789abcdefghijkl"
    settings = hook("docker_hub", type="url_token", secret=token)
    assert is_proven(settings, {}, token=token)
    assert not is_proven(settings, {}, token=token[:-1])
    assert not is_proven(settings, {}, token="")
    assert not is_proven(settings, {"authorization": token})


@given(value=st.text(max_size=50))
def test_no_text_but_the_secret_is_taken(value: str) -> None:
    settings = hook(type="header", secret=SECRET)
    assert is_proven(settings, {"authorization": value}) == (value == SECRET)
    assert not is_proven(hook(type="hmac", secret=SECRET), {"x-hub-signature-256": value})
    assert not is_proven(hook(type="basic", username="u", secret=SECRET), {"authorization": f"Basic {value}"})
    google = hook(type="google", audience="https://sync.example.com", email="push@shop.example")
    assert not is_proven(google, {"authorization": f"Bearer {value}"})


@pytest.mark.parametrize(
    "auth",
    [
        {"type": "none"},
        {"type": "header", "secret": ""},
        {"type": "header", "secret": "line\nbreak in it"},
        {"type": "header", "header": "Not A Header", "secret": SECRET},
        {"type": "url_token", "secret": "short"},
        {"type": "hmac", "secret": SECRET, "algorithm": "md5"},
        {"type": "basic", "username": "with:colon", "secret": SECRET},
        {"type": "google", "audience": "", "email": "push@shop.example"},
        {"type": "google", "audience": "a", "email": "push@shop.example", "issuer": "https://u:p@evil.example"},
    ],
)
def test_a_hook_that_proves_nothing_can_not_be_set_up(auth: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        hook(**auth)


def test_a_hooks_secret_does_not_show_when_it_is_printed() -> None:
    settings = hook(type="header", secret=SECRET)
    assert SECRET not in repr(settings)
    assert SECRET not in settings.model_dump_json()
    assert SECRET not in repr(RawDelivery(SECRET.encode(), {"authorization": SECRET}, SECRET))


# --- Google ----------------------------------------------------------------------------------------------------------

AUDIENCE, EMAIL = "https://sync.example.com/v1/hooks/gar", "push@shop-prod.iam.gserviceaccount.com"
CLAIMS = {
    "iss": "https://accounts.google.com",
    "aud": AUDIENCE,
    "email": EMAIL,
    "email_verified": True,
    "iat": int(NOW.timestamp()) - 10,
    "exp": int(NOW.timestamp()) + 3_600,
    "sub": "1177",
}
GOOGLE = hook("gar", type="google", audience=AUDIENCE, email=EMAIL)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def jwks(key: rsa.RSAPrivateKey, **changes: object) -> bytes:
    numbers = key.public_key().public_numbers()
    n = encoded(numbers.n.to_bytes(numbers.n.bit_length() // 8 + 1, "big"))
    return json.dumps({"keys": [{"kty": "RSA", "kid": "k1", "n": n, "e": "AQAB", **changes}, {"kty": "EC"}]}).encode()


def token(key: rsa.RSAPrivateKey, *, header: dict[str, object] | None = None, **changes: object) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    head = {"alg": "RS256", "kid": "k1", "typ": "JWT", **(header or {})}
    text = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{text}.{encoded(key.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"


def is_google(text: str, keys: bytes) -> bool:
    delivery = RawDelivery(BODY, {"authorization": f"Bearer {text}"})
    try:
        verify(GOOGLE, delivery, now=NOW, google_keys=read_keys(keys))
    except HookError:
        return False
    return True


def test_googles_token_for_this_hook_is_taken(key: rsa.RSAPrivateKey) -> None:
    assert is_google(token(key), jwks(key))
    assert is_google(token(key, iss="accounts.google.com"), jwks(key))
    assert key_id(token(key)) == "k1"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://other.example.com"},
        {"aud": None},
        {"aud": ""},
        {"email": "attacker@other.iam.gserviceaccount.com"},
        {"email": None},
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": int(NOW.timestamp()) - 61},
        {"exp": None},
        {"exp": "9999999999"},
        {"iat": int(NOW.timestamp()) + 61},
        {"iat": None},
        {"header": {"alg": "none"}},
        {"header": {"alg": "HS256"}},
        {"header": {"alg": "RS512"}},
        {"header": {"kid": "k2"}},
        {"header": {"crit": ["exp"]}},
    ],
    ids=str,
)
def test_a_google_token_that_differs_in_one_thing_is_refused(key: rsa.RSAPrivateKey, changes: dict[str, Any]) -> None:
    assert not is_google(token(key, **changes), jwks(key))


def test_a_google_token_signed_with_another_key_or_cut_is_refused(key: rsa.RSAPrivateKey) -> None:
    other = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    text = token(key)
    assert not is_google(token(other), jwks(key))
    assert not is_google(text.rpartition(".")[0] + ".", jwks(key))
    assert not is_google(text.rpartition(".")[0], jwks(key))
    assert not is_google(f"{text}.{text}", jwks(key))
    assert not is_google(text, b'{"keys": []}')


def test_keys_too_weak_or_of_another_kind_are_left_out(key: rsa.RSAPrivateKey) -> None:
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)  # noqa: S505 — weak on purpose
    assert set(read_keys(jwks(key))) == {"k1"}
    assert read_keys(jwks(weak)) == {}
    assert read_keys(jwks(key, e="Aw")) == {}
    assert read_keys(jwks(key, n=7)) == {}


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 7}', b"[" * 100_000])
def test_a_key_document_that_is_none_is_a_hook_error(document: bytes) -> None:
    with pytest.raises(HookError):
        read_keys(document)


@given(text=st.text(alphabet="abcXYZ019_-.=+/ é", max_size=80))
def test_no_text_is_a_google_token_by_chance(text: str) -> None:
    assert GOOGLE.auth.type == "google"
    assert not check_google_token(text, GOOGLE.auth, keys={}, now=NOW)
    key_id(text)


# --- Handshakes ------------------------------------------------------------------------------------------------------


def test_event_grids_validation_code_is_sent_back() -> None:
    body = json.dumps(
        [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "c"}}]
    )
    question = {"aeg-event-type": "SubscriptionValidation"}
    assert event_grid_answer(RawDelivery(body.encode(), question)) == {"validationResponse": "c"}
    assert event_grid_answer(RawDelivery(body.encode(), {"aeg-event-type": "Notification"})) is None
    assert event_grid_answer(RawDelivery(b"[{}]", question)) is None
    assert event_grid_answer(RawDelivery(body.encode(), {})) is None


def test_only_an_origin_that_is_set_up_may_send() -> None:
    settings = HookSettings.model_validate(
        {"format": "acr", "auth": {"type": "header", "secret": SECRET}, "allowed_origins": ["eventgrid.azure.net"]}
    )
    asked = {"webhook-request-origin": "eventgrid.azure.net"}
    assert origin_answer(settings, asked) == {"WebHook-Allowed-Origin": "eventgrid.azure.net"}
    assert origin_answer(settings, {**asked, "webhook-request-rate": "120"}) == {
        "WebHook-Allowed-Origin": "eventgrid.azure.net",
        "WebHook-Allowed-Rate": "*",
    }
    assert origin_answer(settings, {"webhook-request-origin": "evil.example"}) is None
    assert origin_answer(settings, {}) is None


def test_a_delivery_is_read_in_its_hooks_format() -> None:
    delivery = RawDelivery(BODY, {})
    assert read(hook(type="header", secret=SECRET), delivery).events[0].repository == "team/shop"
    with pytest.raises(HookError):
        read(hook("harbor", type="header", secret=SECRET), delivery)
