"""Logins by OpenID Connect: a token projected to this machine, or a client's, shown as it is or exchanged first.

Sources: RFC 6749 (2.3.1, 4.4: client credentials), RFC 8693 (token exchange); Kubernetes, "Configure Service Accounts
for Pods" (projected tokens, which are renewed on the disk); Red Hat Quay, "Keyless authentication with robot accounts";
project-zot/zot #3711 (the token itself as bearer).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import datetime
from urllib.parse import quote_plus, urlencode

import structlog

from app.domain.registry import RegistryEntry
from app.domain.registry_logins import OidcAuth
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import Issuer
from app.registry.auth.login_files import read_login_file
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.client import HttpClient
from app.registry.http.message import HttpRequest, Url
from app.registry.limits import MAX_TOKEN_LENGTH

_log = structlog.get_logger(__name__)
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 — how the names of kinds of tokens begin
_QUAY_EXCHANGE = "/oauth2/federation/robot/token"
_JWT_DOTS = 2


class OidcIdentity:
    """One entry's identity at an issuer: `auth` is the entry's."""

    def __init__(
        self,
        entry: RegistryEntry,
        auth: OidcAuth,
        http: HttpClient,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._entry = entry
        self._auth = auth
        self._rules = http.settings.logins
        self._home = http.trust.home
        self._issuer = Issuer(http, entry.registry, clock=clock)

    async def fetch(self) -> RenewableLogin:
        """Ask for a token.

        Raise `RegistryError`: `unauthorized` for an identity that is not taken, and what may pass as temporary.
        """
        auth = self._auth
        if auth.token_url is not None:
            token, seconds = await self._client_credentials(self._issuer.url(auth.token_url))
        else:
            token, seconds = await self._projected(), None
        match auth.exchange:
            case "token_exchange":
                token, seconds = await self._exchange(self._issuer.url(auth.exchange_url or ""), token)
            case "quay":
                token, seconds = await self._exchange_at_quay(token), None
            case _:
                pass
        login = Login(username=auth.username, password=token) if auth.username else Login(bearer=token)
        return self._issuer.renewable(login, token, seconds=seconds)

    async def _projected(self) -> str:
        path = self._rules.token_file(self._entry.registry)
        try:
            raw = await asyncio.to_thread(read_login_file, path or "", limit=MAX_TOKEN_LENGTH)
            return self._issuer.token_of({"token": raw.decode().strip()}, "token")
        except (OSError, ValueError) as error:
            _log.warning("token_file_not_used", registry=self._entry.registry, reason=type(error).__name__)
            message = "the token file that REGISTRY_SYNC_TOKEN_FILES names for this registry can't be read"
            raise self._issuer.error(message) from None

    async def _client_credentials(self, url: Url) -> tuple[str, object]:
        form = {"grant_type": "client_credentials"}
        if self._auth.exchange == "none":
            form |= self._wanted()
        return await self._post(url, form, advice="check token_url, client_id and client_secret")

    async def _exchange(self, url: Url, token: str) -> tuple[str, object]:
        self._issuer.hide(token)
        kind = "jwt" if token.count(".") == _JWT_DOTS else "access_token"
        form = {"grant_type": _EXCHANGE, "subject_token": token, "subject_token_type": f"{_TOKEN_TYPE}{kind}"}
        advice = "check exchange_url, audience, scope and resource, and that it trusts the token's issuer and subject"
        return await self._post(url, form | self._wanted(), advice=advice)

    def _wanted(self) -> dict[str, str]:
        """Return what the token that is shown to the registry has to be for."""
        auth = self._auth
        wanted = {"audience": auth.audience, "scope": auth.scope, "resource": auth.resource}
        return {name: value for name, value in wanted.items() if value is not None}

    async def _post(self, url: Url, form: dict[str, str], *, advice: str) -> tuple[str, object]:
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        auth = self._auth
        if auth.client_id is not None and auth.client_secret is not None:
            secret = auth.client_secret.get_secret_value()
            headers["Authorization"] = _basic(quote_plus(auth.client_id), quote_plus(secret))
        sent = HttpRequest(method="POST", url=url, headers=headers, content=urlencode(form).encode())
        document = await self._issuer.ask(sent, advice=advice)
        return self._issuer.token_of(document, "access_token"), document.get("expires_in")

    async def _exchange_at_quay(self, token: str) -> str:
        headers = {"Accept": "application/json", "Authorization": _basic(self._auth.username or "", token)}
        sent = HttpRequest(method="GET", url=self._home.with_target(_QUAY_EXCHANGE), headers=headers)
        advice = "check the robot's name and that its federation has the token's issuer and subject"
        return self._issuer.token_of(await self._issuer.ask(sent, advice=advice), "token")


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
