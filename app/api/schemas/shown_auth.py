"""How a registry's entry logs in, as it is shown: secrets stay here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.registry import Auth
from app.domain.registry_logins import SECRET_FIELDS


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class NoAuthOut(_Out):
    """Asked anonymously."""

    type: Literal["none"]


class BasicAuthOut(_Out):
    """User name; the password stays here."""

    type: Literal["basic"]
    username: str
    has_password: bool


class BearerAuthOut(_Out):
    """A token, which stays here."""

    type: Literal["bearer"]
    has_token: bool


class IdentityTokenAuthOut(_Out):
    """A token, which stays here."""

    type: Literal["identity_token"]
    username: str | None
    has_token: bool


class DockerConfigAuthOut(_Out):
    """Where the docker configuration lies."""

    type: Literal["docker_config"]
    path: str


class AwsAuthOut(_Out):
    """An identity of AWS; its secret stays here."""

    type: Literal["aws"]
    access_key_id: str | None
    has_secret_access_key: bool
    profile: str | None
    role_arn: str | None
    external_id: str | None
    region: str | None


class AzureAuthOut(_Out):
    """An identity of Azure; its secret or certificate stays here."""

    type: Literal["azure"]
    tenant_id: str | None
    client_id: str | None
    has_client_secret: bool
    has_client_certificate: bool


class GoogleAuthOut(_Out):
    """An identity of Google; its key stays here."""

    type: Literal["google"]
    service_account: str | None
    has_service_account_key: bool


class OidcAuthOut(_Out):
    """An identity of an OpenID Connect issuer; its secret stays here."""

    type: Literal["oidc"]
    token_url: str | None
    client_id: str | None
    has_client_secret: bool
    exchange: Literal["none", "token_exchange", "quay"]
    exchange_url: str | None
    audience: str | None
    scope: str | None
    resource: str | None
    username: str | None


class GithubAppAuthOut(_Out):
    """A GitHub App; its key stays here."""

    type: Literal["github_app"]
    app_id: str
    installation_id: int
    has_private_key: bool
    api_url: str | None


class AlibabaAuthOut(_Out):
    """An access key of Alibaba Cloud; its secret stays here."""

    type: Literal["alibaba"]
    access_key_id: str
    has_access_key_secret: bool
    instance_id: str
    region: str | None
    api_url: str | None


class TencentAuthOut(_Out):
    """An API key of Tencent Cloud; its secret stays here."""

    type: Literal["tencent"]
    secret_id: str
    has_secret_key: bool
    registry_id: str
    region: str
    api_url: str | None


AuthOut = Annotated[
    NoAuthOut
    | BasicAuthOut
    | BearerAuthOut
    | IdentityTokenAuthOut
    | DockerConfigAuthOut
    | AwsAuthOut
    | AzureAuthOut
    | GoogleAuthOut
    | OidcAuthOut
    | GithubAppAuthOut
    | AlibabaAuthOut
    | TencentAuthOut,
    Field(discriminator="type"),
]


def shown_auth(auth: Auth) -> dict[str, Any]:
    """Dump what readers may see of a login."""
    return {
        f"has_{name}" if name in SECRET_FIELDS else name: bool(value) if name in SECRET_FIELDS else value
        for name, value in auth
    }
