"""Logins of a docker configuration: which files are read, which programs are run, and what either can do to us."""

import asyncio
import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.domain.registry_logins import LoginRules
from app.registry.auth import credential_helper
from app.registry.auth.login_files import lies_in, read_login_file
from app.registry.limits import ClientSettings
from tests.registry.auth.test_aws import logging_at_debug
from tests.registry.conftest import SETTINGS, Connect, basic
from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.images import oci_image

IMAGE = oci_image("app")
V1 = Tag("v1")
SECRET = "canary-5f1c0e7a"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientSettings:
    """Allow one folder, and helpers called `mine` and `missing`; what is beside them is not."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    rules = LoginRules(docker_config_folders=(str(tmp_path / "allowed"),), credential_helpers=("mine", "missing"))
    return replace(SETTINGS, logins=rules)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "allowed" / "config.json"


def logging_in(path: Path | str) -> dict[str, str]:
    return {"type": "docker_config", "path": str(path)}


def write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))


def make_useless(config: Path, *, made: str, outside: Path, host: str) -> Path:
    """Make what no login can be had from; return the path to enter."""
    login = json.dumps({"auths": {host: {"auth": "YW5uOnNlY3JldA=="}}})
    outside.write_text(login)
    match made:
        case "missing":
            pass
        case "fifo":
            os.mkfifo(config)
        case "folder":
            config.mkdir()
        case "link out":
            config.symlink_to(outside)
        case "way out":
            (config.parent / "sub").symlink_to(outside.parent)
            return config.parent / "sub" / "config.json"
        case "too long":
            config.write_text(login + " " * 1024 * 1024)
        case "link to itself":
            config.symlink_to(config)
        case _:
            config.write_text(made.replace("HOST", host))
    return config


def install(folder: Path, script: str, *, name: str = "mine") -> None:
    """Write a credential helper."""
    program = folder / "bin" / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)


def private(**more: Any) -> Any:
    """Run a registry that nobody reads anonymously, with an image in it."""
    return fake_registry(Quirks(auth="token"), anonymous_actions=frozenset(), **more)


async def refusal(connect: Connect, registry: FakeRegistry, path: Path | str) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await connect(registry, auth=logging_in(path)).get_manifest("team/app", V1)
    return refused.value


@pytest.mark.parametrize("form", ["auth", "plain", "identity", "registry_token", "podman_path"])
async def test_an_entry_is_used_and_read_again(connect: Connect, config: Path, clock: SettableClock, form: str) -> None:
    async with private(identity_tokens={"refresh-me": "ann"}) as registry:
        registry.load("team/app", IMAGE, "v1")
        encoded = base64.b64encode(b"ann:secret").decode()
        entries: dict[str, dict[str, Any]] = {
            "auth": {registry.host: {"auth": encoded}},
            "plain": {f"https://{registry.host}/v2/": {"username": "ann", "password": "secret"}},
            "identity": {registry.host: {"auth": base64.b64encode(b"x:").decode(), "identitytoken": "refresh-me"}},
            "registry_token": {registry.host: {"registrytoken": "token-1"}},
            "podman_path": {registry.host: {"auth": "bm9ib2R5OndydA=="}, f"{registry.host}/team": {"auth": encoded}},
        }
        write(config, {"auths": entries[form]})
        if form == "registry_token":
            await connect(registry, auth=basic()).head_manifest("team/app", V1)
        host = f"{registry.host}/team/app" if form == "podman_path" else registry.host
        client = connect(registry, host=host, auth=logging_in(config))
        assert await client.head_manifest("team/app", V1)
        write(config, {"auths": {registry.host: {"auth": base64.b64encode(b"ann:wrong").decode()}}})
        registry.auth.revoke_all()
        clock.advance(61)
        with pytest.raises(RegistryError) as refused:
            await client.get_manifest("team/app", V1)
        assert refused.value.code == "unauthorized"


async def test_a_registry_token_that_is_refused_is_read_again_at_once(
    connect: Connect, config: Path, clock: SettableClock
) -> None:
    async with private() as registry:
        registry.load("team/app", IMAGE, "v1")
        write(config, {"auths": {registry.host: {"registrytoken": "token-1"}}})
        other = connect(registry, auth=basic())
        await other.head_manifest("team/app", V1)
        client = connect(registry, host=f"{registry.host}/team", auth=logging_in(config))
        assert await client.head_manifest("team/app", V1)
        registry.auth.revoke_all()
        write(config, {"auths": {registry.host: {"registrytoken": "token-2"}}})
        await other.get_manifest("team/app", V1)
        clock.advance(6)
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest


@pytest.mark.parametrize(
    "made",
    [
        "missing",
        "no json",
        "[]",
        '{"auths": []}',
        '{"auths": {"other.example": {"auth": "YTpi"}}}',
        '{"auths": {"HOST": {"auth": "%%%"}}}',
        '{"auths": {"HOST": {}}, "credsStore": "touch-a-file"}',
        '{"credHelpers": {"HOST": "touch-a-file"}}',
        '{"credHelpers": {"HOST": "../../bin/docker-credential-mine"}}',
        "fifo",
        "folder",
        "link out",
        "way out",
        "too long",
        "link to itself",
    ],
)
async def test_whatever_keeps_a_file_from_use_has_one_message(
    connect: Connect, tmp_path: Path, config: Path, made: str
) -> None:
    async with private() as registry:
        install(tmp_path, f"touch {tmp_path / 'ran'}", name="touch-a-file")
        path = make_useless(config, made=made, outside=tmp_path / "config.json", host=registry.host)
        error = await refusal(connect, registry, path)
    assert (error.code, error.temporary) == ("unauthorized", False)
    assert error.message.partition(": ")[2] == (
        "its docker config gives no login: path has to be a readable config.json with an entry for this host, by "
        "itself or by a credential helper that REGISTRY_SYNC_CREDENTIAL_HELPERS names"
    )
    assert not (tmp_path / "ran").exists()


async def test_a_file_in_another_folder_is_not_opened(connect: Connect, tmp_path: Path, config: Path) -> None:
    async with private() as registry:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": "YW5uOnNlY3JldA=="}}}))
        for path in (tmp_path / "config.json", f"{config.parent}/../config.json"):
            error = await refusal(connect, registry, path)
            assert "REGISTRY_SYNC_DOCKER_CONFIG_FOLDERS" in error.message


async def test_a_helper_is_asked_over_standard_input_and_only_for_its_registry(
    connect: Connect, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_SYNC_SECRET_KEYS", SECRET)
    seen = tmp_path / "seen"
    answer = '{"ServerURL":"x","Username":"ann","Secret":"secret"}'
    install(tmp_path, f"(echo \"$#: $*\"; cat; env) > {seen}; echo '{answer}'")
    async with private() as registry:
        registry.load("team/app", IMAGE, "v1")
        write(config, {"credHelpers": {registry.host: "mine"}})
        client = connect(registry, auth=logging_in(config))
        await asyncio.gather(*(client.get_manifest("team/app", V1) for _ in range(5)))
        lines = seen.read_text().splitlines()
    assert lines[:2] == ["1: get", registry.host]
    assert SECRET not in seen.read_text()


@pytest.mark.parametrize("form", ["identity token", "credsStore"])
async def test_a_helper_may_give_an_identity_token_and_be_for_all_registries(
    connect: Connect, tmp_path: Path, config: Path, form: str
) -> None:
    username, secret = ("<token>", "refresh-me") if form == "identity token" else ("ann", "secret")
    install(tmp_path, f"""echo '{{"Username": "{username}", "Secret": "{secret}"}}'""")
    async with private(identity_tokens={"refresh-me": "ann"}) as registry:
        registry.load("team/app", IMAGE, "v1")
        write(config, {"auths": {registry.host: {}}, "credsStore": "mine"})
        client = connect(registry, auth=logging_in(config))
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest


@pytest.mark.parametrize(
    ("script", "told", "temporary"),
    [
        ("echo credentials not found in native keychain; exit 1", "has no login", False),
        (f"echo {SECRET}; exit 3", "exit code 3", True),
        (f"echo {SECRET}", "without a login", False),
        (f"""echo '{{"Username": ["{SECRET}"], "Secret": "s"}}'""", "without a login", False),
        ("exec yes", "more than a login", False),
        ("exec sleep 600", "longer than", True),
        ("sleep 600 & echo $! > PID; wait", "longer than", True),
        ("exec 0<&-; echo '{}'", "without a login", False),
        (None, "is not installed", False),
    ],
    ids=["nothing", "fails", "no JSON", "no text", "endless", "hangs", "forks", "deaf", "absent"],
)
async def test_a_helper_that_fails_harms_nobody(
    connect: Connect,
    tmp_path: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    *,
    told: str,
    temporary: bool,
) -> None:
    monkeypatch.setattr(credential_helper, "_SECONDS", 0.3 if script and "sleep" in script else 30.0)
    if script is not None:
        install(tmp_path, script.replace("PID", str(tmp_path / "pid")))
    async with private() as registry:
        name = "missing" if script is None else "mine"
        write(config, {"credHelpers": {registry.host: name}})
        with logging_at_debug() as logged:
            error = await refusal(connect, registry, config)
    assert told in error.message
    assert error.temporary is temporary
    assert SECRET not in error.message + logged.getvalue()
    if (tmp_path / "pid").exists():
        child = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
        while child.exists() and child.read_text().split()[2] != "Z":  # noqa: ASYNC110 — the kernel tells nobody
            await asyncio.sleep(0.01)


def test_a_fifo_is_not_read_even_with_a_login_in_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    writer = os.open(tmp_path / "config.json", os.O_RDWR)
    try:
        os.write(writer, b"{}")
        with pytest.raises(ValueError, match="regular"):
            read_login_file(str(tmp_path / "config.json"), limit=100)
    finally:
        os.close(writer)


@pytest.mark.parametrize("path", ["/a/b/c.json", "/a/b/../b/c.json", "/x/c.json"])
def test_files_below_a_folder_lie_in_it(path: str) -> None:
    assert lies_in(path, ["/a/b", "/x/"])


@pytest.mark.parametrize("path", ["/a/b", "/a/bc/c.json", "/a/b/../c.json", "a/b/c.json", "/../a/c.json", ""])
def test_other_files_do_not_lie_in_a_folder(path: str) -> None:
    assert not lies_in(path, ["/a/b"])
