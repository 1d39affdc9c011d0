"""Digest lists: vendors' lists that say the digests of all tags of a repository, and mostly when each was pushed.

Which registry has one is said in `app/registry/quirks.py`. Sources: ACR's reference (`containerregistry/tag/get-list`),
Amazon ECR's (`ListImages`, `DescribeImages`), Harbor's (`listArtifacts`),
go-containerregistry's `pkg/v1/google` for Google's `tags/list`, Quay's (`listRepoTags`),
Docker Hub's ("List repository tags"), GitLab's container registry (`docs/spec/gitlab/api.md`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from app.clock import parse_time
from app.domain.reference import DOCKER_HUB, Digest, InvalidReferenceError, Tag
from app.domain.registry import AwsAuth
from app.registry.auth.aws import AwsIdentity
from app.registry.auth.challenge import Scopes
from app.registry.http.errors import Response
from app.registry.http.message import Url
from app.registry.listing.pages import api_entries, next_page
from app.registry.listing.vendor_apis import DOCKER_HUB_API, docker_hub_login, next_in_body, password_of, token_of
from app.registry.quirks import quirks_of
from app.registry.requests import RegistryRequest, RequestExecutor

_OK = frozenset({200})
_PAGE, _LARGE_PAGE = 100, 1000


class ListedTag(Struct, frozen=True, gc=False):
    """What a list says of one tag; its media type is empty and its time None where the list says none."""

    tag: Tag
    digest: Digest
    media_type: str = ""
    pushed_at: datetime | None = None
    """When the registry got the image, or this tag became that image: no image is made later than that."""


def has_digest_list(executor: RequestExecutor) -> bool:
    """Return whether a registry is of a type that has such a list."""
    digests_by = quirks_of(executor.entry).digests_by
    if digests_by == "ecr":
        return isinstance(executor.entry.auth, AwsAuth)  # Amazon's API takes no password of the registry's
    return digests_by != "nothing"


async def list_digests(
    executor: RequestExecutor, repository: str, *, scopes: Scopes, dated: bool = False
) -> AsyncIterator[ListedTag]:
    """Yield what the list says; what can't be read is left out. Raise `RegistryError` where there is no list.

    `dated` asks for the times too where that is another list, for which another right is needed.
    """
    quirks = quirks_of(executor.entry)
    if quirks.tag_list_action:
        scopes = scopes.merge(Scopes.repository(repository, quirks.tag_list_action))
    listed = _ecr_dated if dated and quirks.digests_by == "ecr" else _LISTS[quirks.digests_by]
    async for item in listed(executor, repository, scopes):
        for tag, digest, media_type, pushed_at in item:
            kind = media_type if isinstance(media_type, str) else ""
            try:
                yield ListedTag(Tag(tag), Digest(digest), kind, pushed_at)
            except (InvalidReferenceError, TypeError):
                continue


_Item = list[tuple[Any, Any, Any, datetime | None]]


async def _acr(executor: RequestExecutor, repository: str, scopes: Scopes) -> AsyncIterator[_Item]:
    url = executor.home.with_target(f"/acr/v1/{repository}/_tags?n={_LARGE_PAGE}")
    async for item in api_entries(executor, _call(url, scopes), key="tags", follow=_next_by_last):
        pushed_at = parse_time(item.get("lastUpdateTime")) if isinstance(item, dict) else None
        yield [(item["name"], item["digest"], None, pushed_at)] if _has(item, "name", "digest") else []


async def _ecr(executor: RequestExecutor, repository: str, _scopes: Scopes) -> AsyncIterator[_Item]:
    await executor.login()  # raises where the identity may not be used
    if isinstance(executor.entry.auth, AwsAuth):
        async for tag, digest in AwsIdentity(executor.entry, executor.entry.auth).list_tags(repository):
            yield [(tag, digest, None, None)]


async def _ecr_dated(executor: RequestExecutor, repository: str, _scopes: Scopes) -> AsyncIterator[_Item]:
    await executor.login()
    if isinstance(executor.entry.auth, AwsAuth):
        async for image in AwsIdentity(executor.entry, executor.entry.auth).list_images(repository):
            time, tags = image.get("imagePushedAt"), image.get("imageTags") or ()
            pushed_at = time.astimezone(UTC) if isinstance(time, datetime) else None
            yield [(tag, image.get("imageDigest"), image.get("imageManifestMediaType"), pushed_at) for tag in tags]


async def _harbor(executor: RequestExecutor, repository: str, _scopes: Scopes) -> AsyncIterator[_Item]:
    login = await password_of(executor)
    project, _, name = repository.partition("/")
    # Escaped twice: Harbor's router undoes it once before it looks for slashes.
    path = f"/api/v2.0/projects/{quote(project)}/repositories/{quote(quote(name, safe=''))}/artifacts"
    url = executor.home.with_target(f"{path}?with_tag=true&page_size={_PAGE}")
    headers = {"Authorization": login.basic} if login.password else {}
    async for item in api_entries(executor, _call(url, Scopes(), login=headers), key=None, follow=next_page):
        tags = item.get("tags") if _has(item, "digest") else None
        kind, pushed_at = (item.get("manifest_media_type"), parse_time(item.get("push_time"))) if tags else (None, None)
        yield [(tag["name"], item["digest"], kind, pushed_at) for tag in tags or () if _has(tag, "name")]


async def _google(executor: RequestExecutor, repository: str, scopes: Scopes) -> AsyncIterator[_Item]:
    request = _call(executor.home.with_target(f"/v2/{repository}/tags/list"), scopes)
    limit = quirks_of(executor.entry).page_bytes  # whole: Google has no pages
    answer = await executor.fetch(replace(request, body_limit=limit))
    try:
        manifests = json.loads(answer.body).get("manifest")
    except (ValueError, RecursionError, AttributeError):
        manifests = None
    for digest, entry in manifests.items() if isinstance(manifests, dict) else ():
        tags = entry.get("tag") if isinstance(entry, dict) else None
        listed = tags if isinstance(tags, list) else []
        yield [(tag, digest, entry.get("mediaType"), _after_1970(entry.get("timeUploadedMs"), 1000)) for tag in listed]


async def _quay(executor: RequestExecutor, repository: str, _scopes: Scopes) -> AsyncIterator[_Item]:
    login = await executor.login()
    url = executor.home.with_target(f"/api/v1/repository/{repository}/tag/?onlyActiveTags=true&limit={_PAGE}")
    headers = {"Authorization": f"Bearer {token_of(executor, login)}"} if login.username == "$oauthtoken" else {}
    async for item in api_entries(executor, _call(url, Scopes(), login=headers), key="tags", follow=_next_by_number):
        pushed_at = _after_1970(item.get("start_ts"), 1) if isinstance(item, dict) else None
        yield (
            [(item["name"], item["manifest_digest"], None, pushed_at)] if _has(item, "name", "manifest_digest") else []
        )


async def _docker_hub(executor: RequestExecutor, repository: str, _scopes: Scopes) -> AsyncIterator[_Item]:
    origin = Url.parse(DOCKER_HUB_API) if executor.entry.registry == DOCKER_HUB else executor.home
    login = await docker_hub_login(executor, origin)
    namespace, _, name = repository.partition("/")
    url = origin.with_target(f"/v2/namespaces/{quote(namespace)}/repositories/{quote(name)}/tags?page_size={_PAGE}")
    async for item in api_entries(executor, _call(url, Scopes(), login=login), key="results", follow=next_in_body):
        yield _of_tag(item, "tag_last_pushed")


async def _gitlab(executor: RequestExecutor, repository: str, scopes: Scopes) -> AsyncIterator[_Item]:
    url = executor.home.with_target(f"/gitlab/v1/repositories/{repository}/tags/list/?n={_LARGE_PAGE}")
    async for item in api_entries(executor, _call(url, scopes), key=None, follow=next_page):
        yield _of_tag(item, "published_at")


def _of_tag(item: Any, time: str) -> _Item:
    if not _has(item, "name", "digest"):
        return []
    return [(item["name"], item["digest"], item.get("media_type"), parse_time(item.get(time)))]


def _after_1970(count: object, in_a_second: int) -> datetime | None:
    """Read a time that is a number, or the text of one; None for what is none."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(str(count)) / in_a_second)
    except (ValueError, OverflowError):
        return None


def _call(url: Url, scopes: Scopes, *, login: Mapping[str, str] | None = None) -> RegistryRequest:
    return RegistryRequest(
        operation="list_digests",
        method="GET",
        url=url,
        scopes=scopes,
        expects=_OK,
        headers={"Accept": "application/json"},
        login=login,
    )


def _has(item: Any, *fields: str) -> bool:
    return isinstance(item, dict) and all(isinstance(item.get(field), str) for field in fields)


def _next_by_last(answer: Response, url: Url) -> Url | None:
    """Go on by `Link`, or after the last tag of a full page that has none (ACR documents both)."""
    if (following := next_page(answer, url)) is not None:
        return following
    tags = json.loads(answer.body).get("tags") or []
    if len(tags) < _LARGE_PAGE or not _has(tags[-1], "name"):
        return None
    return url.with_parameter("last", tags[-1]["name"])


def _next_by_number(answer: Response, url: Url) -> Url | None:
    document = json.loads(answer.body)
    page = document.get("page")
    is_last = not document.get("has_additional") or not isinstance(page, int)
    return None if is_last else url.with_parameter("page", str(page + 1))


_LISTS: dict[str, Callable[[RequestExecutor, str, Scopes], AsyncIterator[_Item]]] = {
    "acr": _acr,
    "ecr": _ecr,
    "harbor": _harbor,
    "google": _google,
    "quay": _quay,
    "docker_hub": _docker_hub,
    "gitlab": _gitlab,
}
