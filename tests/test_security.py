"""API keys and seals."""

import hashlib
from itertools import cycle

import pytest
from cryptography.fernet import Fernet
from hypothesis import assume, given
from hypothesis import strategies as st

from app.domain.errors import AccessError, UnavailableError
from app.security import Sealer, make_api_key, read_api_key

KEY = make_api_key()


def test_a_key_is_recognisable_and_only_its_digest_is_needed_to_tell_it() -> None:
    text = make_api_key()

    presented = read_api_key(text)

    assert text.startswith(f"rsk_{presented.id}_")
    assert presented.matches(hashlib.sha256(text.encode()).hexdigest())
    assert not presented.matches(hashlib.sha256(make_api_key().encode()).hexdigest())
    assert text not in repr(presented)
    assert presented.digest not in repr(presented)


def test_keys_come_from_the_randomness_given() -> None:
    letters = cycle("abcXYZ019")

    assert make_api_key(lambda _: next(letters)).startswith("rsk_abcXYZ019abc_XYZ019abcXYZ")
    assert make_api_key() != make_api_key()


@given(at=st.integers(min_value=4, max_value=len(KEY) - 1), letter=st.sampled_from("0Aa_"))
def test_one_wrong_character_is_known_without_asking_the_database(at: int, letter: str) -> None:
    assume(KEY[at] != letter)

    with pytest.raises(AccessError, match="copied whole"):
        read_api_key(KEY[:at] + letter + KEY[at + 1 :])


@pytest.mark.parametrize(
    "text", ["", "short", "rsk_", "x" * 31, "x" * 257, "with a space in the middle of it, long", "é" * 40]
)
def test_what_can_be_no_key_is_refused(text: str) -> None:
    with pytest.raises(AccessError):
        read_api_key(text)


def test_an_operator_may_bring_a_key_of_their_own_making() -> None:
    text = "0123456789abcdef" * 4

    presented = read_api_key(text)

    assert presented == read_api_key(text)
    assert presented.id.startswith("x")
    assert presented.id not in text


def test_a_seal_opens_for_the_use_it_was_made_for() -> None:
    sealer = Sealer([Sealer.make_key()])

    token = sealer.seal("pässword", context="registry/hub/auth.password")

    assert "pässword" not in token
    assert sealer.unseal(token, context="registry/hub/auth.password") == "pässword"
    with pytest.raises(UnavailableError, match=r"registry/other/auth\.password can't be opened"):
        sealer.unseal(token, context="registry/other/auth.password")


def test_keys_are_changed_by_putting_the_new_one_first() -> None:
    old, new = Sealer.make_key(), Sealer.make_key()
    token = Sealer([old]).seal("secret", context="c")

    rotated = Sealer([new, old]).rotate(token)

    assert Sealer([new, old]).unseal(token, context="c") == "secret"
    assert Sealer([new]).unseal(rotated, context="c") == "secret"
    with pytest.raises(UnavailableError) as refused:
        Sealer([new]).unseal(token, context="c")
    assert refused.value.code == "secret_unreadable"
    with pytest.raises(UnavailableError):
        Sealer([new]).rotate(token)


def test_a_damaged_seal_does_not_open() -> None:
    sealer = Sealer([Fernet.generate_key().decode()])
    token = sealer.seal("secret", context="c")

    with pytest.raises(UnavailableError):
        sealer.unseal(token[:-8] + "AAAAAAA=", context="c")


@pytest.mark.parametrize("keys", [[], ["not a key"]])
def test_a_sealer_without_a_proper_key_is_not_made(keys: list[str]) -> None:
    with pytest.raises(ValueError, match=r"key|Fernet"):
        Sealer(keys)
