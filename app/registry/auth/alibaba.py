"""Temporary passwords of Alibaba Cloud's registry (ACR Enterprise Edition), and lists, asked for with an access key.

Source: Alibaba Cloud, "GetAuthorizationToken" and "ListRepository" (cr, 2018-12-01), and "V3 request body and
signature" (ACS3-HMAC-SHA256). Its SDK for two requests is eight packages with a transport of their own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from app.domain.registry import RegistryEntry
from app.domain.registry_logins import AlibabaAuth
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import Issuer, moment_of
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.client import HttpClient
from app.registry.http.message import HttpRequest
from app.registry.limits import MAX_PAGES

_ALGORITHM = "ACS3-HMAC-SHA256"
_HOST = re.compile(r"[a-z0-9-]+-registry(?:-vpc)?\.(?P<region>[a-z0-9-]+)\.cr\.aliyuncs\.com")
_LIFE = timedelta(minutes=15)
"""Of a password that does not say it."""
_PAGE = 100
_EMPTY = hashlib.sha256(b"").hexdigest()


class AlibabaIdentity:
    """One entry's access key at Alibaba Cloud: `auth` is the entry's."""

    def __init__(
        self, entry: RegistryEntry, auth: AlibabaAuth, http: HttpClient, *, clock: Callable[[], datetime]
    ) -> None:
        self._entry = entry
        self._auth = auth
        self._clock = clock
        self._issuer = Issuer(http, entry.registry, clock=clock)

    async def fetch(self) -> RenewableLogin:
        """Ask for a password.

        Raise `RegistryError`: `unauthorized` for a key that is not taken, and what may pass as temporary.
        """
        said = await self._ask("GetAuthorizationToken", {})
        password = self._issuer.token_of(said, "AuthorizationToken")
        username = str(said.get("TempUsername") or "cr_temp_user")
        ends_at = moment_of(said.get("ExpireTime")) or self._clock() + _LIFE
        return RenewableLogin(Login(username=username, password=password), ends_at)

    async def list_repositories(self, namespace: str) -> AsyncIterator[Any]:
        """Yield the instance's repositories, or a namespace's, as the API has them; raise `RegistryError`."""
        within = {"RepoNamespaceName": namespace} if namespace else {}
        for number in range(1, MAX_PAGES + 1):
            said = await self._ask("ListRepository", {"PageNo": str(number), "PageSize": str(_PAGE), **within})
            page = said.get("Repositories")
            if not isinstance(page, list):
                raise self._issuer.refusal(said, "its list", advice="check that it has the right cr:ListRepository")
            for item in page:
                yield item
            if len(page) < _PAGE:
                return
        raise self._issuer.error(f"its list has more than {MAX_PAGES} pages", code="limit_exceeded")

    async def _ask(self, action: str, wanted: Mapping[str, str]) -> dict[str, Any]:
        auth = self._auth
        region = auth.region or alibaba_region(self._entry.registry)
        given = {"InstanceId": auth.instance_id, **wanted}
        query = "&".join(f"{name}={quote(given[name], safe='~')}" for name in sorted(given))
        url = self._issuer.url(auth.api_url or f"https://cr.{region}.aliyuncs.com", f"/?{query}")
        headers = {
            "host": url.authority,
            "x-acs-action": action,
            "x-acs-content-sha256": _EMPTY,
            "x-acs-date": self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-version": "2018-12-01",
        }
        secret = auth.access_key_secret.get_secret_value()
        headers["Authorization"] = acs3_authorization(auth.access_key_id, secret, query=query, headers=headers)
        del headers["host"]  # sent as the request's own
        sent = HttpRequest(method="POST", url=url, headers=headers, content=b"")
        advice = f"check the access key, instance_id and region, and that it has the right cr:{action}"
        return await self._issuer.ask(sent, advice=advice)


def acs3_authorization(key_id: str, secret: str, *, query: str, headers: Mapping[str, str]) -> str:
    """Sign a POST of an empty body to `/`; `query` is in its canonical form, `headers` are those that are signed."""
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"POST\n/\n{query}\n{lines}\n{names}\n{_EMPTY}"
    to_sign = f"{_ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{_ALGORITHM} Credential={key_id},SignedHeaders={names},Signature={signature}"


def alibaba_region(registry: str) -> str | None:
    """Return the region in the host of an instance of the Enterprise Edition, None for any other host."""
    found = _HOST.fullmatch(registry)
    return found["region"] if found else None
