"""Callers with an OpenID Connect token: which issuers are believed, and what the claims of a token allow.

A token says who a workload or a person is; what that one may do is said here, in the terms of API keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.domain.access import INDIVISIBLE_SCOPES, Caller, Scope, ScopePreset
from app.domain.glob import Glob
from app.domain.grants import Grant

TokenAlgorithm = Literal["RS256", "ES256"]
MAX_RULES = 200
MAX_ISSUERS = 16
MAX_SUBJECT = 200
"""Characters of a subject that are taken: it becomes the caller's name, in jobs and the audit log."""

ClaimPattern = Annotated[str, Field(min_length=1, max_length=512)]


_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class TokenRule(Grant):
    """What tokens may do whose claims are all as said: each a text, or a pattern with `*` within a part of a path."""

    claims: dict[str, ClaimPattern] = Field(min_length=1, max_length=16)
    scope: ScopePreset | None = None
    scopes: frozenset[Scope] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check_scopes(self) -> Self:
        if (self.scope is None) == (self.scopes is None):
            raise PydanticCustomError("scope_or_scopes", "name what it may do, by scope or by scopes, and not by both")
        if self.is_bound and self.allowed_scopes & INDIVISIBLE_SCOPES:
            raise PydanticCustomError(
                "indivisible_scope", "hooks, audit and keys are about everything: bind nothing then"
            )
        return self

    @property
    def allowed_scopes(self) -> frozenset[Scope]:
        """What it may do."""
        return self.scope.scopes if self.scope is not None else self.scopes or frozenset()

    @property
    def grant(self) -> Grant:
        """What it is bound to."""
        return Grant(allow=self.allow, policies=self.policies, jobs=self.jobs, addresses=self.addresses)

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Return whether a token's claims are as said; a claim that is missing or no text is not."""
        return all(
            isinstance(value := claims.get(name), str) and bool(value) and glob.matches(value)
            for name, glob in self._globs.items()
        )

    @cached_property
    def _globs(self) -> dict[str, Glob]:
        return {name: Glob(pattern) for name, pattern in self.claims.items()}


class TokenIssuer(BaseModel):
    """An issuer whose tokens are taken, for one audience, signed in one of some ways."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(pattern=r"^https?://[^/?#\s@]+(/[^?#\s]*)?$", max_length=512)
    audience: str = Field(min_length=1, max_length=512)
    algorithms: tuple[TokenAlgorithm, ...] = Field(default=("RS256",), min_length=1)
    rules: tuple[TokenRule, ...] = Field(min_length=1, max_length=MAX_RULES)

    def caller(self, claims: Mapping[str, Any]) -> Caller | None:
        """Return who a token with these claims is, by the first rule that fits; None where none does.

        Its name has the issuer's: a subject is one within its issuer only (OpenID Connect Core 1.0, section 5.7).
        """
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
            return None
        rule = next((rule for rule in self.rules if rule.fits(claims)), None)
        if rule is None:
            return None
        name = f"oidc/{self.issuer.partition('://')[2]}/{subject}"
        return Caller(name, rule.allowed_scopes, rule.grant, expires_at=_moment(claims["exp"]))


class TokenIssuers(BaseModel):
    """All issuers, as the file of the setting has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuers: tuple[TokenIssuer, ...] = Field(min_length=1, max_length=MAX_ISSUERS)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len({one.issuer for one in self.issuers}) != len(self.issuers):
            raise PydanticCustomError("duplicate_issuer", "an issuer is named twice")
        return self

    def find(self, issuer: object) -> TokenIssuer | None:
        """Return the issuer of that name, None for any other."""
        return next((one for one in self.issuers if one.issuer == issuer), None)


def _moment(seconds: float) -> datetime:
    """Read a time of a token (RFC 7519, `NumericDate`); one that no calendar has is the last one there is."""
    return datetime.fromtimestamp(seconds, UTC) if seconds < _END_OF_TIME.timestamp() else _END_OF_TIME
