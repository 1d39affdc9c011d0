"""Identities of clouds that logins are asked for with: which ones an entry may use, and what asks.

An identity that was entered (a key, a secret) is its operator's, who may show it to any host. The machine's belongs to
who runs the service: a setting allows it, and it is shown to registries of its cloud only, over TLS that is checked by
what this machine trusts. Who may enter a registry would otherwise get whatever the machine may do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime

from app.domain.errors import FieldError
from app.domain.registry import AwsAuth, AzureAuth, GoogleAuth, RegistryEntry, ecr_region
from app.registry.auth.aws import AwsIdentity
from app.registry.auth.azure import AzureIdentity, acr_cloud
from app.registry.auth.google import GoogleIdentity, is_google
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.client import HttpClient
from app.registry.http.errors import LOG_IN, ErrorContext, make_error

FetchLogin = Callable[[], Awaitable[RenewableLogin]]
_CODE = "login_not_allowed"


def identity_of(entry: RegistryEntry, http: HttpClient, *, clock: Callable[[], datetime]) -> FetchLogin | None:
    """Return what asks for an entry's login; None where the login is as it was entered.

    It raises `RegistryError`: `unauthorized` also where the setting that allowed an identity has changed since.
    """
    match entry.auth:
        case AwsAuth() as auth:
            fetch = AwsIdentity(entry, auth).fetch
        case AzureAuth() as auth:
            fetch = AzureIdentity(entry, auth, http, clock=clock).fetch
        case GoogleAuth() as auth:
            fetch = GoogleIdentity(entry, auth).fetch
        case _:
            return None

    async def fetch_if_allowed() -> RenewableLogin:
        if refusal := refusal_of_login(entry, http.settings.machine_identities):
            message = f"{entry.registry}: {refusal.detail}"
            raise make_error(message, ErrorContext(entry.registry, LOG_IN), code="unauthorized")
        return await fetch()

    return fetch_if_allowed


def refusal_of_login(entry: RegistryEntry, machine_identities: Collection[str]) -> FieldError | None:
    """Return why an entry can't have its login, and which field to change; None where it can."""
    match entry.auth:
        case AwsAuth() as auth:
            return _refusal_of_aws(entry, auth, machine_identities)
        case AzureAuth() as auth:
            return _refusal_of_azure(entry, auth, machine_identities)
        case GoogleAuth(service_account=None):
            hosts, is_at_home = "*-docker.pkg.dev and gcr.io", is_google(entry.registry)
            return _refusal_of_machine(
                entry,
                "google",
                machine_identities,
                hosts=hosts,
                is_at_home=is_at_home,
                instead="/auth/service_account_key",
            )
        case _:
            return None


def _refusal_of_aws(entry: RegistryEntry, auth: AwsAuth, machine_identities: Collection[str]) -> FieldError | None:
    is_ecr = ecr_region(entry.registry) is not None
    if auth.region is None and not is_ecr:
        detail = f"{entry.registry} is no registry of ECR: name the region to ask for passwords"
        return FieldError("/auth/region", _CODE, detail)
    if auth.access_key_id is None:
        if auth.secret_access_key is not None:
            return FieldError("/auth/access_key_id", _CODE, "send the id that belongs to the secret access key")
        hosts = "<account>.dkr.ecr.<region>.amazonaws.com and public.ecr.aws"
        return _refusal_of_machine(
            entry, "aws", machine_identities, hosts=hosts, is_at_home=is_ecr, instead="/auth/access_key_id"
        )
    if auth.profile is not None:
        return FieldError("/auth/profile", _CODE, "a profile and an access key are two identities: leave one out")
    return None


def _refusal_of_azure(entry: RegistryEntry, auth: AzureAuth, machine_identities: Collection[str]) -> FieldError | None:
    if auth.tenant_id is None:
        if auth.client_secret is not None or auth.client_certificate is not None:
            return FieldError("/auth/tenant_id", _CODE, "send the tenant that the service principal is of")
        is_acr = acr_cloud(entry.registry) is not None
        return _refusal_of_machine(
            entry,
            "azure",
            machine_identities,
            hosts="*.azurecr.io, .cn and .us",
            is_at_home=is_acr,
            instead="/auth/tenant_id",
        )
    if auth.client_id is None:
        return FieldError("/auth/client_id", _CODE, "send the service principal's application id")
    if auth.client_secret is not None and auth.client_certificate is not None:
        return FieldError("/auth/client_certificate", _CODE, "send a secret or a certificate, not both")
    return None


def _refusal_of_machine(
    entry: RegistryEntry,
    cloud: str,
    machine_identities: Collection[str],
    *,
    hosts: str,
    is_at_home: bool,
    instead: str,
) -> FieldError | None:
    """Return why the machine's identity can't be used.

    `hosts` are the registries it is for, `instead` is the field for an identity that was entered.
    """
    if cloud not in machine_identities:
        detail = (
            "the machine's identity may not be used here: enter one of this registry's own, or have "
            f"REGISTRY_SYNC_MACHINE_IDENTITIES name {cloud}"
        )
        return FieldError(instead, _CODE, detail)
    if not is_at_home:
        detail = f"the machine's identity is shown to {hosts} only: enter one of this registry's own"
        return FieldError(instead, _CODE, detail)
    detail = "the machine's identity is shown over TLS only, with a certificate that this machine trusts by itself"
    if entry.insecure:
        return FieldError("/insecure", _CODE, detail)
    if not entry.tls.verify:
        return FieldError("/tls/verify", _CODE, detail)
    if entry.tls.ca is not None:
        return FieldError("/tls/ca", _CODE, detail)
    return None
