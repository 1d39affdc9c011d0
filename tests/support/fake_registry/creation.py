"""Projects of Harbor and repositories of Docker Hub and Quay, made by their APIs as the references have them.

goharbor/harbor, api/v2.0/swagger.yaml (`createProject`: 201, 409); Docker Hub API, "Create a new repository" (201,
400); quay/quay, endpoints/api/repository.py (`createRepo`: 201, 400 for one that exists).
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.support.fake_registry.messages import Answer, Request, error, json_answer
from tests.support.fake_registry.site import Site


@dataclass
class Creation:
    """Handlers of one API, whichever `Quirks.api` says."""

    site: Site

    async def answer(self, request: Request) -> Answer | None:
        """Answer what makes something, or asks whether it is there; None for everything else."""
        api, parts = self.site.quirks.api, request.path.strip("/").split("/")
        match request.method, api, parts:
            case "POST", "harbor", ["api", "v2.0", "projects"]:
                return await self._make_project(request)
            case "POST", "docker_hub", ["v2", "namespaces", namespace, "repositories"]:
                body = json.loads(await request.read())
                return self._make(f"{namespace}/{body['name']}", body, request)
            case "POST", "quay", ["api", "v1", "repository"]:
                body = json.loads(await request.read())
                return self._make(f"{body['namespace']}/{body['repository']}", body, request)
            case "GET", "docker_hub", ["v2", "namespaces", namespace, "repositories", name]:
                return self._find(f"{namespace}/{name}")
            case "GET", "quay", ["api", "v1", "repository", *name] if name:
                return self._find("/".join(name))
            case _:
                return None

    def refuse(self, repository: str) -> Answer | None:
        """Refuse what is in no project, in the words of Harbor's."""
        project = repository.partition("/")[0]
        if not self.site.quirks.projects_needed or project in self.site.made:
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
