"""Installation tokens of a GitHub App, for GitHub's container registry: asked for with the app's key, good for an hour.

Source: GitHub Docs, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an installation access token
for a GitHub App".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import jwt

from app.domain.registry import RegistryEntry
from app.domain.registry_logins import GithubAppAuth
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import Issuer
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.client import HttpClient
from app.registry.http.message import HttpRequest

_USERNAME = "x-access-token"
_API_VERSION = "2022-11-28"
_SKEW, _PROOF_LIFE = timedelta(seconds=60), timedelta(minutes=9)
"""GitHub takes no proof of more than ten minutes, nor one from a clock that is ahead of its own."""
_LIFE = timedelta(hours=1)


class GithubAppIdentity:
    """One entry's app, as it is installed somewhere: `auth` is the entry's."""

    def __init__(
        self, entry: RegistryEntry, auth: GithubAppAuth, http: HttpClient, *, clock: Callable[[], datetime]
    ) -> None:
        self._entry = entry
        self._auth = auth
        self._clock = clock
        self._issuer = Issuer(http, entry.registry, clock=clock)

    async def fetch(self) -> RenewableLogin:
        """Ask for a token.

        Raise `RegistryError`: `unauthorized` for an app that GitHub does not take, and what may pass as temporary.
        """
        api = self._auth.api_url or github_api(self._entry.registry) or ""
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._proof()}",
            "X-GitHub-Api-Version": _API_VERSION,
        }
        url = self._issuer.url(api, f"/app/installations/{self._auth.installation_id}/access_tokens")
        sent = HttpRequest(method="POST", url=url, headers=headers, content=b"")
        advice = "check app_id, installation_id and private_key, and that the installation is not suspended"
        document = await self._issuer.ask(sent, advice=advice)
        login = Login(username=_USERNAME, password=self._issuer.token_of(document, "token"))
        return RenewableLogin(login, _end(document.get("expires_at")) or self._clock() + _LIFE)

    def _proof(self) -> str:
        now, key = self._clock(), self._auth.private_key
        claims = {"iat": int((now - _SKEW).timestamp()), "exp": int((now + _PROOF_LIFE).timestamp())}
        try:
            return jwt.encode(claims | {"iss": self._auth.app_id}, key.get_secret_value(), algorithm="RS256")
        except (jwt.PyJWTError, ValueError, TypeError):
            # Not what it says: it may repeat the key.
            raise self._issuer.error("its private key can't be used: it has to be an RSA key, as PEM") from None


def github_api(registry: str) -> str | None:
    """Return where the API of a GitHub is, by the host of its container registry; None for other hosts."""
    if registry == "ghcr.io":
        return "https://api.github.com"
    labels, _, host = registry.partition(".")
    if labels != "containers" or ":" in host:
        return None
    # Enterprise Cloud with data residency, or an Enterprise Server.
    return f"https://api.{host}" if host.endswith(".ghe.com") else f"https://{host}/api/v3"


def _end(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
