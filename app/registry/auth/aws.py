"""ECR's passwords and repositories, asked for with an access key, an assumed role, or the identity of the machine.

Source: Amazon ECR API reference, GetAuthorizationToken (12 hours), CreateRepository, PutLifecyclePolicy,
GetLifecyclePolicy, DescribeRepositories, ListImages and DescribeImages; Amazon ECR Public API reference, which has the
like; AWS STS API reference, AssumeRole and GetCallerIdentity; IAM User Guide, "Troubleshoot access denied error
messages". botocore is an extra (`registry-sync[aws]`), imported when a login needs it, and runs in threads: it blocks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import partial
from typing import Any, TypeVar

from app.clock import now
from app.domain.errors import RegistryError
from app.domain.registry import ECR_PUBLIC, AwsAuth, RegistryEntry, RepositoryTemplate, ecr_region
from app.registry.auth.credentials import Login
from app.registry.auth.issuer import login_error
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.error_body import clean
from app.registry.limits import MAX_PAGES

T = TypeVar("T")
_SESSION_NAME = "registry-sync"
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 10, 30, 3
_RATE_LIMITS = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"})
_DENIALS = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_DENIAL = "is not authorized to perform"
"""IAM's words for a right that is missing, whatever code they come with."""
_RIGHTS = {
    "AssumeRole": "sts:AssumeRole",
    "GetAuthorizationToken": "ecr:GetAuthorizationToken",
    "CreateRepository": "ecr:CreateRepository",
    "TagResource": "ecr:TagResource",
    "PutLifecyclePolicy": "ecr:PutLifecyclePolicy",
    "GetLifecyclePolicy": "ecr:GetLifecyclePolicy",
    "DescribeRepositories": "ecr:DescribeRepositories",
    "ListImages": "ecr:ListImages",
    "DescribeImages": "ecr:DescribeImages",
}
_PUBLIC_RIGHTS = {
    "GetAuthorizationToken": "ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken",
    "CreateRepository": "ecr-public:CreateRepository",
    "DescribeRegistries": "ecr-public:DescribeRegistries",
    "DescribeRepositories": "ecr-public:DescribeRepositories",
}
_REFUSED_VALUES = frozenset({"InvalidParameterException", "InvalidTagParameterException", "KmsException"})
_LIMITS = frozenset({"LimitExceededException"})
_SERVER_ERROR = 500
_SHORTEST_LIFECYCLE = 100
"""ECR takes no shorter text; blanks at its end mean nothing."""
YOUNG = timedelta(hours=1)
"""How long after a repository was made its lifecycle may be set by another process, which finds that it has none."""
_PAGE = 1000
"""The most repositories or images that ECR puts on a page."""


@dataclass(slots=True)
class CreationStep:
    """How far making something got: its second step is ours to take again once the first was taken."""

    has_begun: bool = False


class AwsIdentity:
    """One entry's identity at AWS: `auth` is the entry's, whose proxy is gone through to AWS too."""

    def __init__(self, entry: RegistryEntry, auth: AwsAuth) -> None:
        self._entry = entry
        self._auth = auth

    async def fetch(self) -> RenewableLogin:
        """Ask for a password.

        Raise `RegistryError`: `unauthorized` for an identity that AWS does not take, `denied` for one that lacks a
        right, `registry_unreachable` or `rate_limited` for what may pass.
        """
        return await self._run(self._ask)

    async def create_repository(self, name: str, template: RepositoryTemplate, *, creation: CreationStep) -> None:
        """Make a repository unless it is there; raise `RegistryError` as `fetch` does, `limit_exceeded` when full.

        One that is there without its lifecycle gets it where this process made it, or it is no older than `YOUNG`.
        """
        if self._is_public:
            await self._run(lambda: self._create_public(name, template))
        else:
            await self._run(lambda: self._create(name, template, creation))

    async def list_repositories(self) -> AsyncIterator[str]:
        """Yield the paths of the account's repositories as the registry has them, a page at a time."""
        async for page in self._pages("describe_repositories"):
            for repository in page["repositories"]:
                yield str(repository["repositoryUri"]).partition("/")[2]

    async def list_tags(self, repository: str) -> AsyncIterator[tuple[Any, Any]]:
        """Yield the tags of a repository with their digests, a page at a time; the right is `ecr:ListImages`."""
        tagged = {"repositoryName": repository, "filter": {"tagStatus": "TAGGED"}}
        async for page in self._pages("list_images", **tagged):
            for image in page["imageIds"]:
                yield image.get("imageTag"), image.get("imageDigest")

    async def list_images(self, repository: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the images that have tags as ECR describes them, page by page; the right is `ecr:DescribeImages`."""
        tagged = {"repositoryName": repository, "filter": {"tagStatus": "TAGGED"}}
        async for page in self._pages("describe_images", **tagged):
            for image in page["imageDetails"]:
                yield image

    async def _pages(self, operation: str, **wanted: Any) -> AsyncIterator[Any]:
        client = await self._run(lambda: self._client(self._session(), self._service))
        token: dict[str, Any] = {}
        for _ in range(MAX_PAGES):
            page = await self._run(partial(getattr(client, operation), maxResults=_PAGE, **wanted, **token))
            yield page
            if not page.get("nextToken"):
                return
            token = {"nextToken": page["nextToken"]}
        raise self._error(f"its list has more than {MAX_PAGES} pages", code="limit_exceeded")

    async def get_caller(self) -> str:
        """Return who AWS takes it for: an ARN. It takes no right."""
        return str((await self._run(lambda: self._client(self._session(), "sts").get_caller_identity()))["Arn"])

    async def _run(self, ask: Callable[[], T]) -> T:
        try:
            import botocore.exceptions as failures
        except ImportError as error:
            raise self._error("logins by AWS need an extra: install registry-sync[aws]") from error
        try:
            return await asyncio.to_thread(ask)
        except failures.ClientError as error:
            raise self._refusal(error) from None
        except (failures.NoCredentialsError, failures.PartialCredentialsError):
            raise self._error("this machine has no identity at AWS") from None
        except failures.ProfileNotFound:
            raise self._error("this machine has no such profile of AWS") from None
        except (failures.HTTPClientError, failures.ConnectionError):
            raise self._error("AWS does not answer", code="registry_unreachable", temporary=True) from None
        except (failures.BotoCoreError, LookupError, TypeError, ValueError, AttributeError, binascii.Error):
            # Not what it says: parameters, and secrets among them, are repeated in some.
            raise self._error("AWS answered what can't be used") from None

    def _ask(self) -> RenewableLogin:
        answer = self._client(self._session(), self._service).get_authorization_token()["authorizationData"]
        answer = answer if self._is_public else answer[0]
        name, _, password = base64.b64decode(answer["authorizationToken"], validate=True).decode().partition(":")
        return RenewableLogin(Login(username=name, password=password), answer["expiresAt"].astimezone(UTC))

    def _create(self, name: str, template: RepositoryTemplate, creation: CreationStep) -> None:
        wanted: dict[str, Any] = {
            "repositoryName": name,
            "imageTagMutability": "IMMUTABLE" if template.immutable_tags else "MUTABLE",
            "imageScanningConfiguration": {"scanOnPush": template.scan_on_push},
        }
        if template.encryption_key is not None:
            wanted["encryptionConfiguration"] = {"encryptionType": "KMS", "kmsKey": template.encryption_key}
        wanted |= _tags_of(template)
        client = self._client(self._session(), "ecr")
        try:
            client.create_repository(**wanted)
            creation.has_begun = True
        except client.exceptions.RepositoryAlreadyExistsException:
            if template.lifecycle is None or not _lacks_lifecycle(client, name, creation):
                return
        if template.lifecycle is not None:
            policy = template.lifecycle.ljust(_SHORTEST_LIFECYCLE)
            client.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=policy)

    def _create_public(self, name: str, template: RepositoryTemplate) -> None:
        """Make a repository below one of the account's aliases, the first part of the name; any other is not ours."""
        alias, _, short = name.partition("/")
        client = self._client(self._session(), self._service)
        ours = {one["name"] for there in client.describe_registries()["registries"] for one in there["aliases"]}
        if alias not in ours:
            aliases = ", ".join(sorted(ours)) or "none"
            raise self._error(f"{alias} is no alias of this account's, which has {aliases}", code="denied")
        wanted: dict[str, Any] = {"repositoryName": short, **_tags_of(template)}
        if template.description:
            wanted["catalogData"] = {"description": template.description}
        with suppress(client.exceptions.RepositoryAlreadyExistsException):
            client.create_repository(**wanted)

    @property
    def _is_public(self) -> bool:
        return self._entry.registry == ECR_PUBLIC

    @property
    def _service(self) -> str:
        return "ecr-public" if self._is_public else "ecr"

    def _session(self) -> Any:
        from botocore.session import Session

        auth = self._auth
        session = Session(profile=auth.profile)
        if auth.access_key_id is not None:
            secret = auth.secret_access_key
            session.set_credentials(auth.access_key_id, secret.get_secret_value() if secret else "")
        if auth.role_arn is None:
            return session
        wanted = {"RoleArn": auth.role_arn, "RoleSessionName": _SESSION_NAME}
        if auth.external_id is not None:
            wanted["ExternalId"] = auth.external_id
        role = self._client(session, "sts").assume_role(**wanted)["Credentials"]
        assumed = Session()
        assumed.set_credentials(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"])
        return assumed

    def _client(self, session: Any, service: str) -> Any:
        from botocore.config import Config

        proxy = self._entry.proxy
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"total_max_attempts": _ATTEMPTS},
            proxies={"http": proxy, "https": proxy} if proxy else None,
        )
        there = ecr_region(self._entry.registry)
        region = there if self._is_public else self._auth.region or there
        return session.create_client(service, region_name=region, config=config)

    def _refusal(self, error: Any) -> RegistryError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        words = clean(f"{code}: {error.response.get('Error', {}).get('Message', '')}")
        if code in _RATE_LIMITS:
            return self._error(f"AWS limits the rate of requests ({words})", code="rate_limited", temporary=True)
        if status >= _SERVER_ERROR:
            return self._error(f"AWS failed ({words})", code="registry_unreachable", temporary=True)
        if code in _LIMITS:
            return self._error(f"AWS has a limit ({words})", code="limit_exceeded")
        if code in _REFUSED_VALUES:
            return self._error(f"AWS takes no such repository ({words})", code="denied")
        if code in _DENIALS or _DENIAL in words:
            rights = _RIGHTS | _PUBLIC_RIGHTS if self._is_public else _RIGHTS
            right = rights.get(error.operation_name, error.operation_name)
            return self._error(f"the AWS identity lacks the right {right}: allow it that ({words})", code="denied")
        return self._error(f"AWS does not take the identity: check its access key or role ({words})")

    def _error(self, message: str, *, code: str = "unauthorized", temporary: bool = False) -> RegistryError:
        return login_error(self._entry.registry, message, code=code, temporary=temporary)


def _lacks_lifecycle(client: Any, name: str, creation: CreationStep) -> bool:
    """Whether a repository was left half made: without a policy, by us or lately. Any other is as its owner has it."""
    if not creation.has_begun:
        [there] = client.describe_repositories(repositoryNames=[name])["repositories"]
        if there["createdAt"] < now() - YOUNG:
            return False
        creation.has_begun = True
    try:
        client.get_lifecycle_policy(repositoryName=name)
    except client.exceptions.LifecyclePolicyNotFoundException:
        return True
    return False


def _tags_of(template: RepositoryTemplate) -> dict[str, Any]:
    """Return the tags to create with: none at all where none are wanted, since tagging takes a right of its own."""
    tags = [{"Key": name, "Value": value} for name, value in template.labels.items()]
    return {"tags": tags} if tags else {}
