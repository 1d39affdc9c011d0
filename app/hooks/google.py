"""Checks the OpenID tokens Google's Pub/Sub proves its pushes with, against keys that are at hand.

Only what Google documents is accepted: RS256, keys from the issuer's JWKS, chosen by `kid`. Audience and e-mail are
compared too, since anyone can have Google sign a token (CVE-2026-40109 was a receiver that left that out). Fetching and
keeping the keys is the caller's: `key_id` says which one a token needs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

from app.domain.errors import HookError
from app.domain.trigger import GoogleProof

LEEWAY_SECONDS = 60
"""How far two clocks may be apart."""
MAX_TOKEN_LENGTH = 8_192
"""Google's have about one kilobyte."""
MIN_KEY_BITS = 2_048
MAX_KEY_BITS = 8_192
"""Beyond this, checking one signature costs more than an answer may take."""
_MAX_KEYS = 100
_EXPONENT = 65_537


def key_id(token: str) -> str | None:
    """Read which key a token says it is signed with; None for what is no token. Nothing is proven by this."""
    try:
        header = _section(token.partition(".")[0])
    except ValueError:
        return None
    kid = header.get("kid")
    return kid if isinstance(kid, str) else None


def read_keys(document: bytes) -> dict[str, RSAPublicKey]:
    """Read a JWKS (RFC 7517): its RSA keys by `kid`; raise `HookError` where it is none, leave out other keys."""
    try:
        entries = json.loads(document)["keys"]
        found = [entry for entry in entries[:_MAX_KEYS] if isinstance(entry, dict) and entry.get("kty") == "RSA"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise HookError("the issuer's keys can't be read", code="hook_keys_unreadable") from error
    return {str(entry.get("kid")): key for entry in found if (key := _rsa_key(entry)) is not None}


def check_google_token(token: str, proof: GoogleProof, *, keys: Mapping[str, RSAPublicKey], now: datetime) -> bool:
    """Say whether the token is signed by one of the keys, is valid now, and is meant for this hook."""
    if len(token) > MAX_TOKEN_LENGTH or token.count(".") != 2:  # noqa: PLR2004 — header, claims, signature
        return False
    signed, _, signature = token.rpartition(".")
    try:
        header, claims = (_section(part) for part in signed.split("."))
        key = keys.get(str(header.get("kid")))
        if key is None or header.get("alg") != "RS256" or "crit" in header:
            return False
        key.verify(_decoded(signature), signed.encode("ascii"), PKCS1v15(), SHA256())
    except (ValueError, InvalidSignature):
        return False
    return _claims_fit(claims, proof, now=now)


def _claims_fit(claims: dict[str, Any], proof: GoogleProof, *, now: datetime) -> bool:
    # Whatever is missing or empty is wrong: each claim is compared with something that is neither.
    issuers = {proof.issuer, proof.issuer.removeprefix("https://")}  # Google writes both
    expires, issued = claims.get("exp"), claims.get("iat")
    if not isinstance(expires, int) or not isinstance(issued, int):
        return False
    is_valid_now = issued - LEEWAY_SECONDS <= now.timestamp() <= expires + LEEWAY_SECONDS
    return (
        is_valid_now
        and claims.get("iss") in issuers
        and claims.get("aud") == proof.audience
        and claims.get("email") == proof.email
        and claims.get("email_verified") is True
    )


def _section(part: str) -> dict[str, Any]:
    try:
        document = json.loads(_decoded(part))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 — all that is wrong with a token is one kind of error here
    return document


def _decoded(part: str) -> bytes:
    return base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _rsa_key(entry: dict[str, Any]) -> RSAPublicKey | None:
    try:
        modulus, exponent = (int.from_bytes(_decoded(entry[name]), "big") for name in ("n", "e"))
        if not MIN_KEY_BITS <= modulus.bit_length() <= MAX_KEY_BITS or exponent != _EXPONENT:
            return None
        return RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
