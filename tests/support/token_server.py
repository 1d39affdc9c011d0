"""A real token server for Distribution's `auth: token`: signed tokens per scope, over loopback, counted.

Speaks both halves of the protocol (distribution `docs/spec/auth/token.md` and `oauth.md`): GET with basic credentials
or anonymously, and POST with a password or an identity (refresh) token.
"""

import base64
import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, TypedDict
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.support.certificates import make_authority

SERVICE = "registry.test"
ISSUER = "registry-sync tests"
# Distribution takes a token for a minute longer than it says (`Leeway` in registry/auth/token/token.go); ours shall end
# when the client was told, so they are signed that much shorter.
DISTRIBUTION_LEEWAY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in, and what for: repository pattern → actions; `catalog` allows listing repositories."""

    password: str
    repositories: Mapping[str, frozenset[str]] = field(
        default_factory=lambda: {"*": frozenset({"pull", "push", "delete"})}
    )
    catalog: bool = True
    identity_token: str | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What one token allowed: `scopes` as granted, e.g. `repository:team/app:pull`; `asked` as requested."""

    account: str
    scopes: tuple[str, ...]
    asked: tuple[str, ...]


class _Grant(TypedDict):
    """One entry of a token's `access` claim."""

    type: str
    name: str
    actions: list[str]


class TokenServer:
    """Issue tokens on a free loopback port from `start` to `stop`; what it did is in `issued` and `refused`."""

    def __init__(
        self,
        accounts: Mapping[str, Account] | None = None,
        *,
        anonymous: Mapping[str, frozenset[str]] | None = None,
        expires_seconds: float = 300,
    ) -> None:
        self.accounts = dict(accounts or {})
        self.anonymous = dict(anonymous or {})
        self.expires_seconds = expires_seconds
        self.issued: list[IssuedToken] = []
        self.refused = 0
        self._signer = make_authority(ISSUER)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def realm(self) -> str:
        """The URL a challenge names."""
        if self._server is None:
            raise RuntimeError("the token server is not running")
        return f"http://127.0.0.1:{self._server.server_port}/token"

    @property
    def certificate_pem(self) -> bytes:
        """The certificate the registry checks signatures with (`rootcertbundle`)."""
        return self._signer.certificate_pem()

    def start(self) -> None:
        """Begin to answer."""
        owner = self

        class Handler(_TokenHandler):
            tokens = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="token-server", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and let the port go."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def issue(self, account: str, asked: tuple[str, ...]) -> str:
        """Sign a token for what this account (empty: anonymous) may have of what it asked for."""
        access = [grant for scope in asked if (grant := self._grant(account, scope))]
        granted = tuple(f"{grant['type']}:{grant['name']}:{','.join(grant['actions'])}" for grant in access)
        self.issued.append(IssuedToken(account, granted, asked))
        now = time.time()
        ends = now + self.expires_seconds - DISTRIBUTION_LEEWAY_SECONDS
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self._signer.certificate_der()).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": account,
            "aud": SERVICE,
            "exp": int(ends),
            "nbf": int(min(now, ends)) - 1,
            "iat": int(now),
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        signature = self._signer.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encode(signature)}"

    def account_of_identity_token(self, token: str) -> str | None:
        """Return whose identity token this is."""
        return next(
            (name for name, account in self.accounts.items() if token and account.identity_token == token), None
        )

    def knows(self, name: str, password: str) -> bool:
        """Return whether this account has this password."""
        return name in self.accounts and self.accounts[name].password == password

    def _grant(self, account: str, scope: str) -> _Grant | None:
        kind, _, rest = scope.partition(":")
        name, _, wanted = rest.rpartition(":")
        actions = [action for action in wanted.split(",") if action in self._allowed(account, kind, name)]
        return {"type": kind, "name": name, "actions": actions} if actions else None

    def _allowed(self, account: str, kind: str, name: str) -> frozenset[str]:
        known = self.accounts.get(account)
        if kind == "registry" and name == "catalog":
            return frozenset({"*"} if known is not None and known.catalog else ())
        patterns = known.repositories if known is not None else self.anonymous
        return frozenset().union(*(actions for pattern, actions in patterns.items() if fnmatchcase(name, pattern)))


class _TokenHandler(BaseHTTPRequestHandler):
    """One request for a token."""

    tokens: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        account = self._basic_account()
        if account is None:
            self._refuse()
            return
        refresh = self.tokens.accounts[account].identity_token if account and "offline_token" in query else None
        self._answer(account, _scopes(query), field="token", refresh=refresh)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())
        account: str | None
        if form.get("grant_type") == ["refresh_token"]:
            refresh = form.get("refresh_token", [""])[0]
            account = self.tokens.account_of_identity_token(refresh)
        else:
            refresh = None
            name, password = form.get("username", [""])[0], form.get("password", [""])[0]
            account = name if self.tokens.knows(name, password) else None
        if account is None:
            self._refuse()
        else:
            self._answer(account, _scopes(form), field="access_token", refresh=refresh)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the base class names it so
        """Say nothing."""

    def _basic_account(self) -> str | None:
        """Return who asks (empty: nobody in particular), or None for a wrong password."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if not kind:
            return ""
        name, _, password = base64.b64decode(value).decode().partition(":")
        return name if kind.lower() == "basic" and self.tokens.knows(name, password) else None

    def _answer(self, account: str, scopes: tuple[str, ...], *, field: str, refresh: str | None) -> None:
        body: dict[str, object] = {
            field: self.tokens.issue(account, scopes),
            "expires_in": max(1, int(self.tokens.expires_seconds)),
            "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if refresh:
            body["refresh_token"] = refresh
        self._send(200, body)

    def _refuse(self) -> None:
        self.tokens.refused += 1
        self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})

    def _send(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def _scopes(query: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(scope for value in query.get("scope", []) for scope in value.split())


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
