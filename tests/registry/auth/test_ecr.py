"""Repositories of ECR, private and public: made when missing, and listed, by the identity that logs in."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from app.clock import now
from app.domain.errors import RegistryError
from app.domain.registry import AwsAuth, RegistryEntry, RepositoryTemplate
from app.domain.report import CopyResult
from app.registry.auth.aws import YOUNG, AwsIdentity, CreationStep
from app.registry.creation import refusal_of_creation
from tests.registry.auth.conftest import LOGIN, ecr, login, numbers
from tests.registry.conftest import Connect, basic, entry_of
from tests.support.aws_server import ACCOUNT, AwsServer
from tests.support.ecr_public_server import ALIAS, PASSWORD, EcrPublicServer
from tests.support.fake_registry import Respond, fake_registry, on
from tests.support.images import oci_image
from tests.sync.workbench import workbench

IMAGE = oci_image("app")
UNKNOWN = b'{"errors": [{"code": "NAME_UNKNOWN", "message": "The repository with name \'mirror/app\' does not exist"}]}'
MAKE = "ecr:CreateRepository"


async def copied_where_missing(server: AwsServer, actions: list[str]) -> CopyResult:
    """Copy an image to a registry that does not know the repository until it was asked a second time."""
    maker = server.make_user(f"maker-{next(numbers)}", actions=[LOGIN, *actions])
    async with fake_registry() as here, ecr() as there:
        here.load("app", IMAGE, "v1")
        there.faults.add(Respond(404, (), UNKNOWN), matching=on("upload_start"))
        wanted = {"immutable_tags": True, "scan_on_push": True}
        entry = entry_of(there, type="ecr", auth=login(maker), create_missing=wanted)
        async with workbench(here, entries=[entry]) as bench:
            [result] = await bench.copy(f"{here.host}/app:v1", f"{there.host}/mirror/app:v1")
    return result


async def test_a_repository_that_is_missing_is_made_by_the_identity_that_logs_in(aws: AwsServer) -> None:
    assert (await copied_where_missing(aws, [MAKE])).outcome == "copied"
    key = aws.make_user(f"looker-{next(numbers)}", actions=["ecr:DescribeRepositories"])
    [made] = aws.client("ecr", key).describe_repositories(repositoryNames=["mirror/app"])["repositories"]
    assert (made["imageTagMutability"], made["imageScanningConfiguration"]) == ("IMMUTABLE", {"scanOnPush": True})
    assert (await copied_where_missing(aws, [MAKE])).outcome == "copied"  # another process was first


async def test_an_identity_that_may_not_make_repositories_is_told_which_right_it_lacks(aws: AwsServer) -> None:
    result = await copied_where_missing(aws, [])
    assert result.error is not None
    assert (result.error.code, MAKE in result.error.message) == ("denied", True)


async def test_tags_a_key_and_what_is_deleted_when_are_those_of_the_entry(aws: AwsServer) -> None:
    name = f"mirror/labelled-{next(numbers)}"
    actions = [MAKE, "ecr:TagResource", "ecr:PutLifecyclePolicy", "ecr:Get*", "ecr:List*", "ecr:Describe*"]
    key = aws.make_user(f"maker-{next(numbers)}", actions=actions)
    entry = RegistryEntry(name="ecr", host=f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com", auth=AwsAuth(**login(key)))
    assert isinstance(entry.auth, AwsAuth)
    template = RepositoryTemplate(tags=("team=platform", "note=a=b"), lifecycle=rules(), encryption_key="alias/images")
    await AwsIdentity(entry, entry.auth).create_repository(name, template, creation=CreationStep())

    there = aws.client("ecr", key)
    [made] = there.describe_repositories(repositoryNames=[name])["repositories"]
    tags = there.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"]
    assert made["encryptionConfiguration"]["encryptionType"] == "KMS"
    assert tags == [{"Key": "team", "Value": "platform"}, {"Key": "note", "Value": "a=b"}]
    assert json.loads(there.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"]) == json.loads(rules())


def rules() -> str:
    selection = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 9}
    return json.dumps({"rules": [{"rulePriority": 1, "selection": selection, "action": {"type": "expire"}}]})


def policies_of(there: Any, name: str) -> bool:
    try:
        return bool(there.get_lifecycle_policy(repositoryName=name))
    except there.exceptions.LifecyclePolicyNotFoundException:
        return False


async def test_a_lifecycle_that_was_refused_is_set_before_the_next_push(aws: AwsServer) -> None:
    maker = f"maker-{next(numbers)}"
    name = f"mirror/half-{next(numbers)}"
    actions = [LOGIN, MAKE, "ecr:GetLifecyclePolicy", "ecr:DescribeRepositories"]
    key = aws.make_user(maker, actions=actions)
    there = aws.client("ecr", key)
    async with fake_registry() as here, ecr() as registry:
        for tag in ("v1", "v2"):
            here.load("app", IMAGE, tag)
        registry.faults.add(Respond(404, (), UNKNOWN), matching=on("upload_start"))
        entry = entry_of(registry, type="ecr", auth=login(key), create_missing={"lifecycle": rules()})
        async with workbench(here, entries=[entry]) as bench:
            [refused] = await bench.copy(f"{here.host}/app:v1", f"{registry.host}/{name}:v1")
            assert refused.error is not None
            assert (refused.error.code, "ecr:PutLifecyclePolicy" in refused.error.message) == ("denied", True)
            assert not policies_of(there, name)
            aws.allow(maker, actions=[*actions, "ecr:PutLifecyclePolicy"])
            [result] = await bench.copy(f"{here.host}/app:v2", f"{registry.host}/{name}:v2")
    assert (result.outcome, policies_of(there, name)) == ("copied", True)


async def test_another_process_sets_the_lifecycle_of_a_young_repository_only(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [MAKE, "ecr:PutLifecyclePolicy", "ecr:GetLifecyclePolicy", "ecr:DescribeRepositories"]
    key = aws.make_user(f"maker-{next(numbers)}", actions=actions)
    entry = RegistryEntry(name="ecr", host=f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com", auth=AwsAuth(**login(key)))
    assert isinstance(entry.auth, AwsAuth)
    there, identity = aws.client("ecr", key), AwsIdentity(entry, entry.auth)
    old, young = (f"mirror/{age}-{next(numbers)}" for age in ("old", "young"))
    for name in (old, young):
        there.create_repository(repositoryName=name)
    await identity.create_repository(young, RepositoryTemplate(lifecycle=rules()), creation=CreationStep())
    later = now() + YOUNG + timedelta(minutes=1)
    monkeypatch.setattr("app.registry.auth.aws.now", lambda: later)
    await identity.create_repository(old, RepositoryTemplate(lifecycle=rules()), creation=CreationStep())
    assert (policies_of(there, young), policies_of(there, old)) == (True, False)


async def test_repositories_are_listed_by_the_api_and_by_the_catalog_where_it_is_not_allowed(
    aws: AwsServer, connect: Connect
) -> None:
    reader = aws.make_user(f"reader-{next(numbers)}", actions=[LOGIN, "ecr:DescribeRepositories", MAKE])
    names = [f"listed/{number}" for number in range(3)]
    for name in names:
        aws.client("ecr", reader).create_repository(repositoryName=name)
    puller = aws.make_user(f"puller-{next(numbers)}", actions=[LOGIN])
    async with ecr() as registry:
        registry.load("listed/catalog", IMAGE, "v1")
        found = [path async for path in connect(registry, type="ecr", auth=login(reader)).list_repositories("listed")]
        assert (found, registry.journal.count("catalog")) == (names, 0)
        client = connect(registry, type="ecr", auth=login(puller))
        assert [path async for path in client.list_repositories("listed")] == ["listed/catalog"]


async def test_tags_are_listed_with_their_digests_for_an_identity_only(aws: AwsServer, connect: Connect) -> None:
    name = f"tagged/{next(numbers)}"
    key = aws.make_user(f"pusher-{next(numbers)}", actions=[LOGIN, MAKE, "ecr:PutImage", "ecr:ListImages"])
    there = aws.client("ecr", key)
    there.create_repository(repositoryName=name)
    manifest = IMAGE.raw.decode()
    for tag in ("v1", "v2"):
        there.put_image(repositoryName=name, imageManifest=manifest, imageTag=tag)
    async with ecr() as registry:
        client = connect(registry, type="ecr", auth=login(key))
        assert client.has_digest_list
        listed = [one async for one in client.list_digests(name)]
        assert {one.tag for one in listed} == {"v1", "v2"}
        assert not connect(registry, type="ecr", auth=basic()).has_digest_list


async def test_push_dates_say_which_images_need_not_be_read(aws: AwsServer) -> None:
    name = f"dated/{next(numbers)}"
    actions = [LOGIN, MAKE, "ecr:PutImage"]
    dated, undated = (
        aws.make_user(f"reader-{next(numbers)}", actions=[*actions, *more]) for more in (["ecr:DescribeImages"], [])
    )
    there = aws.client("ecr", dated)
    there.create_repository(repositoryName=name)
    async with ecr() as registry:
        for tag in ("v1", "v2", "v3"):
            image = oci_image(tag)
            there.put_image(repositoryName=name, imageManifest=image.raw.decode(), imageTag=tag)
            registry.load(name, image, tag)
        for key, read in ((dated, 0), (undated, 3)):
            registry.journal.clear()
            async with workbench(entries=[entry_of(registry, type="ecr", auth=login(key))]) as bench:
                bench.clock = lambda: now() + timedelta(days=8)
                rule: dict[str, object] = {
                    "source": f"{registry.host}/{name}",
                    "destination": "there.example.com/x",
                    "min_age": "7d",
                }
                taken = [str(copy.source.tag) for copy in await bench.plan(rule)]
            # What nobody knows the time of is as young as it is known here.
            assert taken == ([] if read else ["v1", "v2", "v3"])
            assert registry.journal.count("manifest") == read


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[EcrPublicServer]:
    """Point botocore at a public registry's API."""
    with EcrPublicServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR_PUBLIC", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def public_identity(**more: Any) -> AwsIdentity:
    auth = AwsAuth(access_key_id="AKIA0123456789ABCDEF", secret_access_key="secret", **more)  # type: ignore[arg-type]  # pydantic makes a secret of it
    return AwsIdentity(RegistryEntry(name="public", host="public.ecr.aws", auth=auth), auth)


async def test_the_public_registry_is_logged_in_to_in_its_one_region(public: EcrPublicServer) -> None:
    got = await public_identity(region="eu-central-1").fetch()
    assert (got.login.username, got.login.password) == ("AWS", PASSWORD)
    assert public.calls == [("GetAuthorizationToken", {})]
    assert public.regions == {"us-east-1"}


async def test_the_public_registrys_repositories_are_listed_page_by_page(public: EcrPublicServer) -> None:
    public.repositories.update({f"app-{number}": {} for number in range(5)})
    found = [path async for path in public_identity().list_repositories()]
    assert found == [f"{ALIAS}/app-{number}" for number in range(5)]
    assert len(public.calls) == 3


async def test_a_public_repository_is_made_below_an_alias_of_the_account(public: EcrPublicServer) -> None:
    template = RepositoryTemplate(description="a mirror", tags=("team=platform",))
    for _ in range(2):  # one that is there is success
        await public_identity().create_repository(f"{ALIAS}/team/app", template, creation=CreationStep())
    made = {"catalogData": {"description": "a mirror"}, "tags": [{"Key": "team", "Value": "platform"}]}
    assert public.repositories == {"team/app": made | {"repositoryName": "team/app"}}
    with pytest.raises(RegistryError, match=f"no alias of this account's, which has {ALIAS}") as refused:
        await public_identity().create_repository("others/app", RepositoryTemplate(), creation=CreationStep())
    assert refused.value.code == "denied"
    public.refuses = "CreateRepository"
    with pytest.raises(RegistryError, match="ecr-public:CreateRepository") as refused:
        await public_identity().create_repository(f"{ALIAS}/new", RepositoryTemplate(), creation=CreationStep())
    assert refused.value.code == "denied"


def test_what_the_public_registry_does_not_know_is_refused_at_its_entry() -> None:
    entry = {"name": "public", "host": "public.ecr.aws", "create_missing": {"immutable_tags": True}}
    keys = {"type": "aws", "access_key_id": "AKIA0123456789ABCDEF", "secret_access_key": "secret"}
    refusal = refusal_of_creation(RegistryEntry.model_validate(entry | {"auth": keys}))
    assert refusal == ("/create_missing/immutable_tags", "this registry has no such setting; it has description, tags")
    refusal = refusal_of_creation(RegistryEntry.model_validate(entry | {"create_missing": {}}))
    assert refusal is not None
    assert "auth.type aws" in refusal[1]
