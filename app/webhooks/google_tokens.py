"""Verifies the OpenID tokens that Google's Pub/Sub sends with its pushes, against cached keys.

PyJWT reads and verifies the JWT; only what Google documents is accepted: RS256, keys from the issuer's JWKS, chosen by
`kid`. Audience and e-mail are compared too, since Google signs tokens for all its users (CVE-2026-40109 was a
receiver that left that out). Fetching and keeping the keys is the caller's: `key_id` says which one a token needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.types import Options

from app.domain.errors import HookError
from app.domain.push_event import GoogleProof

LEEWAY_SECONDS = 60
"""How far two clocks may be apart."""
MAX_TOKEN_LENGTH = 8_192
"""Google's have about one kilobyte."""
MIN_KEY_BITS = 2_048
MAX_KEY_BITS = 8_192
"""Beyond this, checking one signature costs more than an answer may take."""
_MAX_KEYS = 100
_EXPONENT = 65_537
_ALGORITHM = "RS256"
_KEY_TYPES = {"RSA": "RS256", "EC": "ES256"}
SigningKey = RSAPublicKey | EllipticCurvePublicKey
_REQUIRED = ["exp", "iat", "iss", "aud", "email", "email_verified"]
# Whether it is valid now is worked out here, by the caller's clock; PyJWT goes by its own.
_CHECKS: Options = {"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False}


def key_id(token: str) -> str | None:
    """Return which key a token says it is signed with; None for what is no token. Nothing is proven by this."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        return None
    return kid if isinstance(kid, str) else None


def read_keys(document: bytes) -> dict[str, SigningKey]:
    """Read a JWKS (RFC 7517): its RSA and P-256 keys by `kid`; raise `HookError` where it is none, leave out others."""
    try:
        entries = json.loads(document)["keys"]
        found = [entry for entry in entries[:_MAX_KEYS] if isinstance(entry, dict) and entry.get("kty") in _KEY_TYPES]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise HookError("the issuer's keys can't be read", code="hook_keys_unreadable") from error
    return {str(entry.get("kid")): key for entry in found if (key := _read_key(entry)) is not None}


def check_google_token(token: str, proof: GoogleProof, *, keys: Mapping[str, SigningKey], now: datetime) -> bool:
    """Return whether the token is signed by one of the keys, is valid now, and is meant for this hook."""
    kid = key_id(token) if len(token) <= MAX_TOKEN_LENGTH else None
    if kid is None or not isinstance(keys.get(kid), RSAPublicKey):
        return False
    issuers = [proof.issuer, proof.issuer.removeprefix("https://")]  # Google writes both
    try:
        found = jwt.decode_complete(
            token, keys[kid], algorithms=[_ALGORITHM], audience=proof.audience, issuer=issuers, options=_CHECKS
        )
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        return False
    return "crit" not in found["header"] and _claims_fit(found["payload"], proof, now=now)


def _claims_fit(claims: dict[str, Any], proof: GoogleProof, *, now: datetime) -> bool:
    # Whatever is missing or empty is wrong: each claim is compared with something that is neither.
    expires, issued = claims["exp"], claims["iat"]
    if not isinstance(expires, int) or not isinstance(issued, int):
        return False
    return (
        issued - LEEWAY_SECONDS <= now.timestamp() <= expires + LEEWAY_SECONDS
        and claims["aud"] == proof.audience  # PyJWT also takes a list that holds it
        and claims["email"] == proof.email
        and claims["email_verified"] is True
    )


def _read_key(entry: dict[str, Any]) -> SigningKey | None:
    try:
        key = jwt.PyJWK({**entry, "alg": _KEY_TYPES[entry["kty"]]}).key
    except (jwt.PyJWKError, jwt.InvalidKeyError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if isinstance(key, EllipticCurvePublicKey):
        return key if isinstance(key.curve, SECP256R1) else None
    is_fit = isinstance(key, RSAPublicKey) and MIN_KEY_BITS <= key.key_size <= MAX_KEY_BITS
    return key if is_fit and key.public_numbers().e == _EXPONENT else None
