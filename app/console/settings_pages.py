"""Pages about what is set up: policies, registries, push events, notifications, keys and the audit log."""

from __future__ import annotations

from typing import Any

import yaml
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from app.api.dependencies import TheService, peer_of
from app.api.schemas.policies import PolicyIn
from app.api.schemas.registries import RegistryIn
from app.console.session import COOKIE, ConsoleRoute, Visitor, check_origin, form_of, leave_to, page
from app.domain.access import Caller, Scope
from app.domain.audit import AuditFilter
from app.domain.errors import AccessError, ConflictError, InvalidRequestError
from app.domain.hook_event import HookEventFilter
from app.domain.job import JobFilter
from app.domain.notification import DeliveryFilter
from app.domain.page import PageRequest
from app.services.check_requests import CheckRequest
from app.services.console_sessions import LIFETIME

ON_A_PAGE = 50
RUNS_SHOWN = 30
NEW_POLICY = """rules:
  - source: docker.io/library/alpine
    destination: registry.example.com/library/alpine
    tags: {include: ["semver:>=3.20"]}
schedule: {cron: "15 3 * * *", timezone: UTC}
"""

router = APIRouter(prefix="/console", route_class=ConsoleRoute, include_in_schema=False)


@router.get("/login")
async def show_login(request: Request) -> Response:
    """Show the form for an API key."""
    return page(request, "login.html", problem="", why="")


@router.post("/login")
async def log_in(request: Request, service: TheService) -> Response:
    """Open a session for an API key."""
    check_origin(request)
    try:
        cookie = await service.console_sessions.open(
            (await form_of(request)).get("key", "").strip(), address=peer_of(request)
        )
    except AccessError as error:
        return page(request, "login.html", status=401, problem=error.message, why="")
    answer = leave_to("/console/")
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(LIFETIME.total_seconds()),
        path="/console",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session of this browser."""
    check_origin(request)
    answer = leave_to("/console/login")
    answer.delete_cookie(COOKIE, path="/console")
    return answer


# --- policies ---------------------------------------------------------------------------------------------------------


@router.get("/policies")
async def list_policies(request: Request, caller: Visitor, service: TheService, *, cursor: str = "") -> Response:
    """List policies, a page at a time."""
    found = await service.policies.list(PageRequest(limit=ON_A_PAGE, cursor=cursor or None), caller=caller)
    return page(request, "policies.html", policies=found.items, next=found.next_cursor)


@router.get("/new-policy")
async def new_policy(request: Request, caller: Visitor) -> Response:
    """Show the form of a new policy."""
    caller.require(Scope.POLICIES_WRITE)
    return page(request, "new_policy.html", name="", text=NEW_POLICY, problems=[])


@router.post("/new-policy")
async def make_policy(request: Request, caller: Visitor, service: TheService) -> Response:
    """Make a policy of its name and its text; one that is there stays as it is."""
    caller.require(Scope.POLICIES_WRITE)
    form = await form_of(request)
    name, text = form.get("name", "").strip(), form.get("text", "")
    try:
        policy = PolicyIn.model_validate(yaml.safe_load(text)).policy(name)
        await service.policies.put(policy, expected_version=None, caller=caller, has_to_be_new=True)
    except (ValidationError, InvalidRequestError, ConflictError, yaml.YAMLError) as error:
        status = 409 if isinstance(error, ConflictError) else 422
        return page(request, "new_policy.html", status=status, name=name, text=text, problems=_problems(error))
    return leave_to(f"/console/policies/{name}")


@router.get("/policies/{name}")
async def show_policy(request: Request, name: str, *, caller: Visitor, service: TheService) -> Response:
    """Show a policy, its last runs, and its text to edit."""
    return page(request, "policy.html", **await _policy(service, name, caller), problems=[], plan=None)


@router.post("/policies/{name}")
async def change_policy(request: Request, name: str, *, caller: Visitor, service: TheService) -> Response:
    """Run, preview, pause or rewrite a policy."""
    form = await form_of(request)
    caller.require(Scope.JOBS_SUBMIT if form.get("action") in {"run", "preview"} else Scope.POLICIES_WRITE)
    stored = await service.policies.get(name, caller=caller)
    match form.get("action"):
        case "run":
            submission = await service.policies.run(name, caller=caller)
            return leave_to(f"/console/jobs/{submission.job.id}")
        case "preview":
            plan = await service.previews.preview(stored.policy.request, caller=caller)
            return page(request, "policy.html", **await _policy(service, name, caller), problems=[], plan=plan)
        case "pause" | "resume" as action:
            policy = stored.policy.model_copy(update={"enabled": action == "resume"})
            await service.policies.put(policy, expected_version=stored.version, caller=caller)
        case "save":
            try:
                document = yaml.safe_load(form.get("text", ""))
                policy = PolicyIn.model_validate(document).policy(name)
                version = form.get("version", "")
                expected = int(version) if version.isdecimal() else stored.version
                await service.policies.put(policy, expected_version=expected, caller=caller)
            except (ValidationError, InvalidRequestError, yaml.YAMLError) as error:
                shown = await _policy(service, name, caller) | {"text": form.get("text", "")}
                return page(request, "policy.html", status=422, **shown, problems=_problems(error), plan=None)
        case _:
            pass
    return leave_to(f"/console/policies/{name}")


async def _policy(service: TheService, name: str, caller: Caller) -> dict[str, Any]:
    stored = await service.policies.get(name, caller=caller)
    runs = await service.jobs.list(JobFilter(policy=name), PageRequest(limit=RUNS_SHOWN), caller=caller)
    document = stored.policy.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    return {
        "stored": stored,
        "policy": stored.policy,
        "runs": runs.items,
        "text": yaml.safe_dump(document, sort_keys=False, allow_unicode=True),
    }


# --- registries -------------------------------------------------------------------------------------------------------


@router.get("/registries")
async def list_registries(request: Request, caller: Visitor, service: TheService) -> Response:
    """List registries and how they stand."""
    return page(request, "registries.html", **await _registries(service, caller), problems=[], form={})


@router.post("/registries")
async def add_registry(request: Request, caller: Visitor, service: TheService) -> Response:
    """Enter a registry."""
    caller.require(Scope.REGISTRIES_WRITE)
    form = await form_of(request)
    name = form.get("name", "").strip()
    entry: dict[str, Any] = {
        "host": form.get("host", "").strip(),
        "type": form.get("type", "auto"),
        "insecure": form.get("insecure") == "on",
    }
    if ends_on := form.get("login_expires_at", "").strip():
        entry["login_expires_at"] = f"{ends_on}T00:00:00Z"
    if username := form.get("username", "").strip():
        entry["auth"] = {"type": "basic", "username": username, "password": form.get("password", "")}
    try:
        made = RegistryIn.model_validate({"name": name, **entry}).entry(name)
        await service.registries.put(made, expected_version=None, caller=caller)
    except (ValidationError, InvalidRequestError) as error:
        shown = await _registries(service, caller)
        form.pop("password", None)
        return page(request, "registries.html", status=422, **shown, problems=_problems(error), form=form)
    return leave_to("/console/registries")


@router.post("/registries/{name}/check")
async def check_registry(request: Request, name: str, *, caller: Visitor, service: TheService) -> Response:
    """Check a registry, and show what works."""
    caller.require(Scope.REGISTRIES_WRITE)
    form = await form_of(request)
    wanted = CheckRequest(form.get("repository", "").strip() or None, is_pushing=form.get("push") == "on")
    try:
        check = await service.checks.check(name, wanted, caller=caller)
    except InvalidRequestError as error:
        shown = {"check": None, "problems": _problems(error)}
        return page(request, "check.html", status=422, name=name, form=form, **shown)
    return page(request, "check.html", name=name, form=form, check=check, problems=[])


async def _registries(service: TheService, caller: Caller) -> dict[str, Any]:
    states = await service.registries.get_states()
    stored = await service.registries.list(caller=caller)
    return {"registries": [(one, states.get(one.entry.name)) for one in stored]}


# --- push events, notifications, access -------------------------------------------------------------------------------


@router.get("/events")
async def list_events(request: Request, caller: Visitor, service: TheService, *, cursor: str = "") -> Response:
    """List push events and what became of them, and the subscriptions that are notified."""
    found = await service.push_events.list(
        HookEventFilter(), PageRequest(limit=ON_A_PAGE, cursor=cursor or None), caller=caller
    )
    subscriptions = await service.subscriptions.list() if Scope.HOOKS in caller.scopes else ()
    return page(request, "events.html", events=found.items, next=found.next_cursor, subscriptions=subscriptions)


@router.get("/subscriptions/{name}")
async def show_subscription(
    request: Request, name: str, *, caller: Visitor, service: TheService, cursor: str = ""
) -> Response:
    """Show a subscription and its deliveries."""
    caller.require(Scope.HOOKS)
    stored = await service.subscriptions.get(name)
    wanted = PageRequest(limit=ON_A_PAGE, cursor=cursor or None)
    found = await service.subscriptions.list_deliveries(name, DeliveryFilter(), wanted)
    return page(request, "subscription.html", stored=stored, deliveries=found.items, next=found.next_cursor)


@router.post("/subscriptions/{name}")
async def send_again(request: Request, name: str, *, caller: Visitor, service: TheService) -> Response:
    """Send a test, or a delivery once more."""
    caller.require(Scope.HOOKS)
    form = await form_of(request)
    if delivery := form.get("delivery"):
        await service.subscriptions.redeliver(name, delivery)
    else:
        await service.subscriptions.test(name)
    return leave_to(f"/console/subscriptions/{name}")


@router.get("/access")
async def show_access(request: Request, caller: Visitor, service: TheService, *, cursor: str = "") -> Response:
    """List API keys and the audit log."""
    caller.require(Scope.AUDIT)
    caller.require(Scope.KEYS)
    wanted = PageRequest(limit=ON_A_PAGE, cursor=cursor or None)
    found = await service.audit.list(AuditFilter(), wanted)
    return page(request, "access.html", keys=await service.keys.list(), entries=found.items, next=found.next_cursor)


def _problems(error: ValidationError | InvalidRequestError | ConflictError | yaml.YAMLError) -> list[str]:
    match error:
        case ValidationError():
            return [f"{'.'.join(map(str, one['loc'])) or 'text'}: {one['msg']}" for one in error.errors()]
        case InvalidRequestError():
            return [f"{one.pointer}: {one.detail}" for one in error.errors] or [error.message]
        case ConflictError():
            return [f"name: {error.message}; it is changed on its own page"]
        case _:
            return [f"text: {error}"]
