"""Projects of Harbor and repositories of Docker Hub, Google and Quay, made by their APIs as the references have them.

goharbor/harbor, api/v2.0/swagger.yaml (`createProject`: 201, 409; `getProject`; `ListImmuRules`; `CreateImmuRule`: 201,
409; `createRetention`: 201, 400 where the project has one); Docker Hub API, "Create a new repository" (201,
400); Artifact Registry REST, `projects.locations.repositories.create` (an operation, 409); Resource Manager REST,
`projects.testIamPermissions`; quay/quay, endpoints/api/repository.py (`createRepo`: 201, 400 for one that exists,
403 for one in no organization) and organization.py (`createOrganization`: 201, 400).
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.fake_registry.messages import Answer, Request, error, json_answer
from tests.support.fake_registry.site import Site

OK = 200


@dataclass
class Creation:
    """Handlers of one API, whichever `Quirks.api` says."""

    site: Site
    operations: dict[str, int] = field(default_factory=dict)
    """Google's, and how often each is asked for until it is done."""

    async def answer(self, request: Request) -> Answer | None:
        """Answer what makes something, or asks whether it is there; None for everything else."""
        api, parts = self.site.quirks.api, request.path.strip("/").split("/")
        match request.method, api, parts:
            case "POST", "harbor", ["api", "v2.0", "projects"]:
                return await self._make_project(request)
            case _, "harbor", ["api", "v2.0", "projects", project, *rest] if rest in ([], ["immutabletagrules"]):
                return await self._project(request, project, rest)
            case "POST", "harbor", ["api", "v2.0", "retentions"]:
                return await self._make_retention(request)
            case "POST", "docker_hub", ["v2", "namespaces", namespace, "repositories"]:
                body = json.loads(await request.read())
                return self._make(f"{namespace}/{body['name']}", body, request)
            case "POST", "quay", ["api", "v1", "repository"]:
                body = json.loads(await request.read())
                if self._organization(body["namespace"]).status != OK:
                    return error(403, "insufficient_scope", "Unauthorized")
                return self._make(f"{body['namespace']}/{body['repository']}", body, request)
            case "POST", "quay", ["api", "v1", "organization"]:
                body = json.loads(await request.read())
                return self._make(body["name"], body, request)
            case "GET", "quay", ["api", "v1", "organization", name]:
                return self._organization(name)
            case _, "google", ["v1", "projects", *rest]:
                return await self._google(request, rest)
            case "GET", "docker_hub", ["v2", "namespaces", namespace, "repositories", name]:
                return self._find(f"{namespace}/{name}")
            case "GET", "quay", ["api", "v1", "repository", *name] if name:
                return self._find("/".join(name))
            case _:
                return None

    async def _google(self, request: Request, rest: list[str]) -> Answer | None:
        right = "artifactregistry.repositories.create"
        is_maker = not self.site.quirks.creation_refused and (request.header("authorization") or "").startswith(
            "Bearer"
        )
        match request.method, rest:
            case "POST", [_] if rest[0].endswith(":testIamPermissions"):
                asked = json.loads(await request.read())["permissions"]
                return json_answer({"permissions": asked} if is_maker else {})
            case "POST", [project, "locations", location, "repositories"] if not is_maker:
                message = f"Permission '{right}' denied on resource '//{project}/{location}' (or it may not exist)."
                refusal = {"code": 403, "message": message, "status": "PERMISSION_DENIED"}
                return json_answer({"error": refusal}, status=403)
            case "POST", [project, "locations", location, "repositories"]:
                name = f"{project.replace(':', '/')}/{request.query['repositoryId']}"
                if name in self.site.made:
                    return json_answer({"error": {"code": 409, "status": "ALREADY_EXISTS"}}, status=409)
                self.site.made[name] = json.loads(await request.read())
                operation = f"projects/{project}/locations/{location}/operations/{len(self.operations)}"
                self.operations[operation] = 2
                return json_answer({"name": operation})
            case "GET", [_, "locations", _, "operations", _]:
                name = "/".join(["projects", *rest])
                self.operations[name] -= 1
                return json_answer({"name": name, "done": self.operations[name] == 0})
            case _:
                return None

    def _organization(self, name: str) -> Answer:
        is_there = name in self.site.quirks.quay_organizations or name in self.site.made
        return json_answer({"name": name} if is_there else {"message": "not found"}, status=200 if is_there else 404)

    def refuse(self, repository: str) -> Answer | None:
        """Refuse what is in no project, in the words of Harbor's, or in no repository, in Google's."""
        if not self.site.quirks.projects_needed:
            return None
        project = repository.partition("/")[0]
        if self.site.quirks.api == "google":
            name = "/".join(repository.split("/")[: 3 if "." in project else 2])
            there = name in self.site.made
            return None if there else error(404, "NAME_UNKNOWN", f'Repository "{name}" not found')
        if project in self.site.made:
            return None
        return error(401, "UNAUTHORIZED", f"project {project} not found")

    async def _make_project(self, request: Request) -> Answer:
        body = json.loads(await request.read())
        project = body["project_name"]
        if refusal := self._refuse_maker(request):
            return refusal
        if project in self.site.made:
            return error(409, "CONFLICT", f"The project named {project} already exists")
        self.site.made[project] = body
        return Answer(201)

    async def _project(self, request: Request, name: str, rest: list[str]) -> Answer | None:
        if name not in self.site.made or request.header("x-is-resource-name") != "true":
            return error(404, "NOT_FOUND", f"project {name} not found")
        rules = self.site.rules.get(name, [])
        match request.method, rest:
            case "GET", []:
                retention = {"retention_id": "1"} if name in self.site.retentions else {}
                number = [*self.site.made].index(name) + 1
                return json_answer({"project_id": number, "name": name, "metadata": {"public": "false", **retention}})
            case "GET", ["immutabletagrules"]:
                return json_answer(rules)
            case "POST", ["immutabletagrules"] if self.site.quirks.harbor_rules_refused:
                return error(403, "FORBIDDEN", "forbidden")
            case "POST", ["immutabletagrules"] if rules:
                return error(409, "CONFLICT", "the immutable rule already exists")
            case "POST", ["immutabletagrules"]:
                self.site.rules[name] = [json.loads(await request.read())]
                return Answer(201)
            case _:
                return None

    async def _make_retention(self, request: Request) -> Answer:
        body = json.loads(await request.read())
        name = [*self.site.made][body["scope"]["ref"] - 1]
        if name in self.site.retentions:
            return error(400, "BAD_REQUEST", f"project {name} already has retention policy 1")
        self.site.retentions[name] = body
        return Answer(201)

    def _make(self, name: str, body: dict[str, Any], request: Request) -> Answer:
        if refusal := self._refuse_maker(request):
            return refusal
        if self._is_there(name):
            return json_answer({"message": "Repository already exists"}, status=400)
        self.site.made[name] = body
        return json_answer({"name": name}, status=201)

    def _refuse_maker(self, request: Request) -> Answer | None:
        if self.site.quirks.creation_refused or not request.header("authorization"):
            return error(403, "FORBIDDEN", "forbidden")
        return None

    def _find(self, name: str) -> Answer:
        is_there = self._is_there(name)
        return json_answer({"name": name} if is_there else {"message": "not found"}, status=200 if is_there else 404)

    def _is_there(self, name: str) -> bool:
        return name in self.site.made or name in self.site.content.repositories
