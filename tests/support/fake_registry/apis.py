"""The APIs by which Docker Hub, GitHub, Google, Harbor, Quay and GitLab list repositories, as in their references."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from tests.support.fake_registry.lists import ENDLESS_PAGE, Lists
from tests.support.fake_registry.messages import Answer, Request, error, json_answer
from tests.support.fake_registry.site import Site

MOST_ON_A_PAGE = 100
_WHO = frozenset({"/api/v2.0/users/current", "/api/v4/user", "/api/v1/user/", "/user"})


@dataclass
class Apis:
    """Handlers of one API, whichever `Quirks.api` says."""

    site: Site
    lists: Lists

    async def log_in(self, request: Request) -> Answer:
        """Answer `POST /v2/auth/token` (Docker Hub, "Create access token")."""
        body = json.loads(await request.read())
        request.entry.body_secrets = ("secret",)
        name = body["identifier"]
        if self.site.quirks.api != "docker_hub" or self.site.accounts.get(name) != body["secret"]:
            return json_answer({"detail": f"Incorrect authentication credentials for {name}"}, status=401)
        return json_answer({"access_token": f"hub-{name}"})

    def list(self, request: Request) -> Answer:
        """Answer a list of repositories."""
        quirks = self.site.quirks
        if quirks.api_status is not None:
            return error(quirks.api_status, "UNKNOWN", "the API would rather not")
        account = self._account(request)
        if request.path in _WHO:
            return self._current(account)
        if request.path == "/api/v2.0/systeminfo":
            return json_answer({"project_creation_restriction": quirks.harbor_makers})
        if account is None and quirks.api_serves_strangers:
            account = ""
        if account is None:
            return error(401, "UNAUTHORIZED", "no such login")
        if quirks.api == "google" and not request.path.endswith("/packages"):
            return self._google_repositories(request)
        prefix = self._prefix(request)
        if prefix is None:
            return error(404, "NOT_FOUND", "nothing of that name")
        held = sorted(name for name in self.site.content.repositories if f"{name}/".startswith(prefix))
        names = [name for name in held if account or name not in quirks.api_private]
        return self._answer(request, [*map(self._item, names), *quirks.api_extra])

    def _current(self, account: str | None) -> Answer:
        """Answer who asks; to Harbor robots are nobody, though they are known."""
        if not account:
            return error(401, "UNAUTHORIZED", "unauthorized")
        if account.startswith("robot$"):
            return error(412, "PRECONDITION", "get current user not available for security context: robot")
        organizations = [{"name": name, "can_create_repo": name == "team"} for name in ("team", "other")]
        name = {"login": account} if self.site.quirks.api == "github" else {"username": account}
        return json_answer({**name, "sysadmin_flag": account == "admin", "organizations": organizations})

    def _prefix(self, request: Request) -> str | None:
        """Return what the names of the repositories begin with; None for a path that is nowhere."""
        match self.site.quirks.api, request.path.strip("/").split("/"):
            case "docker_hub", ["v2", "namespaces", namespace, "repositories"]:
                return f"{namespace}/"
            case "harbor", ["api", "v2.0", "projects", project, "repositories"]:
                return f"{project}/"
            case "harbor", ["api", "v2.0", "repositories"]:
                return ""
            case "quay", ["api", "v1", "repository"]:
                return f"{request.query['namespace']}/"
            case "github", [kind, owner, "packages"]:
                is_person = owner in self.site.quirks.github_people
                return f"{owner}/" if (kind == "users") == is_person else None
            case "google", ["v1", "projects", project, "locations", _, "repositories", name, "packages"]:
                return f"{project.replace(':', '/')}/{name}/"
            case "gitlab", ["api", "v4", *_]:
                return self._gitlab_prefix(request)
            case _:
                return None

    def _google_repositories(self, request: Request) -> Answer:
        """List the repositories of a project; one is for other things than images."""
        place = request.path.strip("/").removeprefix("v1/")
        project = place.split("/")[1]
        held = [name.split("/") for name in self.site.content.repositories if name.startswith(f"{project}/")]
        names = sorted({parts[1] for parts in held})
        found = [{"name": f"{place}/{name}", "format": "DOCKER"} for name in names]
        return json_answer({"repositories": [*found, {"name": f"{place}/jars", "format": "MAVEN"}]})

    def _gitlab_prefix(self, request: Request) -> str | None:
        projects = self.site.quirks.gitlab_projects
        kind, path = request.raw_path.removeprefix("/api/v4/").removesuffix("/registry/repositories").split("/")
        path = unquote(path)
        is_there = path in projects if kind == "projects" else any(name.startswith(f"{path}/") for name in projects)
        return f"{path}/" if is_there else None

    def _account(self, request: Request) -> str | None:
        """Return who asks: a name, nobody (empty), or None for a login that is wrong or of a kind the API lacks."""
        kind, _, shown = (request.header("authorization") or "").partition(" ")
        accounts = self.site.accounts
        match self.site.quirks.api:
            case "harbor":
                expected = {self.site.basic(name): name for name in accounts}
                return expected.get(f"{kind} {shown}") if shown else ""
            case "docker_hub":
                hub_tokens = {f"hub-{name}": name for name in accounts}
                return hub_tokens.get(shown) if shown else ""
            case "github":
                return next((name for name in accounts if shown and accounts[name] == shown), None)
            case "google":
                return "oauth2accesstoken" if shown and accounts.get("oauth2accesstoken") == shown else None
            case "quay":
                return "$oauthtoken" if shown and accounts.get("$oauthtoken") == shown else None if shown else ""
            case _:
                job = request.header("job-token")
                token = request.header("private-token")
                if job is not None:
                    return "gitlab-ci-token" if accounts.get("gitlab-ci-token") == job else None
                return next((name for name in accounts if accounts[name] == token), None) if token else ""

    def _item(self, name: str) -> dict[str, Any]:
        match self.site.quirks.api:
            case "harbor":
                return {"id": 1, "name": name, "artifact_count": 1}
            case "google":
                project, repository, package = name.split("/", 2)
                place = f"projects/{project}/locations/here/repositories/{repository}"
                return {"name": f"{place}/packages/{quote(package, safe='')}"}
            case "github":
                return {"id": 1, "name": name.partition("/")[2], "package_type": "container", "visibility": "private"}
            case "gitlab":
                return {"id": 1, "name": "", "path": name, "location": f"registry.example.com/{name}"}
            case _:
                namespace, _, rest = name.partition("/")
                return {"namespace": namespace, "name": rest, "is_private": False, "is_public": True}

    def _answer(self, request: Request, items: Sequence[Any]) -> Answer:
        quirks = self.site.quirks
        sizes = [int(request.query[name]) for name in ("page_size", "per_page", "pageSize") if name in request.query]
        size = min([*sizes, quirks.page_cap or MOST_ON_A_PAGE])
        number = int(request.query.get("page") or _token(request).partition("=")[2])
        page = list(items[(number - 1) * size : number * size])
        is_last = number * size >= len(items)
        if quirks.endless:
            page, is_last = [self._item(f"team/endless-{number}-{one}") for one in range(ENDLESS_PAGE)], False
        following = "" if is_last else self.lists.next_url(request, {"page": str(number + 1), "page_size": str(size)})
        match quirks.api:
            case "docker_hub":
                return json_answer({"count": len(items), "next": following or None, "results": page})
            case "google":
                more = {} if is_last else {"nextPageToken": f"opaque={number + 1}"}
                return json_answer({"packages": page} | more)
            case "quay":
                return json_answer({"repositories": page} | ({} if is_last else {"next_page": f"opaque={number + 1}"}))
            case _:
                answer = json_answer(page or None if quirks.api == "harbor" else page)
                answer.headers += [("Link", f'<{following}>; rel="next"')] if following else []
                return answer


def _token(request: Request) -> str:
    return request.query.get("next_page") or request.query.get("pageToken") or "opaque=1"
