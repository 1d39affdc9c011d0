"""How a registry's entry logs in, as operators write it; how they read it is in `shown_auth.py`."""

from __future__ import annotations

import json
from typing import Annotated, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from app.domain.registry import (
    Auth,
    AwsAuth,
    AzureAuth,
    BasicAuth,
    BearerAuth,
    DockerConfigAuth,
    GoogleAuth,
    IdentityTokenAuth,
    NoAuth,
)
from app.domain.registry_logins import AlibabaAuth, GithubAppAuth, OidcAuth, TencentAuth

_AUTH: TypeAdapter[Auth] = TypeAdapter(Auth)
NOT_SENT = SecretStr("")
"""A secret left out: the stored one stays."""


def _certificate_with_key(secret: SecretStr) -> SecretStr:
    pem = secret.get_secret_value().encode()
    try:
        load_pem_x509_certificates(pem)
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        message = "this has to hold a certificate and its RSA private key, not encrypted, one after the other as PEM"
        raise PydanticCustomError("invalid_certificate", message)
    return secret


def _private_key(secret: SecretStr) -> SecretStr:
    try:
        key = load_pem_private_key(secret.get_secret_value().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise PydanticCustomError("invalid_private_key", "this has to be an RSA private key, not encrypted, as PEM")
    return secret


def _account_of(key: SecretStr) -> str:
    return str(json.loads(key.get_secret_value())["client_email"])


def _service_account_key(secret: SecretStr) -> SecretStr:
    try:
        document = json.loads(secret.get_secret_value())
        key = load_pem_private_key(document["private_key"].encode(), password=None)
        GoogleAuth(service_account=document["client_email"])
        is_key = document["type"] == "service_account" and isinstance(key, RSAPrivateKey)
    except (ValueError, TypeError, LookupError, AttributeError, UnsupportedAlgorithm, RecursionError):
        is_key = False
    if not is_key:
        message = (
            "this has to be the key file of a service account, which gcloud iam service-accounts keys create makes"
        )
        raise PydanticCustomError("invalid_service_account_key", message)
    return secret


class BasicAuthIn(BasicAuth):
    """User name and password, used directly or to fetch tokens; without `password` the stored one stays."""

    password: SecretStr = Field(default=NOT_SENT, max_length=65_536)


class BearerAuthIn(BearerAuth):
    """A registry token sent as it is; without `token` the stored one stays."""

    token: SecretStr = Field(default=NOT_SENT, max_length=65_536)


class IdentityTokenAuthIn(IdentityTokenAuth):
    """An OAuth2 refresh token (docker's identity token); without `token` the stored one stays."""

    token: SecretStr = Field(default=NOT_SENT, max_length=65_536)


class AwsAuthIn(AwsAuth):
    """An identity of AWS, for ECR: a key, or the machine's own. Without `secret_access_key` the stored one stays."""

    secret_access_key: SecretStr | None = Field(default=None, max_length=65_536)


class AzureAuthIn(AzureAuth):
    """An identity of Azure, for ACR: a service principal where `tenant_id` is given, or the machine's own.

    With `tenant_id` and neither `client_secret` nor `client_certificate` the stored one stays.
    """

    client_secret: SecretStr | None = Field(default=None, max_length=65_536)
    client_certificate: Annotated[SecretStr, AfterValidator(_certificate_with_key)] | None = Field(
        default=None, max_length=65_536, description="Certificate and private key (RSA), as one PEM text; write-only."
    )


class GoogleAuthIn(GoogleAuth):
    """An identity of Google, for Artifact Registry: a service account's key, or the machine's own.

    With `service_account` and no `service_account_key` the stored one stays.
    """

    service_account_key: Annotated[SecretStr, AfterValidator(_service_account_key)] | None = Field(
        default=None, max_length=65_536, description="The key file (JSON) of a service account; write-only."
    )

    @model_validator(mode="after")
    def _is_of_its_account(self) -> Self:
        if self.service_account_key is None or self.service_account is None:
            return self
        if self.service_account != _account_of(self.service_account_key):
            message = "service_account is not whose key this is: leave it out"
            raise PydanticCustomError("invalid_service_account_key", message)
        return self


class OidcAuthIn(OidcAuth):
    """An identity of an OpenID Connect issuer: a client, or the token projected to the service's machine.

    With `client_id` and no `client_secret` the stored one stays.
    """

    client_secret: SecretStr | None = Field(default=None, max_length=65_536)


class GithubAppAuthIn(GithubAppAuth):
    """A GitHub App as it is installed somewhere; without `private_key` the stored one stays."""

    private_key: Annotated[SecretStr, AfterValidator(_private_key)] = Field(
        default=NOT_SENT, max_length=65_536, description="RSA, as the PEM text that GitHub gives; write-only."
    )


class AlibabaAuthIn(AlibabaAuth):
    """An access key of Alibaba Cloud; without `access_key_secret` the stored one stays."""

    access_key_secret: SecretStr = Field(default=NOT_SENT, max_length=65_536)


class TencentAuthIn(TencentAuth):
    """An API key of Tencent Cloud; without `secret_key` the stored one stays."""

    secret_key: SecretStr = Field(default=NOT_SENT, max_length=65_536)


AuthIn = Annotated[
    NoAuth
    | BasicAuthIn
    | BearerAuthIn
    | IdentityTokenAuthIn
    | DockerConfigAuth
    | AwsAuthIn
    | AzureAuthIn
    | GoogleAuthIn
    | OidcAuthIn
    | GithubAppAuthIn
    | AlibabaAuthIn
    | TencentAuthIn,
    Field(discriminator="type"),
]


def plain_auth(auth: AuthIn) -> Auth:
    """Return the login that was sent; secrets that were not are empty in it."""
    match auth:
        case AwsAuthIn():
            # An access key without its secret stands for the stored one; the machine's identity has none.
            secret = None if auth.access_key_id is None else auth.secret_access_key or NOT_SENT
            return AwsAuth.model_validate(dict(auth) | {"secret_access_key": secret})
        case AzureAuthIn():
            # A service principal without a secret stands for the stored one; the machine's identity has none.
            sent = dict(auth)
            if auth.tenant_id is not None and auth.client_certificate is None:
                sent["client_secret"] = auth.client_secret or NOT_SENT
            return AzureAuth.model_validate(sent)
        case GoogleAuthIn():
            key = auth.service_account_key
            if key is not None:
                return GoogleAuth(service_account=_account_of(key), service_account_key=key)
            return GoogleAuth(
                service_account=auth.service_account,
                service_account_key=NOT_SENT if auth.service_account is not None else None,
            )
        case OidcAuthIn():
            secret = None if auth.client_id is None else auth.client_secret or NOT_SENT
            return OidcAuth.model_validate(dict(auth) | {"client_secret": secret})
        case GithubAppAuthIn():
            return GithubAppAuth.model_validate(dict(auth))
        case NoAuth() | DockerConfigAuth():
            return auth
        case _:
            return _AUTH.validate_python(dict(auth))
