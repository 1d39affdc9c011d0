"""Logins by identities of issuers and apps, and what logins may use of the machine that the service runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, SecretStr

from app.domain.tagged_value import TaggedValue

SECRET_FIELDS = (
    "password",
    "token",
    "secret_access_key",
    "client_secret",
    "client_certificate",
    "service_account_key",
    "private_key",
    "access_key_secret",
    "secret_key",
)
"""Fields of logins that open something."""
_ISSUER_URL = r"^https://[^\s/?#@\\]+(/[^\s?#@\\]*)?$"
_REGION = r"^[a-z]{2,}(-[a-z0-9]+)+$"
_WORD = r"^[\x21-\x7e]+$"


class OidcAuth(TaggedValue):
    """An identity of an OpenID Connect issuer, whose token is shown to the registry as it is, or exchanged first.

    With `token_url` it is a client that logs in there with its secret; without, it is the token projected to the
    worker's machine for this registry.
    """

    type: Literal["oidc"] = "oidc"
    token_url: str | None = Field(default=None, max_length=2_048, pattern=_ISSUER_URL)
    """Where a client's token is asked for (client credentials)."""
    client_id: str | None = Field(default=None, min_length=1, max_length=1_024, pattern=_WORD)
    client_secret: SecretStr | None = None
    exchange: Literal["none", "token_exchange", "quay"] = "none"
    """`token_exchange` at `exchange_url` (RFC 8693), or Quay's own for robots."""
    exchange_url: str | None = Field(default=None, max_length=2_048, pattern=_ISSUER_URL)
    audience: str | None = Field(default=None, min_length=1, max_length=1_024)
    scope: str | None = Field(default=None, min_length=1, max_length=1_024)
    resource: str | None = Field(default=None, min_length=1, max_length=1_024)
    """Whom, and what, the token is for that is shown to the registry."""
    username: str | None = Field(default=None, min_length=1, max_length=1_024)
    """Whose password the token is; without it, it is sent as a bearer token."""


class GithubAppAuth(TaggedValue):
    """A GitHub App as it is installed somewhere, which tokens are asked for with before the last one ends."""

    type: Literal["github_app"] = "github_app"
    app_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    """The app's id, or its client id."""
    installation_id: int = Field(ge=1, le=2**62)
    private_key: SecretStr
    """RSA, as PEM."""
    api_url: str | None = Field(default=None, max_length=2_048, pattern=_ISSUER_URL)
    """None where the host says it."""


class AlibabaAuth(TaggedValue):
    """An access key of Alibaba Cloud, which passwords of an Enterprise Edition instance are asked for with."""

    type: Literal["alibaba"] = "alibaba"
    access_key_id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")
    access_key_secret: SecretStr
    instance_id: str = Field(max_length=64, pattern=r"^cri-[a-z0-9-]+$")
    region: str | None = Field(default=None, max_length=64, pattern=_REGION)
    """None where the host says it."""
    api_url: str | None = Field(default=None, max_length=2_048, pattern=_ISSUER_URL)
    """None: the region's own."""


class TencentAuth(TaggedValue):
    """An API key of Tencent Cloud, which passwords of an instance of TCR are asked for with."""

    type: Literal["tencent"] = "tencent"
    secret_id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")
    secret_key: SecretStr
    registry_id: str = Field(max_length=64, pattern=r"^tcr-[a-z0-9-]+$")
    region: str = Field(max_length=64, pattern=_REGION)
    api_url: str | None = Field(default=None, max_length=2_048, pattern=_ISSUER_URL)
    """None: Tencent Cloud's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRules:
    """Nothing of the machine is used unless it is named here: who enters a registry would otherwise get all it may do.

    - `machine_identities`: clouds whose identity of this machine entries may log in with
    - `docker_config_folders`: folders that docker configurations may lie in
    - `credential_helpers`: names of programs (`docker-credential-<name>`) that may be run for docker configurations
    - `token_files`: pairs of host and path; the token in the file is shown to that host
    """

    machine_identities: tuple[str, ...] = ()
    docker_config_folders: tuple[str, ...] = ()
    credential_helpers: tuple[str, ...] = ()
    token_files: tuple[tuple[str, str], ...] = ()

    def token_file(self, host: str) -> str | None:
        """Return which token file may be shown to a host; None for none."""
        return dict(self.token_files).get(host)


NOTHING = LoginRules()
"""No identity, no file and no program of the machine."""
