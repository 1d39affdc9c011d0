"""Logins by an AWS identity: against moto's IAM, STS and ECR, and registries that take the password it gives."""

import asyncio
import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.domain.registry import AwsAuth, RegistryEntry, ecr_region
from app.observability import configure_logging
from app.registry.auth.aws import AwsIdentity
from app.registry.auth.renewal import RenewableLogin
from tests.registry.auth.conftest import LOGIN, ecr, login, numbers
from tests.registry.conftest import Connect, entry_of
from tests.support.aws_server import ACCOUNT, PASSWORD, REGION, USERNAME, AccessKey, AwsServer
from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry, Quirks, Unauthorized, fake_registry, on
from tests.support.images import oci_image
from tests.support.plain_client import PlainClient
from tests.support.processes import free_port
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.sync.workbench import workbench

HOUR = 3600
HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
IMAGE = oci_image("app")
V1 = Tag("v1")


@pytest.fixture(scope="module")
def key(server: AwsServer) -> AccessKey:
    """Return the key of a user who may log in to ECR, and assume roles."""
    return server.make_user("puller", actions=[LOGIN, "sts:AssumeRole"])


@contextlib.contextmanager
def logging_at_debug() -> Iterator[io.StringIO]:
    """Log as the service does on its most talkative level, into a text."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stderr(io.StringIO()) as text:
            configure_logging(log_format="json", level="DEBUG")
            yield text
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


def identity(**auth: Any) -> AwsIdentity:
    entry = RegistryEntry(name="ecr", host=HOST, auth=AwsAuth(**auth))
    assert isinstance(entry.auth, AwsAuth)
    return AwsIdentity(entry, entry.auth)


async def fetched(**auth: Any) -> RenewableLogin:
    got = await identity(**auth).fetch()
    assert (got.login.username, got.login.password) == (USERNAME, PASSWORD)
    return got


async def refusal(**auth: Any) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await identity(**auth).fetch()
    return refused.value


async def head(registry: FakeRegistry, connect: Connect, auth: dict[str, Any]) -> Any:
    registry.load("team/app", IMAGE, "v1")
    client = connect(registry, auth=auth)
    assert await client.head_manifest("team/app", V1)
    return client


async def test_an_image_is_copied_to_a_registry_with_the_token(
    aws: AwsServer, key: AccessKey, source_registry: RegistryProcess
) -> None:
    with (
        RegistryProcess(RegistryOptions(users={USERNAME: PASSWORD})) as ecr,
        PlainClient.of(source_registry) as there,
    ):
        there.push("aws/app", IMAGE, tags=("v1",))
        before = aws.calls()
        entry = entry_of(ecr, auth=login(key))
        async with workbench(source_registry, entries=[entry]) as bench:
            results = await bench.sync(f"{source_registry.host}/aws/app:v1", f"{ecr.host}/copies/app")
            assert [(result.outcome, result.digest) for result in results] == [("copied", IMAGE.digest)]
        assert aws.calls() == before + 1
        assert 401 not in {line.status for line in ecr.access_log() if line.path != "/v2/"}


async def test_the_environment_of_the_worker_is_an_identity(
    aws: AwsServer, key: AccessKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret)
    await fetched()


async def test_a_profile_of_the_worker_is_an_identity(aws: AwsServer, key: AccessKey, tmp_path: Path) -> None:
    text = f"[images]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\n"
    (tmp_path / "credentials").write_text(text)
    await fetched(profile="images")


async def test_a_web_identity_of_the_cluster_is_an_identity(
    aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = aws.make_role(f"irsa-{next(numbers)}", actions=[LOGIN])
    (tmp_path / "token").write_text("a.projected.token")
    monkeypatch.setenv("AWS_ROLE_ARN", role)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    aws.check_identities(is_on=False)  # moto knows no request without a signature, which this one is by nature
    before = aws.calls()
    try:
        await fetched()
    finally:
        aws.check_identities(is_on=True)
    assert aws.calls() == before + 2


async def test_a_role_is_assumed_and_its_rights_count(aws: AwsServer) -> None:
    weak = aws.make_user(f"weak-{next(numbers)}", actions=["sts:AssumeRole"])
    role = aws.make_role(f"role-{next(numbers)}", actions=[LOGIN])
    keys = {"access_key_id": weak.id, "secret_access_key": weak.secret}
    assert (await refusal(**keys)).code == "denied"
    await fetched(**keys, role_arn=role)


async def test_a_missing_right_is_named(aws: AwsServer) -> None:
    nobody = aws.make_user(f"nobody-{next(numbers)}", actions=[])
    keys = {"access_key_id": nobody.id, "secret_access_key": nobody.secret}
    without = await refusal(**keys)
    assert (without.code, without.temporary) == ("denied", False)
    assert LOGIN in without.message
    role = aws.make_role(f"role-{next(numbers)}", actions=[LOGIN])
    assert "sts:AssumeRole" in (await refusal(**keys, role_arn=role)).message


@pytest.mark.parametrize("part", ["id", "secret"])
async def test_a_wrong_key_is_unauthorized_and_not_repeated(
    aws: AwsServer, key: AccessKey, connect: Connect, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = key.secret if part == "id" else "canary/5f1c0e7a/wrong"
    wrong = AccessKey("AKIAWRONGWRONGWRONG0" if part == "id" else key.id, secret)
    async with ecr() as registry:
        before = aws.calls()
        client = connect(registry, auth=login(wrong))
        for _ in range(3):
            with pytest.raises(RegistryError) as refused:
                await client.head_manifest("team/app", V1)
            assert (refused.value.code, refused.value.temporary) == ("unauthorized", False)
            assert "access key" in refused.value.message
            assert secret not in str(refused.value)
        assert aws.calls() == before + 1
        assert registry.journal.count() == 0
    assert secret not in caplog.text


async def test_the_password_is_in_no_log(aws: AwsServer, key: AccessKey, tmp_path: Path) -> None:
    role = aws.make_role(f"role-{next(numbers)}", actions=[LOGIN])
    with logging_at_debug() as logged:
        got = await fetched(access_key_id=key.id, secret_access_key=key.secret, role_arn=role)
    assert PASSWORD not in repr(got)
    assert PASSWORD not in logged.getvalue()
    assert "QVdTOj" not in logged.getvalue()  # `AWS:` in base64, as the answer has it
    assert "SecretAccessKey" not in logged.getvalue()  # of the role, in the answer of STS
    assert key.secret not in logged.getvalue()


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("auth", "words"),
    [({}, "no identity at AWS"), ({"profile": "nowhere"}, "no such profile")],
    ids=["none", "profile"],
)
async def test_no_identity_is_unauthorized_with_words(auth: dict[str, Any], words: str) -> None:
    error = await refusal(**auth)
    assert (error.code, error.temporary) == ("unauthorized", False)
    assert words in error.message


@pytest.mark.usefixtures("aws")
async def test_an_endpoint_that_is_down_is_temporary(key: AccessKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    error = await refusal(access_key_id=key.id, secret_access_key=key.secret)
    assert (error.code, error.temporary) == ("registry_unreachable", True)
    assert key.secret not in f"{error!r} {error.message}"


async def test_aws_is_asked_through_the_proxy_of_the_entry(
    aws: AwsServer, key: AccessKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    auth = AwsAuth.model_validate(login(key))
    entry = RegistryEntry(name="ecr", host=HOST, auth=auth, proxy=aws.url)  # which takes whole URLs, as proxies do
    assert (await AwsIdentity(entry, auth).fetch()).login.password == PASSWORD


@pytest.mark.usefixtures("aws")
async def test_without_botocore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)  # as where it was never installed
    error = await refusal()
    assert error.code == "unauthorized"
    assert "registry-sync[aws]" in error.message


async def test_a_token_is_fetched_once_for_all_that_wait(aws: AwsServer, key: AccessKey, connect: Connect) -> None:
    async with ecr() as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=login(key))
        before = aws.calls()
        first, *others = (asyncio.create_task(client.head_manifest("team/app", V1)) for _ in range(10))
        await asyncio.sleep(0)
        first.cancel()
        assert all(await asyncio.gather(*others))
        assert aws.calls() == before + 1


async def test_a_token_that_is_refused_before_its_end_is_replaced(
    aws: AwsServer, key: AccessKey, connect: Connect, clock: SettableClock
) -> None:
    async with ecr() as registry:
        client = await head(registry, connect, login(key))
        before = aws.calls()
        clock.advance(HOUR)
        registry.faults.add(Unauthorized(), matching=on("manifest"))
        assert await client.head_manifest("team/app", V1)
        assert aws.calls() == before + 1


async def test_a_new_token_that_is_refused_is_not_asked_for_again(
    aws: AwsServer, key: AccessKey, connect: Connect
) -> None:
    async with fake_registry(Quirks(auth="basic"), anonymous_actions=frozenset()) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=login(key))
        before = aws.calls()
        for _ in range(3):
            with pytest.raises(RegistryError) as refused:
                await client.get_manifest("team/app", V1)
            assert refused.value.code == "unauthorized"
        assert aws.calls() == before + 1


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (HOST, REGION),
        (f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("public.ecr.aws", "us-east-1"),
        (f"{HOST}.example.com", None),
        (f"{HOST}:8443", None),
    ],
)
def test_the_region_is_in_the_host(host: str, region: str | None) -> None:
    assert ecr_region(RegistryEntry(name="a", host=host).registry) == region
