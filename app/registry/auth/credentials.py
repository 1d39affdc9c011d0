"""Logins: what can be shown to a registry, and those that operators entered as they are."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from app.domain.registry import BasicAuth, BearerAuth, IdentityTokenAuth, RegistryEntry


@dataclass(frozen=True, slots=True)
class Login:
    """What can be shown to a registry or its token server; all empty for an anonymous caller."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.password or self.identity_token or self.bearer)

    @property
    def basic(self) -> str:
        """The value of an Authorization header with user name and password."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def entered_login(entry: RegistryEntry) -> Login:
    """Return the login of an entry as it was entered; none where it is asked for elsewhere (`identity_of`)."""
    match entry.auth:
        case BasicAuth() as auth:
            return Login(username=auth.username, password=auth.password.get_secret_value())
        case BearerAuth() as auth:
            return Login(bearer=auth.token.get_secret_value())
        case IdentityTokenAuth() as auth:
            return Login(username=auth.username or "", identity_token=auth.token.get_secret_value())
        case _:
            return Login()
