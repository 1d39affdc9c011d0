"""Sessions of the console: who is logged in, whether a write comes from our own pages, and how pages are answered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.api.dependencies import TheService, is_local, note_caller, peer_of
from app.api.errors import status_of
from app.console.formatting import FILTERS
from app.domain.access import Caller, Scope
from app.domain.errors import AccessError, RegistrySyncError

COOKIE = "registry_sync_session"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MAX_FORM_FIELDS = 100
_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"
_pages = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=select_autoescape(default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters.update(FILTERS)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Render a template; it knows the caller as `caller`, and what that one may as `may`."""
    caller: Caller | None = getattr(request.state, "caller", None)
    scopes = caller.scopes if caller else frozenset()
    text = _pages.get_template(template).render(
        caller=caller, may={scope.value: scope in scopes for scope in Scope}, path=request.url.path, **values
    )
    # Without a referrer browsers say `Origin: null`, and a write of ours could not be told from another page.
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    return HTMLResponse(text, status_code=status, headers=headers)


def leave_to(path: str) -> Response:
    """Answer a write: the browser goes on with a GET."""
    return RedirectResponse(path, status_code=HTTPStatus.SEE_OTHER)


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form (`application/x-www-form-urlencoded`); of several of one name the last."""
    body = (await request.body()).decode(errors="replace")
    return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))


async def known_visitor(request: Request, service: TheService) -> Caller:
    """Return who is there; raise `AccessError` for an unknown caller, or a write from another page (CSRF)."""
    if request.method not in {"GET", "HEAD"}:
        check_origin(request)
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        caller = await service.console_sessions.authenticate(cookie, address=peer_of(request))
    else:
        caller = await service.keys.admit_without_key(is_local=is_local(request))
    request.state.caller = caller
    note_caller(caller)
    caller.require(Scope.JOBS_READ)
    return caller


Visitor = Annotated[Caller, Depends(known_visitor)]


def check_origin(request: Request) -> None:
    """Raise `AccessError` for a write that our own pages did not make."""
    origin, host = request.headers.get("Origin", ""), request.headers.get("Host", "")
    is_ours = urlsplit(origin).netloc == host and bool(host)
    if not is_ours or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise AccessError("this was not sent by a page of this console", code="foreign_origin")


class ConsoleRoute(APIRoute):
    """A route that answers errors with pages: the login page where no caller is known, else the error's words."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except AccessError as error:
                if error.code in {"insufficient_scope", "foreign_origin"}:
                    return _failed(request, error, status=HTTPStatus.FORBIDDEN)
                if request.method == "GET" and "HX-Request" not in request.headers:
                    return page(request, "login.html", status=HTTPStatus.UNAUTHORIZED, problem="", why=error.message)
                answer = _failed(request, error, status=HTTPStatus.UNAUTHORIZED)
                answer.headers["HX-Refresh"] = "true"  # a live page asks again, as a page, and comes to the login
                return answer
            except RegistrySyncError as error:
                return _failed(request, error, status=status_of(error))

        return answer


def _failed(request: Request, error: RegistrySyncError, *, status: int) -> Response:
    fields = [f"{field.pointer}: {field.detail}" for field in getattr(error, "errors", ())]
    return page(request, "failed.html", status=status, code=error.code, message=error.message, fields=fields)
