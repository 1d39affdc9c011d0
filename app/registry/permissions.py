"""Who a registry takes a login for, and what that login may do there: asked without changing anything.

Sources: Distribution's "Token Authentication" specification (`sub` and `access` of a token); AWS STS API reference,
GetCallerIdentity; Harbor's API (`getCurrentUserInfo`, `getSystemInfo`); GitLab's ("Users API"), GitHub's ("Get the
authenticated user") and Quay's (`getLoggedInUser`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import structlog

from app.domain.errors import RegistryError
from app.domain.registry import AwsAuth, AzureAuth, GoogleAuth, NoAuth
from app.registry.auth.aws import AwsIdentity
from app.registry.auth.challenge import Scopes
from app.registry.auth.google import GoogleIdentity
from app.registry.auth.token_server import read_json
from app.registry.http.error_body import clean
from app.registry.http.errors import LOG_IN
from app.registry.http.message import Url
from app.registry.listing.google_api import may_create_on_google
from app.registry.listing.vendor_apis import GITHUB_API, token_of
from app.registry.quirks import quirks_of
from app.registry.requests import RegistryRequest, RequestExecutor

_log = structlog.get_logger(__name__)
_MAX_NAME = 200
_REFUSED = frozenset({"unauthorized", "denied"})
_OK, _NOT_A_PERSON = httpx.codes.OK, httpx.codes.PRECONDITION_FAILED
"""What Harbor answers to a person who asks who they are, and to a robot, which is none."""


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether something is allowed; None where that can't be said without doing it."""

    allowed: bool | None
    detail: str


async def find_identity(executor: RequestExecutor) -> str | None:
    """Return who the registry takes the entry's login for, else the name it was shown; None for an anonymous caller.

    What can't be asked is no error: the name that was shown is taken then.
    """
    if isinstance(executor.entry.auth, NoAuth):
        return None
    try:
        name = await _asked_identity(executor) or await _subject(executor)
    except RegistryError as error:
        _log.info("identity_not_asked", registry=executor.entry.registry, code=error.code)
        name = ""
    return clean(name or await _shown_name(executor), limit=_MAX_NAME) or None


async def granted_actions(executor: RequestExecutor, repository: str) -> frozenset[str] | None:
    """Return what of `pull` and `push` a token allows; None where tokens say nothing, or there are none.

    Raise `RegistryError` where none can be had, for another reason than that it is not granted.
    """
    try:
        claims = _claims(await executor.authorization(Scopes.repository(repository, "pull", "push")))
    except RegistryError as error:
        if error.code not in _REFUSED:
            raise
        return frozenset()
    granted = claims.get("access")
    if not isinstance(granted, list):
        return None
    ours = [one for one in granted if isinstance(one, dict) and one.get("name") == repository]
    lists = [one["actions"] for one in ours if isinstance(one.get("actions"), list)]
    return frozenset(action for actions in lists for action in actions if isinstance(action, str))


async def may_create(executor: RequestExecutor, repository: str) -> Permission:
    """Ask whether the login may make what a repository lacks, by an API that says so; nothing is made.

    `repository` may be a namespace, or empty where none is known.
    """
    quirks = quirks_of(executor.entry)
    try:
        match quirks.creates_by:
            case "harbor":
                return await _may_create_on_harbor(executor, quirks.creation_advice)
            case "quay" if repository and (await executor.login()).username == "$oauthtoken":
                allowed = await _may_create_on_quay(executor, repository.partition("/")[0])
                return _permission(quirks.creation_advice, allowed=allowed)
            case "google" if repository:
                allowed = await may_create_on_google(executor, repository)
                return _permission(quirks.creation_advice, allowed=allowed)
            case "nothing":
                return Permission(None, quirks.creation_advice)
            case _:
                return Permission(None, f"it can't be asked without doing it; {quirks.creation_advice}")
    except RegistryError as error:
        return Permission(None, f"it could not be asked: {error.message}")


def _permission(advice: str, *, allowed: bool | None) -> Permission:
    if allowed is None:
        return Permission(None, f"it can't be asked for this login; {advice}")
    return Permission(allowed, "it may make what is missing" if allowed else advice)


async def _asked_identity(executor: RequestExecutor) -> str:
    """Ask an API that says who one is; empty where there is none for such a login."""
    auth, login = executor.entry.auth, await executor.login()
    if isinstance(auth, AwsAuth):
        return await AwsIdentity(executor.entry, auth).get_caller()
    if isinstance(auth, GoogleAuth):
        return auth.service_account or await GoogleIdentity(executor.entry, auth).get_caller()
    match quirks_of(executor.entry).identifies_by:
        case "login":
            return login.username
        case "harbor":
            return str((await _harbor_user(executor) or {}).get("username", ""))
        case "gitlab" if login.password and login.username != "gitlab-ci-token":
            server = await executor.token_server()
            url = (server.realm if server else executor.home).with_target("/api/v4/user")
            return _text(await _ask(executor, url, {"PRIVATE-TOKEN": token_of(executor, login)}), "username")
        case "github" if login.password:
            is_hub = executor.entry.registry == "ghcr.io"
            url = (Url.parse(GITHUB_API) if is_hub else executor.home).with_target("/user")
            return _text(await _ask(executor, url, {"Authorization": f"Bearer {token_of(executor, login)}"}), "login")
        case "quay" if login.username == "$oauthtoken":
            return _text(await _quay_user(executor), "username")
        case _:
            return ""


async def _subject(executor: RequestExecutor) -> str:
    """Return whom the registry's own token is for, where it can be read."""
    return _text(_claims(await executor.authorization(Scopes())), "sub")


async def _shown_name(executor: RequestExecutor) -> str:
    auth = executor.entry.auth
    if isinstance(auth, AzureAuth):
        return auth.client_id or ""
    return (await executor.login()).username


async def _may_create_on_harbor(executor: RequestExecutor, advice: str) -> Permission:
    user = await _harbor_user(executor)
    if user is None:
        return _permission(advice, allowed=None)
    if user.get("sysadmin_flag") is True:
        return _permission(advice, allowed=True)
    url = executor.home.with_target("/api/v2.0/systeminfo")
    who = (await _ask(executor, url, {"Authorization": (await executor.login()).basic})).get(
        "project_creation_restriction"
    )
    return _permission(advice, allowed=None if who is None else who == "everyone")


async def _harbor_user(executor: RequestExecutor) -> dict[str, Any] | None:
    """Return the person that Harbor knows the login as; None for a robot."""
    login = await executor.login()
    if not login.password:
        return None
    url = executor.home.with_target("/api/v2.0/users/current")
    request = _request(url, {"Authorization": login.basic}, expects=frozenset({_OK, _NOT_A_PERSON}))
    answer = await executor.fetch(request)
    return read_json(answer.body) if answer.status == _OK else None


async def _may_create_on_quay(executor: RequestExecutor, namespace: str) -> bool | None:
    user = await _quay_user(executor)
    if user.get("username") == namespace:
        return True
    organizations = user.get("organizations")
    if not isinstance(organizations, list):
        return None
    ours = [one for one in organizations if isinstance(one, dict) and one.get("name") == namespace]
    return any(one.get("can_create_repo") is True for one in ours)


async def _quay_user(executor: RequestExecutor) -> dict[str, Any]:
    login = await executor.login()
    url = executor.home.with_target("/api/v1/user/")
    return await _ask(executor, url, {"Authorization": f"Bearer {token_of(executor, login)}"})


async def _ask(executor: RequestExecutor, url: Url, login: dict[str, str]) -> dict[str, Any]:
    return read_json((await executor.fetch(_request(url, login, expects=frozenset({_OK})))).body)


def _request(url: Url, login: dict[str, str], *, expects: frozenset[int]) -> RegistryRequest:
    headers = {"Accept": "application/json"}
    return RegistryRequest(
        operation=LOG_IN, method="GET", url=url, scopes=Scopes(), expects=expects, headers=headers, login=login
    )


def _claims(header: str | None) -> dict[str, Any]:
    """Read what a token of the registry's says of itself; the registry checks it, not we."""
    kind, _, token = (header or "").partition(" ")
    if kind != "Bearer":
        return {}
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return {}


def _text(document: dict[str, Any], name: str) -> str:
    found = document.get(name)
    return found if isinstance(found, str) else ""
