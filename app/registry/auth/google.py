"""Access tokens of Google for Artifact Registry: asked for with a service account's key or the machine's identity.

The token is shown as the password of `oauth2accesstoken`, and lasts an hour. Source: Google Cloud, "Configure
authentication to Artifact Registry for Docker" (access token), "Using OAuth 2.0 for Server to Server Applications", and
"About VM metadata". google-auth is an extra (`registry-sync[google]`), imported when a login needs it, and runs in
threads: it blocks.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from datetime import UTC
from functools import partial
from typing import Any, TypeVar

from app.domain.errors import RegistryError
from app.domain.registry import GoogleAuth, RegistryEntry
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import login_error
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.error_body import clean

T = TypeVar("T")
USERNAME = "oauth2accesstoken"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
"""What the rights are is said by the roles of the account; Google's registries take no narrower scope for writing."""
_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 — an address
"""Asked whatever a key says: who enters a registry must not send this service to addresses of their choice (SSRF)."""
_HOME = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io")


def is_google(registry: str) -> bool:
    """Whether a host is one of Google's registries."""
    return _HOME.fullmatch(registry) is not None


class GoogleIdentity:
    """One entry's identity at Google: `auth` is the entry's, whose proxy is gone through to Google too."""

    def __init__(self, entry: RegistryEntry, auth: GoogleAuth) -> None:
        self._entry = entry
        self._auth = auth

    async def fetch(self) -> RenewableLogin:
        """Ask for an access token.

        Raise `RegistryError`: `unauthorized` for an identity that Google does not take, `registry_unreachable` for what
        may pass.
        """
        return await self._run(self._ask)

    async def get_caller(self) -> str:
        """Return the account that the machine's identity is, empty where it does not say; raise as `fetch` does."""
        return await self._run(lambda: str(getattr(self._refreshed(), "service_account_email", "") or ""))

    async def _run(self, ask: Callable[[], T]) -> T:
        try:
            from google.auth import exceptions as failures
        except ImportError as error:
            raise self._error("logins by Google need an extra: install registry-sync[google]") from error
        try:
            return await asyncio.to_thread(ask)
        except failures.DefaultCredentialsError:
            raise self._error("this machine has no identity at Google that can be used") from None
        except failures.GoogleAuthError as error:
            raise self._refusal(error, failures.TransportError) from None
        except (ValueError, TypeError, OSError, LookupError, AttributeError):
            # Not what it says: it may repeat what it was given.
            raise self._error("its login at Google can't be used: check the key") from None

    def _ask(self) -> RenewableLogin:
        credentials = self._refreshed()
        login = Login(username=USERNAME, password=credentials.token)
        return RenewableLogin(login, credentials.expiry.replace(tzinfo=UTC))

    def _refreshed(self) -> Any:
        from google.auth.transport.requests import Request

        request: Any = Request()
        credentials, proxy = self._credentials(), self._entry.proxy
        with request.session:
            if proxy and not self._is_attached():
                # With each request: what the environment says would go before what is said of the session.
                request = partial(request, proxies={"http": proxy, "https": proxy})
            credentials.refresh(request)
        return credentials

    def _is_attached(self) -> bool:
        """Whether it is the account attached to this machine, which is asked for at an address of the machine."""
        return self._auth.service_account_key is None and not os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")

    def _credentials(self) -> Any:
        key = self._auth.service_account_key
        if key is not None:
            from google.oauth2 import service_account

            given = json.loads(key.get_secret_value())
            wanted = {name: given.get(name) for name in ("client_email", "private_key", "private_key_id")}
            make: Any = service_account.Credentials.from_service_account_info
            return make(wanted | {"token_uri": _TOKEN_URI}, scopes=[_SCOPE])
        if self._is_attached():
            from google.auth import compute_engine

            make = compute_engine.Credentials
            return make(scopes=[_SCOPE])
        import google.auth

        return google.auth.default(scopes=[_SCOPE])[0]

    def _refusal(self, error: Any, transport_error: type[Exception]) -> RegistryError:
        is_unanswered = isinstance(error, transport_error) or isinstance(error.__cause__, transport_error)
        if is_unanswered and not self._auth.service_account:
            message = "no token from this machine's identity at Google: is a service account attached to it?"
            return self._error(message, code="registry_unreachable", temporary=True)
        if is_unanswered or error.retryable:
            return self._error("Google does not answer", code="registry_unreachable", temporary=True)
        said = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
        reason = clean(f"{said.get('error', '')}: {said.get('error_description', '')}").strip(": ")
        words = f" ({reason})" if reason else ""
        return self._error(f"Google does not take the identity: check that its account and key are still there{words}")

    def _error(self, message: str, *, code: str = "unauthorized", temporary: bool = False) -> RegistryError:
        return login_error(self._entry.registry, message, code=code, temporary=temporary)
