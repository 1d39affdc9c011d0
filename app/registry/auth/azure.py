"""ACR's refresh tokens: a token of Microsoft Entra, exchanged at the registry; access tokens are had with them.

An identity (service principal, workload identity, managed identity) gets a token of Entra for the audience of ACR, the
registry gives a refresh token of 3 hours for it, and with that one its `/oauth2/token` is asked for each scope, as with
any identity token. Source: Azure/acr, `docs/AAD-OAuth.md`; Microsoft Learn, "Authenticate with Azure Container
Registry". azure-identity is an extra (`registry-sync[azure]`), imported when a login needs it, and runs in threads: it
blocks.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx

from app.domain.errors import RegistryError
from app.domain.registry import AzureAuth, RegistryEntry
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import end_of, login_error
from app.registry.auth.renewal import RenewableLogin
from app.registry.auth.token_server import ask_token_server, read_json
from app.registry.http.client import HttpClient
from app.registry.http.error_body import clean
from app.registry.http.errors import LOG_IN, ErrorContext, causes_of, error_of_response
from app.registry.http.message import HttpRequest
from app.registry.limits import MAX_TOKEN_LENGTH

SCOPE = "https://containerregistry.azure.net/.default"
"""ACR's own audience, in every cloud: opens registries only, which a token of Azure's management does not say."""
_AUTHORITIES = {"io": "login.microsoftonline.com", "cn": "login.chinacloudapi.cn", "us": "login.microsoftonline.us"}
"""Where service principals of each cloud log in, by the end of its registries' hosts (`AzureAuthorityHosts`)."""
_ACR_HOST = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.azurecr\.(io|cn|us)")
_LIFE = timedelta(hours=3)
"""Of a refresh token that does not say it."""
_OPTIONS = {"connection_timeout": 10, "read_timeout": 30, "retry_total": 2}
_REASON = re.compile(r"AADSTS\d+:[^.\r\n]*")
"""What Entra says is wrong, without the ids of the request and the time after it."""
_PASSING = re.compile(r"AADSTS90033|temporarily_unavailable")
"""A refusal that says of itself that it passes."""
_STATUS = re.compile(r"HTTP (?:Error|status): (\d{3})")


def acr_cloud(registry: str) -> str | None:
    """Return which cloud a registry of ACR is in, by the end of its host (`io`, `cn`, `us`); None for other hosts."""
    found = _ACR_HOST.fullmatch(registry)
    return found[1] if found else None


class AzureIdentity:
    """One entry's identity at Azure: `auth` is the entry's, whose proxy is gone through to Entra too.

    - `http`: to ask the registry itself with
    - `clock`: the time, in UTC
    """

    def __init__(
        self, entry: RegistryEntry, auth: AzureAuth, http: HttpClient, *, clock: Callable[[], datetime]
    ) -> None:
        self._entry = entry
        self._auth = auth
        self._http = http
        self._clock = clock
        self._context = ErrorContext(entry.registry, LOG_IN)

    async def fetch(self) -> RenewableLogin:
        """Ask for a refresh token.

        Raise `RegistryError`: `unauthorized` for an identity that Entra or the registry does not take, `denied` for one
        without a role at the registry, and what may pass (`registry_unreachable`, `rate_limited`) as temporary.
        """
        return await self._exchange(await self._entra_token())

    async def _entra_token(self) -> str:
        try:
            from azure.core import exceptions as failures
            from azure.identity import CredentialUnavailableError
        except ImportError as error:
            raise self._error("logins by Azure need an extra: install registry-sync[azure]") from error
        try:
            return await asyncio.to_thread(self._ask_entra)
        except CredentialUnavailableError as error:
            if "no response from" in str(error) and "Token request error" not in str(error):
                message = "the machine's metadata service does not answer: is a managed identity assigned to it?"
                raise self._error(message, code="registry_unreachable", temporary=True) from None
            message = "this machine has no such identity at Azure: assign it one, or name client_id"
            raise self._error(message) from None
        except failures.AzureError as error:
            raise self._refusal(error) from None
        except (ValueError, TypeError, OSError, LookupError):
            # Not what it says: it may repeat what it was given.
            raise self._error("its login at Azure can't be used: check tenant, client and secret") from None

    def _ask_entra(self) -> str:
        with self._credential() as credential:
            token: str = credential.get_token(SCOPE).token
        return token

    def _credential(self) -> Any:
        import azure.identity

        auth, proxy = self._auth, self._entry.proxy
        options: dict[str, Any] = _OPTIONS | {"disable_instance_discovery": True}
        if proxy:
            options["proxies"] = {"http": proxy, "https": proxy}
        if auth.tenant_id is None:
            return self._machine_credential(options)
        if cloud := acr_cloud(self._entry.registry):
            options["authority"] = _AUTHORITIES[cloud]
        if auth.client_certificate is not None:
            certificate = auth.client_certificate.get_secret_value().encode()
            return azure.identity.CertificateCredential(
                auth.tenant_id, str(auth.client_id), certificate_data=certificate, **options
            )
        secret = auth.client_secret.get_secret_value() if auth.client_secret else ""
        return azure.identity.ClientSecretCredential(auth.tenant_id, str(auth.client_id), secret, **options)

    def _machine_credential(self, options: dict[str, Any]) -> Any:
        """Make the machine's: what a cluster projects into a pod, else what its environment holds, else its own."""
        import azure.identity

        client_id = self._auth.client_id or os.environ.get("AZURE_CLIENT_ID")
        if os.environ.get("AZURE_FEDERATED_TOKEN_FILE"):
            return azure.identity.WorkloadIdentityCredential(client_id=client_id, **options)
        if os.environ.get("AZURE_CLIENT_SECRET") or os.environ.get("AZURE_CLIENT_CERTIFICATE_PATH"):
            return azure.identity.EnvironmentCredential(**options)
        # Not through the entry's proxy: it is asked for at an address of this machine.
        return azure.identity.ManagedIdentityCredential(client_id=client_id)

    async def _exchange(self, entra_token: str) -> RenewableLogin:
        """Show the registry a token of Entra; return the refresh token that it gives."""
        form = {"grant_type": "access_token", "service": self._entry.registry, "access_token": entra_token}
        if self._auth.tenant_id is not None:
            form["tenant"] = self._auth.tenant_id
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        url = self._http.trust.home.with_target("/oauth2/exchange")
        sent = HttpRequest(method="POST", url=url, headers=headers, content=urlencode(form).encode())
        answer = await ask_token_server(self._http, sent, self._context)
        if answer.status != httpx.codes.OK:
            error = error_of_response(answer, self._context)
            if error.temporary:
                raise error
            raise self._exchange_refusal(answer.status, error.message)
        token = read_json(answer.body).get("refresh_token")
        if not isinstance(token, str) or not token or len(token) > MAX_TOKEN_LENGTH:
            raise self._error("it answered without a refresh token: is it a registry of ACR?")
        return RenewableLogin(Login(identity_token=token), end_of(token) or self._clock() + _LIFE)

    def _exchange_refusal(self, status: int, said: str) -> RegistryError:
        match status:
            case httpx.codes.FORBIDDEN:
                return self._error(f"the Azure identity has no role here: assign it AcrPull ({said})", code="denied")
            case httpx.codes.NOT_FOUND | httpx.codes.METHOD_NOT_ALLOWED:
                return self._error(f"it exchanges no tokens of Entra: is it a registry of ACR? ({said})")
            case _:
                return self._error(
                    "the registry does not take the Azure identity: check that it has a role here (AcrPull) "
                    f"and is of the registry's tenant ({said})"
                )

    def _refusal(self, error: Exception) -> RegistryError:
        """Put into words why Entra gives no token: azure-identity's own errors hide what happened in their causes."""
        from azure.core.exceptions import ServiceRequestError, ServiceResponseError

        causes = list(causes_of(error))
        text = " ".join(map(str, causes))
        status = next((status for cause in causes if (status := _status_of(cause))), 0)
        if any(isinstance(cause, ServiceRequestError | ServiceResponseError) for cause in causes):
            return self._error("Microsoft Entra does not answer", code="registry_unreachable", temporary=True)
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return self._error("Microsoft Entra limits the rate of logins", code="rate_limited", temporary=True)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or _PASSING.search(text):
            return self._error("Microsoft Entra failed", code="registry_unreachable", temporary=True)
        found = _REASON.search(text)
        reason = f" ({clean(found[0])})" if found else ""
        return self._error(
            f"Microsoft Entra does not take the identity: check its tenant, client and secret or certificate{reason}"
        )

    def _error(self, message: str, *, code: str = "unauthorized", temporary: bool = False) -> RegistryError:
        return login_error(self._entry.registry, message, code=code, temporary=temporary)


def _status_of(error: BaseException) -> int:
    """Return the HTTP status that an error is about; MSAL's say it in their words only. 0 where there is none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    found = _STATUS.search(str(error))
    return int(status or (found[1] if found else 0))
