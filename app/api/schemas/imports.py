"""Imports: what other tools were told, and what it comes to here."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.api.schemas.policies import POLICY_NAME_PATTERN, POLICY_SEEN, PolicyFieldsOut
from app.api.schemas.registries import REGISTRY_SEEN, RegistryFieldsOut, shown_entry
from app.desk.imports import Import
from app.imports.image_syncer import ImageSyncerFlags, read_image_syncer
from app.imports.regsync import read_regsync
from app.imports.result import ImportResult
from app.imports.skopeo import SkopeoFlags, read_skopeo

ImportFormat = Literal["image-syncer", "skopeo", "regsync"]
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
_IMPORTED: dict[str, Any] = {
    "dry_run": True,
    "policies": [
        {
            name: value
            for name, value in POLICY_SEEN.items()
            if name not in {"next_run_at", "last_job", "created_at", "updated_at", "version"}
        }
    ],
    "registries": [
        {name: value for name, value in REGISTRY_SEEN.items() if name not in {"created_at", "updated_at", "version"}}
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
        {"anyOf": [{"type": "string"}, {"type": "object"}], "description": "YAML or JSON, as text; or the JSON itself."}
    ),
]
Environment = Annotated[
    dict[str, str],
    Field(max_length=1_000, description="What the files' `${NAME}` stand for; nothing else is looked up."),
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        default=None,
        pattern=POLICY_NAME_PATTERN,
        max_length=57,
        description="What to call the policy; else as the tool.",
    )


class ImageSyncerIn(_In):
    """image-syncer's files, and those of its flags that decide what is copied."""

    model_config = ConfigDict(json_schema_extra={"examples": [IMAGE_SYNCER]})

    images: FileText
    auth: FileText = ""
    environment: Environment = Field(default_factory=dict)
    os: list[str] = Field(default_factory=list, max_length=32, description="As `--os`.")
    arch: list[str] = Field(default_factory=list, max_length=32, description="As `--arch`.")

    def read(self) -> ImportResult:
        """Read the files."""
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

    config: FileText
    destination: str = Field(min_length=1, max_length=512, description="As given to `skopeo sync`.")
    scoped: bool = Field(default=False, description="As `--scoped`.")
    all: bool = Field(default=False, description="As `--all`.")
    platform: str = Field(default="linux/amd64", max_length=64, description="Where skopeo ran, without `--all`.")
    append_suffix: str = Field(default="", max_length=128, description="As `--append-suffix`.")

    def read(self) -> ImportResult:
        """Read the file."""
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

    config: FileText
    environment: Environment = Field(default_factory=dict)

    def read(self) -> ImportResult:
        """Read the file."""
        return read_regsync(self.config, environment=self.environment, name=self.name or "regsync")


IMPORTS: dict[ImportFormat, type[ImageSyncerIn | SkopeoIn | RegsyncIn]] = {
    "image-syncer": ImageSyncerIn,
    "skopeo": SkopeoIn,
    "regsync": RegsyncIn,
}


def import_schema(body: type[BaseModel]) -> dict[str, Any]:
    """Describe one of these bodies for OpenAPI, all in one piece."""
    return body.model_json_schema()


class NoteOut(BaseModel):
    """Something an operator should know: left out, or carried over but different here on purpose."""

    model_config = ConfigDict(from_attributes=True)

    kind: Literal["left_out", "differs"]
    code: str
    file: str
    path: str
    line: int | None
    reason: str


class ImportOut(BaseModel):
    """What was made, or would be."""

    model_config = ConfigDict(json_schema_extra={"examples": [_IMPORTED]})

    dry_run: bool
    policies: list[PolicyFieldsOut]
    registries: list[RegistryFieldsOut] = Field(description="Without their secrets.")
    notes: list[NoteOut] = Field(description="Every line that was not carried over, or behaves differently here.")

    @classmethod
    def of(cls, done: Import) -> Self:
        """Show an import."""
        result = done.result
        return cls(
            dry_run=not done.is_made,
            policies=[PolicyFieldsOut.model_validate(policy) for policy in result.policies],
            registries=[RegistryFieldsOut.model_validate(shown_entry(entry)) for entry in result.registries],
            notes=[NoteOut.model_validate(note) for note in result.notes],
        )
