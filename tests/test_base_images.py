"""Images that this project is built from and run beside: each is named by its digest, which a command renews."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import yaml

from tests.support.registries import IMAGE

_PINNED = re.compile(r"[a-z0-9][a-z0-9./-]*:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}")
_OLD = "sha256:" + "0" * 64


def outside_images(dockerfile: str) -> list[str]:
    """Return what a Dockerfile takes from elsewhere, with its arguments put in."""
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    froms = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", dockerfile, re.MULTILINE)
    copied = re.findall(r"^COPY --from=(\S+)", dockerfile, re.MULTILINE)
    stages = {name for _, name in froms}
    named = [re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], name) for name in [*dict(froms), *copied]]
    return [name for name in named if name not in stages]


def test_what_the_dockerfile_is_built_from_has_a_digest(project: Path) -> None:
    images = outside_images((project / "Dockerfile").read_text())
    assert images
    for image in images:
        assert _PINNED.fullmatch(image), image


def test_what_compose_runs_beside_the_service_has_a_digest(project: Path) -> None:
    services = yaml.safe_load((project / "compose.yaml").read_text())["services"].values()
    images = {service["image"] for service in services if "build" not in service}
    assert images
    for image in images:
        assert _PINNED.fullmatch(image), image


def test_the_registry_that_tests_run_is_the_one_that_is_set_up(project: Path) -> None:
    assert _PINNED.findall((project / ".ci/setup").read_text()) == [IMAGE]


def test_actions_are_named_by_their_commit(project: Path) -> None:
    [workflow] = (project / ".github/workflows").iterdir()
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action


def renew(project: Path, file: Path) -> subprocess.CompletedProcess[str]:
    """Run `make bases` on one file, with a stand-in for skopeo: Docker Hub's names are not ours to answer."""
    skopeo = file.with_name("bin") / "skopeo"
    skopeo.parent.mkdir()
    skopeo.write_text('#!/bin/sh\n[ "$3" != docker://gone:1 ] || exit 1\nprintf "index of %s" "$3"\n')
    skopeo.chmod(0o755)
    environment = {**os.environ, "PATH": f"{skopeo.parent}:{os.environ['PATH']}"}
    return subprocess.run(  # noqa: S603 — our own command
        [project / ".ci/bases", file], env=environment, check=False, capture_output=True, text=True
    )


def test_digests_become_those_that_tags_have_now(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(f"FROM a/b:1.0-slim@{_OLD}\nimage: a/b:1.0-slim@{_OLD} # and c:1@{_OLD}\nFROM a/b:1.0-slim\n")
    done = renew(project, file)
    assert done.returncode == 0, done.stderr
    image, other = (
        f"{name}@sha256:{hashlib.sha256(f'index of docker://{name}'.encode()).hexdigest()}"
        for name in ("a/b:1.0-slim", "c:1")
    )
    assert file.read_text() == f"FROM {image}\nimage: {image} # and {other}\nFROM a/b:1.0-slim\n"
    assert "up to date" not in done.stdout


def test_no_digest_is_written_where_one_of_the_tags_cant_be_asked_for(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    text = f"FROM a/b:1.0-slim@{_OLD}\nFROM gone:1@{_OLD}\n"
    file.write_text(text)
    assert renew(project, file).returncode != 0
    assert file.read_text() == text
