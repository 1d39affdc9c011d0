"""Issuers of logins, over TLS and loopback: OAuth 2.0 and token exchange, Quay's federation, GitHub's apps.

    with IssuerServer(tmp_path) as issuer:
        issuer.clients["sync"] = "s3cret"
        # token_url is issuer.url + "/token"; trust issuer.ca_file

It checks what it is shown: secrets, signatures, what an exchange asks for. Sources: RFC 6749 (4.4, 5), RFC 8693 (2);
Red Hat Quay, "Keyless authentication with robot accounts"; GitHub Docs, "Generating an installation access token".
"""

import base64
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.support.certificates import make_server_certificate
from tests.support.loopback_server import LoopbackServer, Said, form_of, json_handler

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
INSTALLATION = 4711
_UNTIMED: Any = {"verify_iat": False, "verify_exp": False}
"""Tests have a clock of their own."""
_KEY = "signs what only its own registries read"


class IssuerServer:
    """Every kind of issuer at one address; running from `__enter__` to `__exit__`."""

    def __init__(self, folder: Path) -> None:
        files = make_server_certificate(folder)
        self.ca = files.ca_file.read_text()
        self.clients: dict[str, str] = {}
        """Secrets of clients by their id."""
        self.robots: set[str] = set()
        """Quay's robots whose federation trusts this issuer."""
        self.apps: dict[str, RSAPublicKey] = {}
        """Keys of GitHub's apps by their id."""
        self.issued: list[str] = []
        self.forms: list[dict[str, str]] = []
        """What was asked of the token endpoint."""
        self.fails: Said | None = None
        """Answer this to every question."""
        self.seconds: object = 300
        """What is said of how long tokens live."""
        self.next_token = ""
        """Issue this as the next token, instead of one of its own."""
        self._server = LoopbackServer(json_handler(self._answer), files=files)
        self.host, self.url = self._server.host, self._server.url

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def project(self, *, seconds: int = 3600) -> str:
        """Make a token as a cluster projects it into a pod."""
        return jwt.encode({"sub": "system:serviceaccount:sync:sync", "exp": int(time.time()) + seconds}, _KEY)

    def _answer(self, handler: BaseHTTPRequestHandler, path: str, body: str) -> Said:
        if self.fails is not None:
            return self.fails
        if path == "/token":
            return self._give_token(handler, form_of(body))
        if path == "/oauth2/federation/robot/token":
            robot, token = _basic(handler)
            if robot not in self.robots or not self._is_own(token):
                return 401, {"error": "Could not find robot with specified username"}
            return 200, {"token": self._issue()}
        if path.endswith("/access_tokens"):
            return self._give_installation_token(handler, path)
        return 404, {"message": "Not Found"}

    def _give_token(self, handler: BaseHTTPRequestHandler, form: dict[str, str]) -> Said:
        self.forms.append(form)
        client, secret = (unquote_plus(part) for part in _basic(handler))
        is_known = client in self.clients and self.clients[client] == secret
        if form["grant_type"] == "client_credentials":
            if not is_known:
                return 401, {"error": "invalid_client", "error_description": "Invalid client or Invalid credentials"}
        elif not self._is_own(form["subject_token"]):
            return 400, {"error": "invalid_request", "error_description": "Invalid token"}
        return 200, {"access_token": self._issue(), "token_type": "Bearer", "expires_in": self.seconds}

    def _give_installation_token(self, handler: BaseHTTPRequestHandler, path: str) -> Said:
        proof = handler.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            app = jwt.decode(proof, options={"verify_signature": False})["iss"]
            claims = jwt.decode(proof, self.apps[app], algorithms=["RS256"], options=_UNTIMED)
        except (jwt.InvalidTokenError, KeyError):
            return 401, {"message": "A JSON web token could not be decoded"}
        if claims["exp"] - claims["iat"] > 660:
            return 401, {"message": "'Expiration time' claim ('exp') is too far in the future"}
        if path != f"/app/installations/{INSTALLATION}/access_tokens":
            return 404, {"message": "Not Found"}
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(claims["iat"] + 3660))
        return 201, {"token": self._issue(), "expires_at": ends, "permissions": {"packages": "read"}}

    def _is_own(self, token: str) -> bool:
        """Whether this issuer made a token: projected, or issued to a client."""
        try:
            jwt.decode(token, _KEY, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return token in self.issued
        return True

    def _issue(self) -> str:
        token = self.next_token or f"canary-5f1c0e7a-{len(self.issued)}"
        self.next_token = ""
        self.issued.append(token)
        return token


def _basic(handler: BaseHTTPRequestHandler) -> tuple[str, str]:
    value = handler.headers.get("authorization", "").removeprefix("Basic ")
    name, _, password = base64.b64decode(value).decode().partition(":")
    return name, password
