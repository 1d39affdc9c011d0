"""A value of another kind than a tool's file has there is noted where it stands, or the file is refused for it.

Where it says what is copied, nothing is copied by it: a filter that can't be read must not become none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.errors import InvalidRequestError
from app.importers.dregsy import read_dregsy
from app.importers.harbor import read_harbor
from app.importers.image_syncer import read_image_syncer
from app.importers.kubernetes import read_kubernetes
from app.importers.regsync import read_regsync
from app.importers.result import ImportResult
from app.importers.skopeo import SkopeoFlags, read_skopeo

EDGE = {"id": 3, "name": "edge", "url": "https://edge.example.com"}
POLICY = {"name": "p", "dest_registry": EDGE, "filters": [], "enabled": True, "override": True}
ENTRY = {"source": "a.io/x", "target": "b.io/x", "type": "repository"}
MAPPING = {"from": "x", "tags": ["1"]}
TASK = {"name": "t", "source": {"registry": "a.io"}, "target": {"registry": "b.io"}, "mappings": [MAPPING]}
READERS: dict[str, Callable[[str], ImportResult]] = {
    "skopeo": lambda text: read_skopeo(text, flags=SkopeoFlags("b.io/copy", all_platforms=True)),
    "image-syncer": read_image_syncer,
    "image-syncer's auth": lambda text: read_image_syncer("a.io/x: b.io/x", auth=text),
    "regsync": read_regsync,
    "dregsy": read_dregsy,
    "harbor": lambda text: read_harbor(text, host="harbor.example.com"),
    "harbor's registries": lambda text: read_harbor(json.dumps([POLICY]), host="h.io", registries=text),
    "kubernetes": lambda text: read_kubernetes(text, destination="b.io"),
}
LIST, MAPPED = ["a", "b"], {"a": "b"}


def skopeo(**fields: Any) -> Any:
    return {"a.io": {"images": {"x": ["1"]}} | {key.replace("_", "-"): value for key, value in fields.items()}}


def regsync(**fields: Any) -> Any:
    return {"version": 1, "sync": [ENTRY | fields]}


def dregsy(**fields: Any) -> Any:
    return {"tasks": [TASK | fields]}


def mapping(**fields: Any) -> Any:
    return dregsy(mappings=[MAPPING | fields])


def harbor(**fields: Any) -> Any:
    return [POLICY | fields]


def pod(**fields: Any) -> Any:
    return {"kind": "Pod", "spec": {"containers": [{"image": "nginx:1"}]} | fields}


NOTED: list[tuple[str, Any, str, int]] = [
    ("skopeo", skopeo(images=LIST), "a.io.images", 0),
    ("skopeo", skopeo(images={"x": MAPPED}), "a.io.images.x", 0),
    ("skopeo", skopeo(images={"x": [MAPPED, "2"], "y": []}), "a.io.images.x[0]", 1),
    ("skopeo", skopeo(images={"x": [None]}), "a.io.images.x[0]", 0),
    ("skopeo", skopeo(images_by_tag_regex=LIST), "a.io.images-by-tag-regex", 1),
    ("skopeo", skopeo(images_by_tag_regex={"y": LIST}), "a.io.images-by-tag-regex.y", 1),
    ("skopeo", skopeo(images_by_semver={"y": MAPPED}), "a.io.images-by-semver.y", 1),
    ("skopeo", skopeo(credentials=LIST), "a.io.credentials", 1),
    ("skopeo", skopeo(credentials={"username": "u"}), "a.io.credentials", 1),
    ("skopeo", skopeo(credentials={"username": "u", "password": LIST}), "a.io.credentials.password", 1),
    ("skopeo", skopeo(credentials={"username": "u", "password": "p", "token": "t"}), "a.io.credentials.token", 1),
    ("skopeo", skopeo(tls_verify="perhaps"), "a.io.tls-verify", 1),
    ("skopeo", skopeo(cert_dir=LIST), "a.io.cert-dir", 1),
    ("skopeo", {"a.io": LIST}, "a.io", 0),
    ("skopeo", {"a.io": {}}, "a.io", 0),
    ("skopeo", {"a.io": None}, "a.io", 0),
    ("image-syncer", {"a.io/x": MAPPED}, "a.io/x", 0),
    ("image-syncer", {"a.io/x": None}, "a.io/x", 0),
    ("image-syncer", {"a.io/x": ["b.io/x", MAPPED]}, "a.io/x[1]", 0),
    ("image-syncer's auth", {"a.io": LIST}, "a.io", 1),
    ("image-syncer's auth", {"a.io": {"username": LIST, "password": "p"}}, "a.io.username", 1),
    ("image-syncer's auth", {"a.io": {"insecure": "perhaps"}}, "a.io.insecure", 1),
    ("regsync", {"sync": {}}, "sync", 0),
    ("regsync", {"sync": ["x"]}, "sync[0]", 0),
    ("regsync", {"sync": [None]}, "sync[0]", 0),
    ("regsync", {"sync": [ENTRY], "creds": MAPPED}, "creds", 1),
    ("regsync", {"sync": [ENTRY], "creds": [{"registry": "a.io", "user": "u"}]}, "creds[0]", 1),
    ("regsync", {"sync": [ENTRY], "creds": [{"registry": "a.io", "pass": LIST}]}, "creds[0].pass", 1),
    ("regsync", {"sync": [ENTRY], "creds": [{"registry": "a.io", "tls": "maybe"}]}, "creds[0].tls", 1),
    ("regsync", {"sync": [ENTRY], "creds": [{"registry": "a.io", "reqPerSec": "some"}]}, "creds[0]", 1),
    ("regsync", {"sync": [ENTRY], "defaults": LIST}, "defaults", 1),
    ("regsync", {"sync": [ENTRY], "defaults": {"schedule": LIST}}, "defaults.schedule", 1),
    ("regsync", {"version": [1], "sync": [ENTRY]}, "version", 1),
    ("regsync", regsync(source=LIST), "sync[0].source", 0),
    ("regsync", regsync(target=MAPPED), "sync[0].target", 0),
    ("regsync", regsync(type=LIST), "sync[0].type", 0),
    ("regsync", regsync(tags=LIST), "sync[0].tags", 0),
    ("regsync", regsync(tags={"allow": MAPPED}), "sync[0].tags.allow", 0),
    ("regsync", regsync(tags={"deny": ["x", MAPPED]}), "sync[0].tags.deny[1]", 0),
    ("regsync", regsync(tagSets=MAPPED), "sync[0].tagSets", 0),
    ("regsync", regsync(tagSets=[{"semverRange": MAPPED}]), "sync[0].tagSets[0].semverRange", 0),
    ("regsync", regsync(repos=LIST, type="registry", source="a.io"), "sync[0].repos", 0),
    ("regsync", regsync(platform=LIST), "sync[0].platform", 0),
    ("regsync", regsync(platforms="linux/amd64"), "sync[0].platforms", 0),
    ("regsync", regsync(platforms=[MAPPED]), "sync[0].platforms[0]", 0),
    ("regsync", regsync(referrers="perhaps"), "sync[0].referrers", 1),
    ("regsync", regsync(interval=LIST), "sync[0].interval", 1),
    ("dregsy", {"tasks": {}}, "tasks", 0),
    ("dregsy", {"tasks": ["x"]}, "tasks[0]", 0),
    ("dregsy", {"tasks": [None]}, "tasks[0]", 0),
    ("dregsy", dregsy(source="a.io"), "tasks[0].source", 0),
    ("dregsy", dregsy(source={"registry": LIST}), "tasks[0].source.registry", 0),
    ("dregsy", dregsy(source={"registry": "a.io", "auth": LIST}), "tasks[0].source.auth", 1),
    ("dregsy", dregsy(source={"registry": "a.io", "skip-tls-verify": "x"}), "tasks[0].source.skip-tls-verify", 1),
    ("dregsy", dregsy(target={}), "tasks[0].mappings[0]", 0),
    ("dregsy", dregsy(interval=LIST), "tasks[0].interval", 1),
    ("dregsy", dregsy(interval="often"), "tasks[0].interval", 1),
    ("dregsy", dregsy(mappings={"from": "a"}), "tasks[0].mappings", 0),
    ("dregsy", dregsy(mappings=[]), "tasks[0]", 0),
    ("dregsy", mapping(**{"from": LIST}), "tasks[0].mappings[0].from", 0),
    ("dregsy", mapping(**{"from": None}), "tasks[0].mappings[0]", 0),
    ("dregsy", mapping(to=LIST), "tasks[0].mappings[0].to", 0),
    ("dregsy", mapping(tags=MAPPED), "tasks[0].mappings[0].tags", 0),
    ("dregsy", mapping(tags=[MAPPED]), "tasks[0].mappings[0].tags[0]", 0),
    ("dregsy", mapping(platform=LIST), "tasks[0].mappings[0].platform", 0),
    ("harbor", [POLICY, "x"], "[1]", 1),
    ("harbor", [POLICY, None], "[1]", 1),
    ("harbor", harbor(dest_registry="edge"), "[0].dest_registry", 0),
    ("harbor", harbor(dest_registry=None), "[0]", 0),
    ("harbor", harbor(dest_registry=EDGE | {"url": LIST}), "[0].dest_registry", 0),
    ("harbor", harbor(dest_registry=EDGE | {"insecure": "x"}), "[0].dest_registry.insecure", 1),
    ("harbor", harbor(dest_registry=EDGE | {"credential": "x"}), "[0].dest_registry.credential", 1),
    ("harbor", harbor(dest_registry=EDGE | {"credential": {"access_secret": "x"}}), "[0].dest_registry.credential", 1),
    ("harbor", harbor(filters=MAPPED), "[0].filters", 0),
    ("harbor", harbor(filters=["x"]), "[0].filters[0]", 0),
    ("harbor", harbor(filters=[None]), "[0].filters[0]", 0),
    ("harbor", harbor(filters=[{"type": LIST, "value": "x"}]), "[0].filters[0].type", 0),
    ("harbor", harbor(filters=[{"type": "name", "value": LIST}]), "[0].filters[0]", 0),
    ("harbor", harbor(filters=[{"type": "tag", "value": "x", "decoration": "y"}]), "[0].filters[0]", 0),
    ("harbor", harbor(dest_namespace=LIST), "[0].dest_namespace", 0),
    ("harbor", harbor(dest_namespace_replace_count="x"), "[0].dest_namespace_replace_count", 0),
    ("harbor", harbor(speed="fast"), "[0].speed", 1),
    ("harbor", harbor(override="perhaps"), "[0].override", 1),
    ("harbor", harbor(enabled=LIST), "[0].enabled", 1),
    ("harbor", harbor(trigger="daily"), "[0].trigger", 1),
    ("harbor", harbor(trigger={"type": "daily"}), "[0].trigger", 1),
    ("harbor", harbor(trigger={"type": "scheduled", "trigger_settings": LIST}), "[0].trigger.trigger_settings", 1),
    ("harbor's registries", [LIST], "[0]", 1),
    ("harbor's registries", [{"id": LIST}], "[0].id", 1),
    ("kubernetes", pod(initContainers={"image": "x"}), "spec.initContainers", 1),
    ("kubernetes", pod(initContainers="x"), "spec.initContainers", 1),
    ("kubernetes", pod(containers=["nginx", {"image": "nginx:1"}]), "spec.containers[0]", 1),
    ("kubernetes", pod(containers=[{"image": LIST}]), "spec.containers[0].image", 0),
    ("kubernetes", pod(volumes={"image": {"reference": "x"}}), "spec.volumes", 1),
    ("kubernetes", pod(volumes=["x"]), "spec.volumes[0]", 1),
    ("kubernetes", pod(volumes=[{"image": "x"}]), "spec.volumes[0].image", 1),
    ("kubernetes", pod(volumes=[{"image": {"reference": LIST}}]), "spec.volumes[0].image.reference", 1),
]


@pytest.mark.parametrize(("tool", "document", "path", "taken"), NOTED)
def test_what_is_of_another_kind_is_noted_where_it_stands(tool: str, document: Any, path: str, taken: int) -> None:
    result = READERS[tool](json.dumps(document))
    assert path in [note.path for note in result.notes if note.kind == "left_out"]
    assert sum(len(policy.rules) for policy in result.policies) == taken
    assert all(note.reason for note in result.notes)


def test_a_note_of_another_kind_says_line_and_both_kinds() -> None:
    [note, _] = READERS["skopeo"]("a.io:\n  images:\n    - x\n    - y\n").notes
    assert (note.code, note.path, note.line) == ("wrong_type", "a.io.images", 3)
    assert note.reason == "a mapping is expected here, and this is a list"


REFUSED: list[tuple[str, Any, str]] = [
    ("skopeo", LIST, "skopeo"),
    ("skopeo", "nope", "skopeo"),
    ("image-syncer", LIST, "images"),
    ("image-syncer", "nope", "images"),
    ("image-syncer's auth", LIST, "auth"),
    ("image-syncer's auth", "nope", "auth"),
    ("regsync", LIST, "regsync"),
    ("regsync", {"version": 2, "sync": []}, "`version`"),
    ("regsync", {"version": "one", "sync": []}, "`version`"),
    ("dregsy", LIST, "dregsy"),
    ("dregsy", "nope", "dregsy"),
    ("harbor", "nope", "harbor"),
    ("harbor", {}, "harbor"),
    ("harbor", {"errors": [{"code": "UNAUTHORIZED", "message": "unauthorized"}]}, "it holds errors"),
    ("harbor's registries", {"errors": [{"code": "UNAUTHORIZED"}]}, "registries"),
    ("kubernetes", "nope", "kubernetes"),
]


@pytest.mark.parametrize(("tool", "document", "named"), REFUSED)
def test_a_file_that_is_another_thing_is_refused(tool: str, document: Any, named: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        READERS[tool](json.dumps(document))
    assert refused.value.code == "import_unreadable"
    assert named in refused.value.message


def test_null_is_as_if_it_were_not_there() -> None:
    [policy] = READERS["harbor"](json.dumps(harbor(dest_namespace=None, speed=None, trigger=None))).policies
    assert policy.rules[0].destination == ("edge.example.com/{repository}",)
    [policy] = READERS["dregsy"](json.dumps(mapping(to=None, platform=None, tags=None))).policies
    assert (policy.rules[0].destination, policy.rules[0].platforms) == (("b.io/{repository}",), ("linux/amd64",))
