"""Temporary passwords of Tencent Cloud's registry (TCR), good for an hour, and lists, asked for with an API key.

Source: Tencent Cloud, "CreateInstanceToken" and "DescribeRepositories" (tcr, 2019-09-24), and "Signature v3"
(TC3-HMAC-SHA256). Its SDK for two requests is a transport of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.registry import RegistryEntry
from app.domain.registry_logins import TencentAuth
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import Issuer, moment_of
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.client import HttpClient
from app.registry.http.message import HttpRequest
from app.registry.limits import MAX_PAGES

_ALGORITHM = "TC3-HMAC-SHA256"
_API = "https://tcr.tencentcloudapi.com"
_VERSION, _SERVICE = "2019-09-24", "tcr"
_CONTENT_TYPE = "application/json; charset=utf-8"
_LIFE = timedelta(hours=1)
_PAGE = 100


class TencentIdentity:
    """One entry's API key at Tencent Cloud: `auth` is the entry's."""

    def __init__(
        self, entry: RegistryEntry, auth: TencentAuth, http: HttpClient, *, clock: Callable[[], datetime]
    ) -> None:
        self._auth = auth
        self._clock = clock
        self._issuer = Issuer(http, entry.registry, clock=clock)

    async def fetch(self) -> RenewableLogin:
        """Ask for a password.

        Raise `RegistryError`: `unauthorized` for a key that is not taken, and what may pass as temporary.
        """
        now = self._clock()
        said = await self._ask("CreateInstanceToken", {"TokenType": "temp", "Desc": "registry-sync"})
        login = Login(username=str(said.get("Username", "")), password=self._issuer.token_of(said, "Token"))
        return RenewableLogin(login, moment_of(said.get("ExpTime")) or now + _LIFE)

    async def list_repositories(self, namespace: str) -> AsyncIterator[Any]:
        """Yield the instance's repositories, or a namespace's, as the API has them; raise `RegistryError`."""
        within = {"NamespaceName": namespace} if namespace else {}
        for number in range(1, MAX_PAGES + 1):  # what the API calls an offset is the number of a page
            said = await self._ask("DescribeRepositories", {"Offset": number, "Limit": _PAGE, **within})
            page = said.get("RepositoryList")
            if not isinstance(page, list):
                raise self._issuer.error("its API answered without a list")
            for item in page:
                yield item
            if len(page) < _PAGE:
                return
        raise self._issuer.error(f"its list has more than {MAX_PAGES} pages", code="limit_exceeded")

    async def _ask(self, action: str, wanted: Mapping[str, object]) -> dict[str, Any]:
        auth, now = self._auth, self._clock()
        url = self._issuer.url(auth.api_url or _API, "/")
        body = json.dumps({"RegistryId": auth.registry_id, **wanted})
        headers = {
            "Authorization": tc3_authorization(
                auth.secret_id,
                auth.secret_key.get_secret_value(),
                service=_SERVICE,
                signed={"content-type": _CONTENT_TYPE, "host": url.authority, "x-tc-action": action.lower()},
                payload=body,
                now=now,
            ),
            "Content-Type": _CONTENT_TYPE,
            "X-TC-Action": action,
            "X-TC-Region": auth.region,
            "X-TC-Timestamp": str(int(now.timestamp())),
            "X-TC-Version": _VERSION,
        }
        sent = HttpRequest(method="POST", url=url, headers=headers, content=body.encode())
        advice = "check secret_id, secret_key, registry_id and region, and that it may tcr:" + action
        answered: Any = (await self._issuer.ask(sent, advice=advice)).get("Response")
        said: dict[str, Any] = answered if isinstance(answered, dict) else {}
        if isinstance(said.get("Error"), dict):  # with the status 200
            raise self._issuer.refusal(said["Error"], url.authority, advice=advice)
        return said


def tc3_authorization(
    secret_id: str, secret_key: str, *, service: str, signed: dict[str, str], payload: str, now: datetime
) -> str:
    """Sign a POST to `/`; `signed` are headers by lower-case name, in their canonical form."""
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(payload.encode()).hexdigest()}"
    date = now.astimezone(UTC).strftime("%Y-%m-%d")
    scope = f"{date}/{service}/tc3_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{int(now.timestamp())}\n{scope}\n{hashed}"
    key = f"TC3{secret_key}".encode()
    for part in (date, service, "tc3_request", to_sign):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return f"{_ALGORITHM} Credential={secret_id}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
