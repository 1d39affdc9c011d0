"""Logins at Alibaba Cloud and Tencent Cloud: documented signatures, and their protocols over TLS."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.registry.auth.alibaba import acs3_authorization, alibaba_region
from app.registry.auth.tencent import tc3_authorization
from tests.registry.auth.test_aws import logging_at_debug
from tests.registry.conftest import Connect
from tests.support.certificates import make_server_certificate
from tests.support.clock import SettableClock
from tests.support.fake_registry import Quirks, fake_registry
from tests.support.images import oci_image
from tests.support.loopback_server import LoopbackServer, Said, json_handler

IMAGE = oci_image("app")
V1 = Tag("v1")
SECRET, TOKEN = "canary-5f1c0e7a", "canary-issued"
ALIBABA = {
    "type": "alibaba",
    "access_key_id": "LTAI5tExample",
    "access_key_secret": SECRET,
    "instance_id": "cri-abc123",
    "region": "cn-hangzhou",
}
TENCENT = {
    "type": "tencent",
    "secret_id": "AKIDexample",
    "secret_key": SECRET,
    "registry_id": "tcr-abc123",
    "region": "ap-guangzhou",
}
KINDS = pytest.mark.parametrize("auth", [ALIBABA, TENCENT], ids=["alibaba", "tencent"])


class Cloud:
    """Both clouds' APIs at one address: they check the signature that a request comes with."""

    def __init__(self, folder: Path, clock: SettableClock) -> None:
        files = make_server_certificate(folder)
        self.clock, self.ca = clock, files.ca_file.read_text()
        self.issued = 0
        self.fails: Said | None = None
        self.repositories: list[str] = []
        self.pages = 0
        self.server = LoopbackServer(json_handler(self._answer), files=files)

    def _answer(self, handler: BaseHTTPRequestHandler, _: str, body: str) -> Said:
        if self.fails is not None:
            return self.fails
        ends = int((self.clock() + timedelta(hours=1)).timestamp() * 1000)
        is_tencent = "X-TC-Action" in handler.headers
        is_proven = handler.headers["Authorization"] == (
            self._tc3(handler, body) if is_tencent else self._acs3(handler)
        )
        self.issued += is_proven
        if is_proven and (listed := self._list(handler, body)):
            return 200, listed
        if is_tencent and is_proven:
            assert json.loads(body)["RegistryId"] == "tcr-abc123"
            return 200, {"Response": {"Username": "100001", "Token": TOKEN, "ExpTime": ends}}
        if is_tencent:
            error = {"Code": "AuthFailure.SignatureFailure", "Message": "Signature is wrong."}
            return 200, {"Response": {"Error": error}}
        if not is_proven:
            return 400, {"Code": "SignatureDoesNotMatch", "Message": "Specified signature does not match."}
        return 200, {"AuthorizationToken": TOKEN, "TempUsername": "cr_temp_user", "ExpireTime": ends, "IsSuccess": True}

    def _list(self, handler: BaseHTTPRequestHandler, body: str) -> dict[str, Any]:
        """Answer a page of 100, where a list is asked for: as both clouds document it."""
        action = handler.headers["X-TC-Action"] or handler.headers["x-acs-action"]
        if action == "ListRepository":
            query = {name: values[0] for name, values in parse_qs(handler.path.partition("?")[2]).items()}
            page, size = int(query["PageNo"]), int(query["PageSize"])
            namespace = query.get("RepoNamespaceName", "")
        elif action == "DescribeRepositories":
            wanted = json.loads(body)
            page, size, namespace = wanted["Offset"], wanted["Limit"], wanted.get("NamespaceName", "")
        else:
            return {}
        self.pages += 1
        found = [
            path.split("/", 1) for path in self.repositories if path.startswith(f"{namespace}/" if namespace else "")
        ]
        found = found[(page - 1) * size : page * size]
        if action == "ListRepository":
            return {"Repositories": [{"RepoNamespaceName": one, "RepoName": name} for one, name in found]}
        items = [{"Namespace": one, "Name": f"{one}/{name}" if name < "n" else name} for one, name in found]
        return {"Response": {"RepositoryList": items, "TotalCount": len(self.repositories)}}

    def _tc3(self, handler: BaseHTTPRequestHandler, body: str) -> str:
        moment = datetime.fromtimestamp(int(handler.headers["X-TC-Timestamp"]), UTC)
        signed = {
            "content-type": "application/json; charset=utf-8",
            "host": self.server.host,
            "x-tc-action": handler.headers["X-TC-Action"].lower(),
        }
        return tc3_authorization(TENCENT["secret_id"], SECRET, service="tcr", signed=signed, payload=body, now=moment)

    def _acs3(self, handler: BaseHTTPRequestHandler) -> str:
        signed = {name.lower(): value for name, value in handler.headers.items() if name.lower().startswith("x-acs-")}
        signed["host"] = self.server.host
        query = handler.path.partition("?")[2]
        return acs3_authorization(ALIBABA["access_key_id"], SECRET, query=query, headers=signed)


@pytest.fixture
def cloud(tmp_path: Path, clock: SettableClock) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path / "cloud", clock)
    with cloud.server:
        yield cloud


def entered(cloud: Cloud, auth: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = auth | {"api_url": cloud.server.url} | more
    return {"auth": given, "trusted_hosts": [cloud.server.host], "tls": {"ca": cloud.ca}}


def private() -> Any:
    accounts = {"cr_temp_user": TOKEN, "100001": TOKEN}
    return fake_registry(Quirks(auth="token"), accounts=accounts, anonymous_actions=frozenset())


async def refusal(connect: Connect, cloud: Cloud, auth: dict[str, Any], **more: Any) -> RegistryError:
    async with private() as registry:
        with pytest.raises(RegistryError) as refused:
            await connect(registry, **entered(cloud, auth, **more)).get_manifest("team/app", V1)
    return refused.value


@KINDS
async def test_a_key_logs_in_and_the_password_ends_when_it_says(
    connect: Connect, cloud: Cloud, clock: SettableClock, auth: dict[str, Any]
) -> None:
    async with private() as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, **entered(cloud, auth))
        with logging_at_debug() as logged:
            assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
        assert client.executor.login_ends_at == clock() + timedelta(hours=1)
    assert cloud.issued == 1
    assert "canary" not in logged.getvalue()


@KINDS
async def test_a_wrong_key_is_unauthorized(connect: Connect, cloud: Cloud, auth: dict[str, Any]) -> None:
    wrong = {name: "wrong" for name in ("access_key_secret", "secret_key") if name in auth}
    error = await refusal(connect, cloud, auth, **wrong)
    assert (error.code, error.temporary) == ("unauthorized", False)
    assert "ignature" in error.message


@pytest.mark.parametrize(
    ("auth", "said", "code"),
    [
        (ALIBABA, (400, {"Code": "Throttling.User", "Message": "Request was denied."}), "rate_limited"),
        (ALIBABA, (503, {"Code": "ServiceUnavailable", "Message": "later"}), "registry_unreachable"),
        (TENCENT, (200, {"Response": {"Error": {"Code": "RequestLimitExceeded", "Message": "x"}}}), "rate_limited"),
        (TENCENT, (200, {"Response": {"Error": {"Code": "InternalError", "Message": "x"}}}), "registry_unreachable"),
    ],
)
async def test_what_may_pass_is_temporary(
    connect: Connect, cloud: Cloud, auth: dict[str, Any], *, said: Said, code: str
) -> None:
    cloud.fails = said
    error = await refusal(connect, cloud, auth)
    assert (error.code, error.temporary) == (code, True)


def test_alibabas_documented_signature() -> None:
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    query = "ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
    signed = acs3_authorization("YourAccessKeyId", "YourAccessKeySecret", query=query, headers=headers)
    assert signed == (
        "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;"
        "x-acs-signature-nonce;x-acs-version,Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    )


def test_tencents_documented_signature() -> None:
    signed = tc3_authorization(
        "AKID********************************",
        "********************************",
        service="cvm",
        signed={
            "content-type": "application/json; charset=utf-8",
            "host": "cvm.tencentcloudapi.com",
            "x-tc-action": "describeinstances",
        },
        payload=r'{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}',
        now=datetime.fromtimestamp(1551113065, UTC),
    )
    assert signed == (
        "TC3-HMAC-SHA256 Credential=AKID********************************/2019-02-25/cvm/tc3_request, "
        "SignedHeaders=content-type;host;x-tc-action, "
        "Signature=10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"
    )


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("corp-registry.cn-hangzhou.cr.aliyuncs.com", "cn-hangzhou"),
        ("corp-registry-vpc.cn-hangzhou.cr.aliyuncs.com", "cn-hangzhou"),
        ("registry.cn-hangzhou.aliyuncs.com", None),
        ("corp-registry.cn-hangzhou.cr.aliyuncs.com.example.com", None),
    ],
)
def test_the_region_follows_from_the_host(host: str, region: str | None) -> None:
    assert alibaba_region(host) == region


@KINDS
async def test_repositories_are_listed_by_the_clouds_api_a_page_at_a_time(
    connect: Connect, cloud: Cloud, auth: dict[str, Any]
) -> None:
    cloud.repositories = [*(f"team/app-{number}" for number in range(101)), "team/tool", "other/app"]
    async with private() as registry:
        client = connect(registry, **entered(cloud, auth))
        assert [path async for path in client.list_repositories("")] == cloud.repositories
        assert cloud.pages == 2
        assert [path async for path in client.list_repositories("other")] == ["other/app"]


@KINDS
async def test_a_list_that_is_refused_says_which_right_is_lacking(
    connect: Connect, cloud: Cloud, auth: dict[str, Any]
) -> None:
    async with private() as registry:
        client = connect(registry, **entered(cloud, auth))
        registry.load("team/app", IMAGE, "v1")
        await client.get_manifest("team/app", V1)
        error = {"Code": "UnauthorizedOperation", "Message": "no right"}
        cloud.fails = (200, {"Response": {"Error": error}}) if auth is TENCENT else (403, error)
        with pytest.raises(RegistryError) as refused:
            [path async for path in client.list_repositories("")]
    assert (refused.value.code, refused.value.temporary) == ("unauthorized", False)
    assert ("DescribeRepositories" if auth is TENCENT else "cr:ListRepository") in refused.value.message
