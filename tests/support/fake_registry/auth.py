"""Challenges, tokens and who may do what (distribution-spec has no auth; this is Distribution's `docs/spec/auth`)."""

import base64
import itertools
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs

from tests.support.fake_registry.journal import Entry
from tests.support.fake_registry.messages import HUGE_BYTES, Answer, Request, error, json_answer, page_answer
from tests.support.fake_registry.site import Site

CATALOG_SCOPE = "registry:catalog:*"
Scopes = frozenset[tuple[str, str]]
"""Pairs of what and action: (`repository:team/app`, `pull`)."""


@dataclass(slots=True)
class Token:
    """One token that was issued."""

    value: str
    account: str
    scopes: Scopes
    asked: tuple[str, ...]
    """The scopes of the token request, word for word."""
    expires_at: datetime | None
    usable: bool = True
    uses: int = 0


@dataclass
class Auth:
    """The gate of the registry and its token endpoint; what was issued is in `tokens`."""

    site: Site
    tokens: list[Token] = field(default_factory=list)
    refused: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def check(self, request: Request) -> Answer | None:
        """Return the refusal, None when the request may go on."""
        quirks = self.site.quirks
        if request.entry.kind == "ping" and quirks.ping_status is not None:
            return Answer(quirks.ping_status)
        needed = self.needed(request)
        match quirks.auth:
            case "none":
                return None
            case "basic":
                return None if self._account_of(request.entry) else self.challenge(request, needed)
            case "token":
                return self._check_token(request, needed)

    def needed(self, request: Request) -> tuple[str, ...]:
        """Return the scopes a request needs, e.g. `repository:team/app:pull,push`."""
        entry, quirks = request.entry, self.site.quirks
        name = f"repository:{entry.repository}"
        match entry.kind:
            case "catalog":
                return () if quirks.catalog_scope_refused else (CATALOG_SCOPE,)
            case "tags" if quirks.tags_need_metadata_read:
                return (f"{name}:metadata_read",)
            case "upload_start" if source := request.query.get("from"):
                return (f"{name}:pull,push", f"repository:{source}:pull")
            case "upload_cancel" if quirks.cancel_needs_delete:
                return (f"{name}:delete",)
            case "ping" | "token" | "storage" | "other":
                return ()
            case _:
                pass
        actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(entry.method, "pull,push")
        is_upload = entry.kind.startswith("upload")
        return (f"{name}:{'pull,push' if is_upload else actions}",)

    def revoke_all(self) -> None:
        """Make every token issued so far worthless."""
        for token in self.tokens:
            token.usable = False

    def challenge(self, request: Request, needed: tuple[str, ...], *, why: str = "", status: int = 401) -> Answer:
        """Answer 401 with a challenge in this registry's form."""
        code = "DENIED" if why == "insufficient_scope" else "UNAUTHORIZED"
        answer = error(status, code, "authentication required", detail=list(needed))
        form = self.site.quirks.challenge
        if form != "missing" or request.entry.kind == "ping":
            parameters = {"realm": self._realm(), "service": self.site.quirks.service}
            if needed:
                parameters["scope"] = " ".join(needed)
            if why:
                parameters["error"] = why
            answer.headers += [("WWW-Authenticate", value) for value in self._challenges(parameters)]
        return answer

    async def give_token(self, request: Request) -> Answer:
        """Answer a request to the token endpoint, GET or POST."""
        quirks = self.site.quirks
        if quirks.token_redirect:
            to = self.site.urls["stranger"] if quirks.token_redirect == "stranger" else ""
            return Answer(307, [("Location", f"{to}{request.entry.target}")])
        body = await request.read()
        if request.method not in quirks.token_methods:
            return error(quirks.token_method_status, "UNSUPPORTED")
        form = parse_qs(body.decode() if request.method == "POST" else request.entry.query)
        request.entry.body_secrets = tuple(sorted({"password", "refresh_token"} & form.keys()))
        account = self._form_account(form) if request.method == "POST" else self._query_account(request)
        if account is None:
            self.refused += 1
            return error(quirks.token_refusal_status, "UNAUTHORIZED", "incorrect username or password")
        asked = tuple(scope for value in form.get("scope", []) for scope in value.split())
        if quirks.catalog_scope_refused and CATALOG_SCOPE in asked:
            return error(400, "INVALID_REQUEST", f"Unable to decode repository and actions: {CATALOG_SCOPE}")
        offline = "true" in form.get("offline_token", []) or "offline" in form.get("access_type", [])
        return self._token_answer(self._issue(account, asked, offline=offline), offline=offline)

    def _check_token(self, request: Request, needed: tuple[str, ...]) -> Answer | None:
        kind, _, value = (request.header("authorization") or "").partition(" ")
        token = next((token for token in self.tokens if token.value == value), None)
        if kind.lower() != "bearer" or token is None:
            return self.challenge(request, needed)
        token.uses += 1
        allowed = self.site.quirks.token_lives_requests
        is_over = token.expires_at is not None and token.expires_at <= self.site.clock()
        if not token.usable or is_over or (allowed is not None and token.uses > allowed):
            return self.challenge(request, needed, why="invalid_token")
        if not covers(token.scopes, needed):
            status = self.site.quirks.insufficient_scope_status
            return self.challenge(request, needed, why="insufficient_scope", status=status)
        return None

    def _issue(self, account: str, asked: tuple[str, ...], *, offline: bool) -> Token:
        quirks = self.site.quirks
        seconds = quirks.token_lives_seconds if quirks.token_lives_seconds is not None else quirks.token_expires_in
        token = Token(
            value=f"token-{next(self._numbers)}",
            account=account,
            scopes=self._granted(account, asked),
            asked=asked,
            expires_at=self.site.clock() + timedelta(seconds=60 if seconds is None else seconds),
            usable=not (offline and quirks.offline_tokens_unusable),
        )
        self.tokens.append(token)
        return token

    def _granted(self, account: str, asked: tuple[str, ...]) -> Scopes:
        """Return what a token is good for: what was asked, cut to what the account may and the registry understands."""
        quirks = self.site.quirks
        if quirks.only_first_scope:
            asked = asked[:1]
        if quirks.only_last_scope:
            asked = asked[-1:]
        if quirks.scopes_overwrite:
            asked = tuple({scope.rpartition(":")[0]: scope for scope in asked}.values())
        if quirks.delete_scope_refused:
            asked = tuple(scope for scope in asked if "delete" not in actions_of(scope))
        return frozenset(
            (what, action)
            for scope in asked
            for what, action in pairs(scope)
            if (account or action in self.site.anonymous_actions)
            and not any(fnmatchcase(f"{what}:{action}", pattern) for pattern in quirks.denied_scopes)
        )

    def _token_answer(self, token: Token, *, offline: bool) -> Answer:
        quirks = self.site.quirks
        body: dict[str, Any] = dict.fromkeys(quirks.token_fields, token.value)
        if quirks.token_expires_in is not None:
            body["expires_in"] = quirks.token_expires_in
        if quirks.token_issued_at != "missing":
            ahead = timedelta(hours=1 if quirks.token_issued_at == "future" else 0)
            body["issued_at"] = (self.site.clock() + ahead).isoformat().replace("+00:00", "Z")
        if offline:
            body["refresh_token"] = next(
                (value for value, name in self.site.identity_tokens.items() if name == token.account), "refresh-none"
            )
        match quirks.token_body:
            case "json":
                return json_answer(body)
            case "html":
                return page_answer()
            case "empty":
                return Answer(200)
            case "list":
                return json_answer([body])
            case "huge":
                return json_answer({**body, "padding": "x" * HUGE_BYTES})

    def _realm(self) -> str:
        quirks = self.site.quirks
        if quirks.realm_url:
            return quirks.realm_url
        if quirks.challenge_from_stranger:
            return f"{self.site.urls['stranger']}/token"
        match quirks.realm:
            case "other_port":
                return f"{self.site.urls['auth']}/token"
            case "same_host":
                return f"{self.site.urls['registry']}/token"
            case "acr":
                return f"{self.site.urls['registry']}/oauth2/token"
            case "relative":
                return "/token"
            case "plain_http":
                return f"{self.site.urls['plain']}/token"

    def _challenges(self, parameters: dict[str, str]) -> list[str]:
        """Return the values of `WWW-Authenticate`, one per header (RFC 9110, 11.6.1)."""
        plain = ",".join(f'{name}="{value}"' for name, value in parameters.items())
        if self.site.quirks.auth == "basic":
            return ['Basic realm="fake registry"']
        match self.site.quirks.challenge:
            case "plain" | "missing":
                return [f"Bearer {plain}"]
            case "two_headers":
                return ['Basic realm="fake registry"', f"Bearer {plain}"]
            case "one_header":
                return [f'Basic realm="fake registry", charset="UTF-8", Bearer {plain}']
            case "basic_first":
                return [f'Basic realm="a, b", Bearer {plain}']
            case "odd_case":
                return ["bEARER " + " , ".join(f'{name.upper()} = "{value}"' for name, value in parameters.items())]
            case "quoted":
                return [f'Bearer title="say \\"hi\\", Basic realm=no", {plain}']
            case "negotiate_first":
                return ["Negotiate", "NTLM TlRMTVNTUAAB==", f"Bearer {plain}"]
            case "garbage":
                return ['Bearer realm="unclosed, =,,;']

    def _query_account(self, request: Request) -> str | None:
        """Return who asks: an account, nobody in particular (empty), or None for wrong credentials."""
        if request.header("authorization") is None:
            return ""
        return None if self.site.quirks.identity_tokens_only else self._account_of(request.entry)

    def _form_account(self, form: dict[str, list[str]]) -> str | None:
        match form.get("grant_type", [""])[0]:
            case "refresh_token":
                return self.site.identity_tokens.get(form.get("refresh_token", [""])[0])
            case "password" if not self.site.quirks.identity_tokens_only:
                name, password = form.get("username", [""])[0], form.get("password", [""])[0]
                return name if name in self.site.accounts and self.site.accounts[name] == password else None
        return None

    def _account_of(self, entry: Entry) -> str | None:
        """Return whose basic credentials came."""
        found = re.fullmatch(r"(?i)basic (\S+)", entry.authorization or "")
        name, _, password = base64.b64decode(found[1]).decode().partition(":") if found else ("", "", "")
        return name if name in self.site.accounts and self.site.accounts[name] == password else None


def pairs(scope: str) -> list[tuple[str, str]]:
    """Return a scope's pairs of what and action; a name may hold a port's colon."""
    what, _, _ = scope.rpartition(":")
    return [(what, action) for action in actions_of(scope)]


def actions_of(scope: str) -> list[str]:
    """Return a scope's actions."""
    return scope.rpartition(":")[2].split(",")


def covers(held: Scopes, needed: tuple[str, ...]) -> bool:
    """Say whether a token is good for everything needed; `*` is every action."""
    return all((what, action) in held or (what, "*") in held for scope in needed for what, action in pairs(scope))
