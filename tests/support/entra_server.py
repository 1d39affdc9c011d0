"""Microsoft Entra's token endpoint (TLS) and a machine's metadata service (IMDS), over loopback.

    with EntraServer(tmp_path) as entra:
        entra.add_secret(APP, "s3cret")
        # AZURE_AUTHORITY_HOST is entra.url, AZURE_POD_IDENTITY_AUTHORITY_HOST entra.imds_url
        # REQUESTS_CA_BUNDLE is entra.ca_file

It checks what it is shown: secrets, and signatures of assertions. Sources, all Microsoft Learn: "OAuth 2.0 client
credentials flow" (requests, answers), "Microsoft identity platform application authentication certificate credentials"
(assertions), "Microsoft Entra authentication and authorization error codes", "How to use managed identities for Azure
resources on an Azure VM to acquire an access token" (IMDS).
"""

import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.support.certificates import make_server_certificate
from tests.support.loopback_server import LoopbackServer, Said, form_of, json_handler

TENANT = "11111111-2222-3333-4444-555555555555"
APP = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
AUDIENCE = "https://containerregistry.azure.net"
_KEY = "signs what only its own registries read"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class EntraServer:
    """One tenant with its applications, and one machine; running from `__enter__` to `__exit__`."""

    def __init__(self, folder: Path) -> None:
        files = make_server_certificate(folder)
        self.ca_file = files.ca_file
        self.issued: list[str] = []
        """The tokens issued so far."""
        self.fails_with: int | None = None
        """Answer this status to every question: an outage."""
        self.machine: set[str] = set()
        """Identities assigned to the machine; with one, it is also the one meant where none is named."""
        self._secrets: dict[str, str] = {}
        self._keys: dict[str, RSAPublicKey] = {}
        self._projected: dict[str, str] = {}
        self._entra = LoopbackServer(json_handler(self._answer), files=files)
        self._imds = LoopbackServer(json_handler(self._answer_imds))
        self.url, self.imds_url = self._entra.url, self._imds.url
        self._running = ExitStack()

    def __enter__(self) -> Self:
        for server in (self._entra, self._imds):
            self._running.enter_context(server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def add_secret(self, app: str, secret: str) -> None:
        """Register an application that logs in with a secret."""
        self._secrets[app] = secret

    def add_key(self, app: str, key: RSAPublicKey) -> None:
        """Register an application that logs in with a certificate of this key."""
        self._keys[app] = key

    def trust_projected(self, app: str, token: str) -> None:
        """Register an application that a cluster's service account stands for, with the token projected into pods."""
        self._projected[app] = token

    def owner_of(self, token: str) -> str | None:
        """Return which application a token is of, None for one that is not for registries, or not of this tenant."""
        try:
            claims = jwt.decode(token, _KEY, algorithms=["HS256"], audience=AUDIENCE)
        except jwt.InvalidTokenError:
            return None
        return str(claims["appid"])

    def _answer(self, _: BaseHTTPRequestHandler, path: str, body: str) -> Said:
        form = form_of(body)
        if self.fails_with is not None:
            return self.fails_with, {"error": "temporarily_unavailable"}
        if not path.startswith(f"/{TENANT}/"):
            return _refusal(400, "invalid_request", "AADSTS90002: Tenant not found. Check the tenant ID.")
        if path.endswith("/.well-known/openid-configuration"):
            base = f"{self.url}/{TENANT}"
            return 200, {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "issuer": f"{base}/v2.0",
            }
        app = form.get("client_id", "")
        if app not in {*self._secrets, *self._keys, *self._projected}:
            return _refusal(
                400, "unauthorized_client", f"AADSTS700016: Application with identifier '{app}' was not found."
            )
        if not self._is_proven(app, form):
            return _refusal(401, "invalid_client", "AADSTS7000215: Invalid client secret provided. Ensure the value.")
        scope = form.get("scope", "").split(" ")[0].removesuffix("/.default")
        return 200, {
            "token_type": "Bearer",
            "expires_in": 3599,
            "ext_expires_in": 3599,
            "access_token": self._issue(app, scope),
        }

    def _is_proven(self, app: str, form: dict[str, str]) -> bool:
        if form.get("grant_type") != "client_credentials":
            return False
        if app in self._secrets:
            return form.get("client_secret") == self._secrets[app]
        assertion = form.get("client_assertion", "")
        if form.get("client_assertion_type") != _ASSERTION:
            return False
        if app in self._projected:
            return assertion == self._projected[app]
        endpoint = f"{self.url}/{TENANT}/oauth2/v2.0/token"
        try:
            jwt.decode(
                assertion, self._keys[app], algorithms=["RS256", "PS256"], audience=endpoint, issuer=app, subject=app
            )
        except jwt.InvalidTokenError:
            return False
        return True

    def _answer_imds(self, handler: BaseHTTPRequestHandler, _: str, __: str) -> Said:
        if self.fails_with is not None:
            return self.fails_with, {"error": "unknown"}
        asked = form_of(urlsplit(handler.path).query)
        if handler.headers.get("metadata", "").lower() != "true" or "api-version" not in asked:
            return _refusal(400, "bad_request_102", "Required metadata header not specified")
        app = asked.get("client_id") or (next(iter(self.machine)) if len(self.machine) == 1 else "")
        if app not in self.machine:
            return _refusal(400, "invalid_request", "Identity not found")
        return 200, {
            "access_token": self._issue(app, asked.get("resource", "")),
            "client_id": app,
            "expires_in": "86399",
            "expires_on": str(int(time.time()) + 86399),
            "resource": asked.get("resource", ""),
            "token_type": "Bearer",
        }

    def _issue(self, app: str, audience: str) -> str:
        claims = {"aud": audience, "appid": app, "tid": TENANT, "exp": int(time.time()) + 3599, "n": len(self.issued)}
        token = jwt.encode(claims, _KEY, algorithm="HS256")
        self.issued.append(token)
        return token


def _refusal(status: int, error: str, description: str) -> Said:
    return status, {"error": error, "error_description": f"{description}\r\nTrace ID: 0f\r\nTimestamp: 2026"}
