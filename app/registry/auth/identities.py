"""Identities of clouds that logins are asked for with: which ones an entry may use, and what asks.

An identity that was entered (a key, a secret) is its operator's, who may show it to any host. The machine's belongs to
who runs the service: a setting allows it, and it is shown to registries of its cloud only, over TLS that is checked by
what this machine trusts. Who may enter a registry would otherwise get whatever the machine may do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from app.domain.errors import FieldError
from app.domain.registry import AwsAuth, AzureAuth, DockerConfigAuth, GoogleAuth, RegistryEntry, ecr_region
from app.domain.registry_logins import AlibabaAuth, GithubAppAuth, LoginRules, OidcAuth, TencentAuth
from app.registry.auth.alibaba import AlibabaIdentity, alibaba_region
from app.registry.auth.aws import AwsIdentity
from app.registry.auth.azure import AzureIdentity, acr_cloud
from app.registry.auth.docker_config import DockerConfigIdentity
from app.registry.auth.github_app import GithubAppIdentity, github_api
from app.registry.auth.google import GoogleIdentity, is_google
from app.registry.auth.issuer import login_error
from app.registry.auth.login_files import lies_in
from app.registry.auth.oidc import OidcIdentity
from app.registry.auth.renewal import RenewableLogin
from app.registry.auth.tencent import TencentIdentity
from app.registry.http.client import HttpClient

FetchLogin = Callable[[], Awaitable[RenewableLogin]]
_CODE = "login_not_allowed"


def identity_of(entry: RegistryEntry, http: HttpClient, *, clock: Callable[[], datetime]) -> FetchLogin | None:
    """Return what asks for an entry's login; None where the login is as it was entered.

    It raises `RegistryError`: `unauthorized` also where the setting that allowed an identity has changed since.
    """
    fetch = _cloud_identity(entry, http, clock=clock) or _issuer_identity(entry, http, clock=clock)
    if fetch is None:
        return None

    async def fetch_if_allowed() -> RenewableLogin:
        if refusal := refusal_of_login(entry, http.settings.logins):
            raise login_error(entry.registry, refusal.detail)
        return await fetch()

    return fetch_if_allowed


def _cloud_identity(entry: RegistryEntry, http: HttpClient, *, clock: Callable[[], datetime]) -> FetchLogin | None:
    match entry.auth:
        case AwsAuth() as auth:
            return AwsIdentity(entry, auth).fetch
        case AzureAuth() as auth:
            return AzureIdentity(entry, auth, http, clock=clock).fetch
        case GoogleAuth() as auth:
            return GoogleIdentity(entry, auth).fetch
        case AlibabaAuth() as auth:
            return AlibabaIdentity(entry, auth, http, clock=clock).fetch
        case TencentAuth() as auth:
            return TencentIdentity(entry, auth, http, clock=clock).fetch
        case _:
            return None


def _issuer_identity(entry: RegistryEntry, http: HttpClient, *, clock: Callable[[], datetime]) -> FetchLogin | None:
    match entry.auth:
        case DockerConfigAuth() as auth:
            return DockerConfigIdentity(entry, auth, http.settings.logins, clock=clock).fetch
        case OidcAuth() as auth:
            return OidcIdentity(entry, auth, http, clock=clock).fetch
        case GithubAppAuth() as auth:
            return GithubAppIdentity(entry, auth, http, clock=clock).fetch
        case _:
            return None


def refusal_of_login(entry: RegistryEntry, rules: LoginRules) -> FieldError | None:
    """Return why an entry can't have its login, and which field to change; None where it can."""
    match entry.auth:
        case AwsAuth() as auth:
            return _refusal_of_aws(entry, auth, rules)
        case AzureAuth() as auth:
            return _refusal_of_azure(entry, auth, rules)
        case GoogleAuth(service_account=None):
            hosts, is_at_home = "*-docker.pkg.dev and gcr.io", is_google(entry.registry)
            return _refusal_of_machine(
                entry,
                "google",
                rules,
                hosts=hosts,
                is_at_home=is_at_home,
                instead="/auth/service_account_key",
            )
        case OidcAuth() as auth:
            return _refusal_of_oidc(entry, auth, rules)
        case GithubAppAuth(api_url=None) if github_api(entry.registry) is None:
            detail = (
                f"{entry.registry} says no address of GitHub's API: name it, such as https://github.example.com/api/v3"
            )
            return FieldError("/auth/api_url", _CODE, detail)
        case AlibabaAuth(region=None, api_url=None) if alibaba_region(entry.registry) is None:
            return FieldError("/auth/region", _CODE, f"{entry.registry} says no region of Alibaba Cloud: name it")
        case DockerConfigAuth() as auth if not lies_in(auth.path, rules.docker_config_folders):
            # Of the path as it is written: what is there, and whether anything is, is nobody's business.
            detail = "path has to lie in a folder that REGISTRY_SYNC_DOCKER_CONFIG_FOLDERS of the service names"
            return FieldError("/auth/path", _CODE, detail)
        case _:
            return None


def _refusal_of_aws(entry: RegistryEntry, auth: AwsAuth, rules: LoginRules) -> FieldError | None:
    is_ecr = ecr_region(entry.registry) is not None
    if auth.region is None and not is_ecr:
        detail = f"{entry.registry} is no registry of ECR: name the region to ask for passwords"
        return FieldError("/auth/region", _CODE, detail)
    if auth.access_key_id is None:
        if auth.secret_access_key is not None:
            return FieldError("/auth/access_key_id", _CODE, "send the id that belongs to the secret access key")
        hosts = "<account>.dkr.ecr.<region>.amazonaws.com and public.ecr.aws"
        return _refusal_of_machine(entry, "aws", rules, hosts=hosts, is_at_home=is_ecr, instead="/auth/access_key_id")
    if auth.profile is not None:
        return FieldError("/auth/profile", _CODE, "a profile and an access key are two identities: leave one out")
    return None


def _refusal_of_azure(entry: RegistryEntry, auth: AzureAuth, rules: LoginRules) -> FieldError | None:
    if auth.tenant_id is None:
        if auth.client_secret is not None or auth.client_certificate is not None:
            return FieldError("/auth/tenant_id", _CODE, "send the tenant that the service principal is of")
        is_acr = acr_cloud(entry.registry) is not None
        return _refusal_of_machine(
            entry,
            "azure",
            rules,
            hosts="*.azurecr.io, .cn and .us",
            is_at_home=is_acr,
            instead="/auth/tenant_id",
        )
    if auth.client_id is None:
        return FieldError("/auth/client_id", _CODE, "send the service principal's application id")
    if auth.client_secret is not None and auth.client_certificate is not None:
        return FieldError("/auth/client_certificate", _CODE, "send a secret or a certificate, not both")
    return None


def _refusal_of_oidc(entry: RegistryEntry, auth: OidcAuth, rules: LoginRules) -> FieldError | None:
    if (auth.exchange == "token_exchange") != (auth.exchange_url is not None):
        detail = "exchange_url is where exchange: token_exchange happens: send both, or neither"
        return FieldError("/auth/exchange_url", _CODE, detail)
    if auth.exchange == "quay" and auth.username is None:
        return FieldError("/auth/username", _CODE, "send the robot's name, such as team+sync")
    uses_client = auth.token_url is not None or auth.exchange_url is not None
    if auth.client_id is None and (auth.token_url is not None or auth.client_secret is not None):
        return FieldError("/auth/client_id", _CODE, "send the id of the client that the secret is of")
    if auth.client_id is not None and not uses_client:
        return FieldError("/auth/token_url", _CODE, "send where the client's token is asked for")
    return None if auth.token_url is not None else _refusal_of_token_file(entry, auth, rules)


def _refusal_of_token_file(entry: RegistryEntry, auth: OidcAuth, rules: LoginRules) -> FieldError | None:
    """Return why the token projected to the machine can't be used: it is shown to hosts that a setting names for it."""
    file = rules.token_file(entry.registry)
    if file is None:
        detail = (
            f"no token file may be shown to {entry.registry}: send token_url and client_id, or have "
            "REGISTRY_SYNC_TOKEN_FILES of the service name this host and a file"
        )
        return FieldError("/auth/token_url", _CODE, detail)
    where = auth.exchange_url.removeprefix("https://").partition("/")[0].lower() if auth.exchange_url else None
    if where is not None and rules.token_file(where) != file:
        detail = (
            f"the token file of {entry.registry} may not be shown to {where}: REGISTRY_SYNC_TOKEN_FILES names hosts"
        )
        return FieldError("/auth/exchange_url", _CODE, detail)
    return _refusal_over_tls(entry)


def _refusal_of_machine(
    entry: RegistryEntry,
    cloud: str,
    rules: LoginRules,
    *,
    hosts: str,
    is_at_home: bool,
    instead: str,
) -> FieldError | None:
    """Return why the machine's identity can't be used.

    `hosts` are the registries it is for, `instead` is the field for an identity that was entered.
    """
    if cloud not in rules.machine_identities:
        detail = (
            "the machine's identity may not be used here: enter one of this registry's own, or have "
            f"REGISTRY_SYNC_MACHINE_IDENTITIES name {cloud}"
        )
        return FieldError(instead, _CODE, detail)
    if not is_at_home:
        detail = f"the machine's identity is shown to {hosts} only: enter one of this registry's own"
        return FieldError(instead, _CODE, detail)
    return _refusal_over_tls(entry)


def _refusal_over_tls(entry: RegistryEntry) -> FieldError | None:
    detail = "the machine's identity is shown over TLS only, with a certificate that this machine trusts by itself"
    if entry.insecure:
        return FieldError("/insecure", _CODE, detail)
    if not entry.tls.verify:
        return FieldError("/tls/verify", _CODE, detail)
    if entry.tls.ca is not None:
        return FieldError("/tls/ca", _CODE, detail)
    return None
