"""AWS for the tests of logins to it, and of what its identities may do: one server for all files."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aws_server import PASSWORD, REGION, USERNAME, AccessKey, AwsServer
from tests.support.fake_registry import Quirks, fake_registry

LOGIN = "ecr:GetAuthorizationToken"
numbers = itertools.count(1)


@pytest.fixture(scope="package")
def server() -> Iterator[AwsServer]:
    """Run AWS for the tests of this folder."""
    with AwsServer() as server:
        yield server


@pytest.fixture
def aws(server: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AwsServer:
    """Point botocore at that AWS, as an operator would, with nothing of this machine in the way."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return server


def login(key: AccessKey, **more: Any) -> dict[str, Any]:
    keys = {"access_key_id": key.id, "secret_access_key": key.secret}
    return {"type": "aws", "region": REGION, **keys, **more}


def ecr() -> Any:
    """Run a registry that takes the password AWS gives."""
    quirks = Quirks(auth="basic")
    return fake_registry(quirks, accounts={USERNAME: PASSWORD}, anonymous_actions=frozenset())
