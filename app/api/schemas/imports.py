"""Imports: other tools' configuration, and the policies and registries it becomes."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.api.schemas.policies import POLICY_NAME_PATTERN, POLICY_SEEN, PolicyFieldsOut
from app.api.schemas.registries import REGISTRY_SEEN, RegistryFieldsOut, shown_entry
from app.domain.request import Options, Rule
from app.importers.document import unreadable
from app.importers.dregsy import read_dregsy
from app.importers.harbor import read_harbor
from app.importers.image_list import read_image_list
from app.importers.image_syncer import ImageSyncerFlags, read_image_syncer
from app.importers.kubernetes import read_kubernetes
from app.importers.regsync import read_regsync
from app.importers.result import ImportResult
from app.importers.skopeo import SkopeoFlags, read_skopeo
from app.services.importing import Import

ImportFormat = Literal["image-syncer", "skopeo", "regsync", "list", "kubernetes", "harbor", "dregsy"]
ImportAs = Literal["policies", "job"]
IMAGE_SYNCER: dict[str, Any] = {
    "images": "quay.io/coreos/kube-rbac-proxy:v1.0,v2.0: registry.example.com/mirror/kube-rbac-proxy\n",
    "auth": {"registry.example.com": {"username": "pusher", "password": "${MIRROR_PASSWORD}"}},
    "environment": {"MIRROR_PASSWORD": "…"},
}
SKOPEO: dict[str, Any] = {
    "config": "registry.example.com:\n  images:\n    busybox: []\n    redis: ['7']\n",
    "destination": "mirror.example.com/library",
    "all": True,
}
REGSYNC: dict[str, Any] = {
    "config": "version: 1\nsync:\n  - source: busybox\n    target: registry.example.com/library/busybox\n"
    "    type: repository\n    schedule: '15 01 * * *'\n",
    "environment": {},
}
LIST: dict[str, Any] = {
    "config": "# one image a line, or a source and its destination\nredis:7\nquay.io/coreos/etcd:v3.5.9\n",
    "destination": "registry.example.com/mirror/{repository}",
    "as": "job",
}
KUBERNETES: dict[str, Any] = {
    "config": "kind: Pod\nspec:\n  containers:\n    - image: nginx:1.27\n",
    "destination": "registry.example.com/mirror/{registry}/{repository}",
}
HARBOR: dict[str, Any] = {
    "config": [
        {
            "name": "to-the-edge",
            "dest_registry": {"id": 1, "name": "edge", "type": "harbor", "url": "https://edge.example.com"},
            "dest_namespace": "mirror",
            "dest_namespace_replace_count": 1,
            "filters": [{"type": "name", "value": "library/**"}, {"type": "tag", "value": "v*"}],
            "trigger": {"type": "scheduled", "trigger_settings": {"cron": "0 0 3 * * *"}},
            "override": True,
            "enabled": True,
        }
    ],
    "host": "harbor.example.com",
}
DREGSY: dict[str, Any] = {
    "config": "tasks:\n  - name: nightly\n    interval: 86400\n    source: {registry: registry.example.com}\n"
    "    target: {registry: mirror.example.com}\n    mappings:\n      - {from: team/app, tags: ['semver: >=1.0.0']}\n",
}
_IMPORTED: dict[str, Any] = {
    "dry_run": True,
    "policies": [
        {
            name: value
            for name, value in POLICY_SEEN.items()
            if name not in {"next_run_at", "last_job", "created_at", "updated_at", "version"}
        }
    ],
    "jobs": [],
    "registries": [
        {
            name: value
            for name, value in REGISTRY_SEEN.items()
            if name not in {"state", "created_at", "updated_at", "version"}
        }
    ],
    "notes": [
        {
            "kind": "differs",
            "code": "docker_hub_name",
            "file": "images",
            "path": "library/nginx",
            "line": 3,
            "reason": "image-syncer takes 'library' for a registry; here this is docker.io/library/nginx",
        }
    ],
}


def _as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


FileText = Annotated[
    str,
    BeforeValidator(_as_text),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array", "items": {}}],
            "description": "YAML or JSON, as text; or the JSON itself.",
        }
    ),
]
Environment = Annotated[
    dict[str, str],
    Field(max_length=1_000, description="What the files' `${NAME}` stand for; nothing else is looked up."),
]


class _In(BaseModel, ABC):
    model_config = ConfigDict(extra="forbid")

    tool: ClassVar[str]
    expected: ClassVar[str]
    """What a file has to hold, so that there is anything to take over."""

    name: str | None = Field(
        default=None,
        pattern=POLICY_NAME_PATTERN,
        max_length=57,
        description="What to call the policy; else as the tool.",
    )
    as_: ImportAs = Field(
        default="policies",
        alias="as",
        description="`job`: what the rules say is done once, now, by a job for all rules with the same options.",
    )

    def read(self) -> ImportResult:
        """Read the files; raise `InvalidRequestError` where nothing is in them."""
        found = self._read()
        if found.is_empty:
            raise unreadable(self.tool, f"there is nothing in it to take over; expected is {self.expected}")
        return found

    @abstractmethod
    def _read(self) -> ImportResult:
        """Read the files, whatever is in them."""


class ImageSyncerIn(_In):
    """image-syncer's files, and those of its flags that decide what is copied."""

    model_config = ConfigDict(json_schema_extra={"examples": [IMAGE_SYNCER]})
    tool = "image-syncer"
    expected = "a mapping from sources to destinations, such as `redis:7: registry.example.com/redis`"

    images: FileText
    auth: FileText = Field(default_factory=str)
    environment: Environment = Field(default_factory=dict)
    os: list[str] = Field(default_factory=list, max_length=32, description="Values of the flag `--os`.")
    arch: list[str] = Field(default_factory=list, max_length=32, description="Values of the flag `--arch`.")

    def _read(self) -> ImportResult:
        return read_image_syncer(
            self.images,
            auth=self.auth,
            environment=self.environment,
            flags=ImageSyncerFlags(tuple(self.os), tuple(self.arch)),
            name=self.name or "image-syncer",
        )


class SkopeoIn(_In):
    """The file of `skopeo sync --src yaml`, and what stood on its command line."""

    model_config = ConfigDict(json_schema_extra={"examples": [SKOPEO]})
    tool = "skopeo"
    expected = "a mapping from registries to their `images`, `images-by-tag-regex` or `images-by-semver`"

    config: FileText
    destination: str = Field(min_length=1, max_length=512, description="The destination that `skopeo sync` was given.")
    scoped: bool = Field(default=False, description="Whether the flag `--scoped` was given.")
    all: bool = Field(default=False, description="Whether the flag `--all` was given.")
    platform: str = Field(default="linux/amd64", max_length=64, description="Where skopeo ran, without `--all`.")
    append_suffix: str = Field(default="", max_length=128, description="Value of the flag `--append-suffix`.")

    def _read(self) -> ImportResult:
        flags = SkopeoFlags(
            destination=self.destination,
            scoped=self.scoped,
            all_platforms=self.all,
            platform=self.platform,
            append_suffix=self.append_suffix,
        )
        return read_skopeo(self.config, flags=flags, name=self.name or "skopeo")


class RegsyncIn(_In):
    """regsync's configuration."""

    model_config = ConfigDict(json_schema_extra={"examples": [REGSYNC]})
    tool = "regsync"
    expected = "a list `sync` of entries with `source`, `target` and `type`"

    config: FileText
    environment: Environment = Field(default_factory=dict)

    def _read(self) -> ImportResult:
        return read_regsync(self.config, environment=self.environment, name=self.name or "regsync")


Template = Annotated[
    str,
    Field(max_length=512, description="Where images go; without template words the repository's path is put below it."),
]


class ImageListIn(_In):
    """One image a line, or a source and its destination; `#` begins a comment."""

    model_config = ConfigDict(json_schema_extra={"examples": [LIST]})
    tool = "list"
    expected = "one image a line, such as redis:7"

    config: str
    destination: Template = ""

    def _read(self) -> ImportResult:
        return read_image_list(self.config, destination=self.destination, name=self.name or "list")


class KubernetesIn(_In):
    """What `kubectl get pods -A -o json` says, or manifests as YAML, of a chart as `helm template` renders them."""

    model_config = ConfigDict(json_schema_extra={"examples": [KUBERNETES]})
    tool = "kubernetes"
    expected = "objects with `containers` that have an `image`, such as `kubectl get pods -A -o json` says"

    config: FileText
    destination: Template

    def _read(self) -> ImportResult:
        return read_kubernetes(self.config, destination=self.destination, name=self.name or "kubernetes")


class HarborIn(_In):
    """Harbor's replication policies, as its API gives them."""

    model_config = ConfigDict(json_schema_extra={"examples": [HARBOR]})
    tool = "harbor"
    expected = "a list of replication policies, as `GET /api/v2.0/replication/policies` answers it"

    config: FileText
    registries: FileText | None = Field(default=None, description="`GET /api/v2.0/registries`, for their addresses.")
    host: str = Field(min_length=1, max_length=255, description="The Harbor they come from.")

    def _read(self) -> ImportResult:
        return read_harbor(self.config, host=self.host, registries=self.registries or "", name=self.name or "harbor")


class DregsyIn(_In):
    """dregsy's configuration."""

    model_config = ConfigDict(json_schema_extra={"examples": [DREGSY]})
    tool = "dregsy"
    expected = "a list `tasks` with `source`, `target` and `mappings`"

    config: FileText
    platform: str = Field(default="linux/amd64", max_length=64, description="Where dregsy ran.")

    def _read(self) -> ImportResult:
        return read_dregsy(self.config, platform=self.platform, name=self.name or "dregsy")


ImportIn = ImageSyncerIn | SkopeoIn | RegsyncIn | ImageListIn | KubernetesIn | HarborIn | DregsyIn
IMPORTS: dict[ImportFormat, type[ImportIn]] = {
    "image-syncer": ImageSyncerIn,
    "skopeo": SkopeoIn,
    "regsync": RegsyncIn,
    "list": ImageListIn,
    "kubernetes": KubernetesIn,
    "harbor": HarborIn,
    "dregsy": DregsyIn,
}
EXAMPLES: dict[ImportFormat, dict[str, Any]] = {
    "image-syncer": IMAGE_SYNCER,
    "skopeo": SKOPEO,
    "regsync": REGSYNC,
    "list": LIST,
    "kubernetes": KUBERNETES,
    "harbor": HARBOR,
    "dregsy": DREGSY,
}


class NoteOut(BaseModel):
    """Something an operator should know: left out, or carried over but different here on purpose."""

    model_config = ConfigDict(from_attributes=True)

    kind: Literal["left_out", "differs"]
    code: str
    file: str
    path: str
    line: int | None
    reason: str


class ImportedJobOut(BaseModel):
    """A job that was made of a file's rules, or would be."""

    id: str | None = Field(description="Null where nothing was made; else `/v1/jobs/{id}` has the job.")
    rules: list[Rule]
    options: Options


class ImportOut(BaseModel):
    """What was made, or would be."""

    model_config = ConfigDict(json_schema_extra={"examples": [_IMPORTED]})

    dry_run: bool
    policies: list[PolicyFieldsOut]
    jobs: list[ImportedJobOut] = Field(description="The jobs that were submitted, where `as` is `job`.")
    registries: list[RegistryFieldsOut] = Field(description="The registry entries, without their secrets.")
    notes: list[NoteOut] = Field(description="Every line that was not carried over, or behaves differently here.")

    @classmethod
    def of(cls, done: Import) -> Self:
        """Show an import."""
        result = done.result
        return cls(
            dry_run=not done.is_made,
            policies=[PolicyFieldsOut.model_validate(policy) for policy in result.policies],
            jobs=[
                ImportedJobOut(id=job.id if job else None, rules=list(request.rules), options=request.options)
                for request, job in itertools.zip_longest(done.requests, done.jobs)
            ],
            registries=[RegistryFieldsOut.model_validate(shown_entry(entry)) for entry in result.registries],
            notes=[NoteOut.model_validate(note) for note in result.notes],
        )
