"""API keys, stored as SHA-256 digests, and encryption at rest for secrets that must be read again.

An API key is random, so a plain SHA-256 of it is all the database needs to hold; it is shown once. A registry's
password has to be sent on, so it is sealed (Fernet: AES-128-CBC and HMAC-SHA-256) with keys that lie outside the
database.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.domain.errors import AccessError, UnavailableError

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_LENGTH = 43
"""Base-62 characters that hold 256 bits."""
_CHECKSUM_LENGTH = 6
"""Base-62 characters that hold a CRC-32."""
_API_KEY = re.compile(
    rf"rsk_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}[0-9A-Za-z]{{{_CHECKSUM_LENGTH}}}"
)
_FOREIGN_KEY = re.compile(r"[!-~]{32,256}")
"""A key that an operator made: long enough not to be guessed, visible ASCII so that it fits a header."""

Choose = Callable[[str], str]
"""Picks one character of a text at random."""


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """What the database is asked with: the public id to find the row by, and the digest it must hold."""

    id: str
    digest: str = field(repr=False)

    def matches(self, digest: str) -> bool:
        """Compare with a stored digest, in a time that says nothing."""
        return hmac.compare_digest(self.digest, digest)


def make_api_key(choose: Choose = secrets.choice) -> str:
    """Make a key `rsk_<id>_<secret><checksum>`; the prefix lets secret scanners recognise it."""
    key_id, secret = ("".join(choose(_ALPHABET) for _ in range(length)) for length in (_ID_LENGTH, _SECRET_LENGTH))
    body = f"rsk_{key_id}_{secret}"
    return body + _checksum(body)


def read_api_key(text: str) -> PresentedKey:
    """Check a key's form, offline; raise `AccessError` for what can be no key, such as one with a typo.

    A key that an operator made (`BOOTSTRAP_KEY`) has no id in it, so its id comes from its digest.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    match = _API_KEY.fullmatch(text)
    if match and hmac.compare_digest(_checksum(text[:-_CHECKSUM_LENGTH]), text[-_CHECKSUM_LENGTH:]):
        return PresentedKey(match[1], digest)
    if text.startswith("rsk_") or not _FOREIGN_KEY.fullmatch(text):
        raise AccessError("this is no API key of this service; was it copied whole?", code="unauthenticated")
    return PresentedKey(f"x{digest[: _ID_LENGTH - 1]}", digest)


class Sealer:
    """Seals texts with the first of its keys and opens those sealed with any of them.

    The context says what a text is for, such as `registry/hub/password`; it is sealed in with the text, so that a token
    moved to another row does not open.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """Take Fernet keys, newest first; raise `ValueError` for none, or a malformed one."""
        if not keys:
            raise ValueError("at least one secret key is needed")
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._chain_keys = {_fingerprint(key): key for key in map(_chain_key, keys)}

    @staticmethod
    def make_key() -> str:
        """Make a key, as `SECRET_KEYS` takes it."""
        return Fernet.generate_key().decode()

    def seal(self, text: str, *, context: str) -> str:
        """Seal a text for one use."""
        return self._fernet.encrypt(json.dumps([context, text]).encode()).decode()

    def unseal(self, token: str, *, context: str) -> str:
        """Open what was sealed for this very use; raise `UnavailableError` when no key fits or it was for another."""
        try:
            sealed_context, text = json.loads(self._fernet.decrypt(token.encode()))
        except InvalidToken as error:
            raise _unreadable(context) from error
        if sealed_context != context:
            raise _unreadable(context)
        return str(text)

    @property
    def chain_keys(self) -> Collection[str]:
        """The names of the keys that links can be checked with."""
        return self._chain_keys.keys()

    @property
    def chain_key(self) -> str:
        """The name of the key that new links of the audit log's chain are made with."""
        return next(iter(self._chain_keys))

    def chain(self, text: str, *, key: str) -> str | None:
        """Return the hash (HMAC-SHA-256) that links a text to what is before it; None for a key that is not here."""
        found = self._chain_keys.get(key)
        return None if found is None else hmac.new(found, text.encode(), hashlib.sha256).hexdigest()

    def rotate(self, token: str) -> str:
        """Seal with the first key what any key opens; raise `UnavailableError` when none does."""
        try:
            return self._fernet.rotate(token.encode()).decode()
        except InvalidToken as error:
            raise _unreadable("a stored secret") from error


def _chain_key(key: str) -> bytes:
    """Derive a key of its own for the chain: one use of a key says nothing about another."""
    return hmac.new(base64.urlsafe_b64decode(key), b"registry-sync audit log", hashlib.sha256).digest()


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:12]


def _unreadable(what: str) -> UnavailableError:
    message = f"{what} can't be opened: the key it was sealed with is not among the secret keys"
    return UnavailableError(message, code="secret_unreadable")


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
