"""Callers with an OpenID Connect token beside those with an API key.

PyJWT reads and verifies a token; which issuers, audiences and algorithms are believed is a setting, never the token's
own word (CVE-2026-40109, CVE-2026-23990: receivers that left out the audience, or took empty claims).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import jwt
from jwt.types import Options

from app.domain.access import Caller
from app.domain.errors import AccessError
from app.domain.token_rules import TokenIssuer, TokenIssuers
from app.webhooks.google_keys import GoogleKeys
from app.webhooks.google_tokens import LEEWAY_SECONDS, MAX_TOKEN_LENGTH, key_id

KEYS_SECONDS = 3.0
"""How long a caller waits for an issuer's keys; they are asked for once a minute at most."""
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
# Whether it is valid now is worked out here, by the service's clock; PyJWT goes by its own.
_CHECKS: Options = {"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
_UNREAD: Options = {"verify_signature": False}


def is_token(text: str) -> bool:
    """Return whether a credential has the form of a JWT, and not of an API key."""
    return text.startswith("ey") and text.count(".") == 2  # noqa: PLR2004 — header, payload, signature


class CallerTokenService:
    """Knows callers by tokens.

    - `issuers`: who is believed, and what claims allow
    - `keys`: fetches and keeps the issuers' keys, through the guarded dialer
    - `now`: the clock, in UTC
    """

    def __init__(self, issuers: TokenIssuers, keys: GoogleKeys, *, now: Callable[[], datetime]) -> None:
        self._issuers = issuers
        self._keys = keys
        self._now = now

    async def authenticate(self, token: str, *, address: str | None) -> Caller:
        """Return who shows a token; raise `AccessError` for any that is not valid, `UnavailableError` without keys."""
        issuer = self._issuers.find(_unproven(token).get("iss"))
        if issuer is None:
            raise AccessError("this token is of an issuer that is not believed here")
        kid = key_id(token)
        known = await self._keys.find(token, issuer=issuer.issuer, seconds=KEYS_SECONDS)
        key = known.get(kid) if kid is not None else None
        if key is None:
            raise AccessError("this token is signed with a key that its issuer does not have")
        claims = self._claims(token, key, issuer)
        caller = issuer.caller(claims)
        if caller is None:
            raise AccessError("no rule is about a token with these claims")
        if not caller.grant.admits(address):
            raise AccessError(f"this token may not be used from {address}", code="address_not_allowed")
        return caller

    def _claims(self, token: str, key: Any, issuer: TokenIssuer) -> dict[str, Any]:
        try:
            found = jwt.decode_complete(
                token,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                options=_CHECKS,
            )
        except (jwt.PyJWTError, RecursionError, ValueError, TypeError) as error:
            raise AccessError("this token is not valid here: its signature, issuer or audience") from error
        claims: dict[str, Any] = found["payload"]
        times = [claims.get(name, 0) for name in ("exp", "iat", "nbf")]
        if "crit" in found["header"] or not all(_is_time(one) for one in times):
            raise AccessError("this token is not valid here: its header or its times")
        expires, issued, begins = times
        moment = self._now().timestamp()
        if not max(issued, begins) - LEEWAY_SECONDS <= moment <= expires + LEEWAY_SECONDS:
            raise AccessError("this token has expired, or is not valid yet")
        return claims


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unproven(token: str) -> dict[str, Any]:
    """Read what a token says of itself, only to see whose keys to check it with."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise AccessError(f"a token has at most {MAX_TOKEN_LENGTH} characters")
    try:
        claims: dict[str, Any] = jwt.decode(token, options=_UNREAD)
    except (jwt.PyJWTError, RecursionError, ValueError, TypeError) as error:
        raise AccessError("this is neither an API key nor a token that can be read") from error
    return claims
