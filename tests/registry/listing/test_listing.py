"""Lists: pages that never leave the registry, entries that are none, and lists that never end."""

from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.registry.limits import MAX_PAGES
from app.registry.listing.pages import ListWarnings
from tests.registry.conftest import Connect, basic
from tests.support.fake_registry import Quirks, fake_registry
from tests.support.images import oci_image

IMAGE = oci_image("app")
TAGS = [f"v{number:02}" for number in range(12)]


@pytest.mark.parametrize(
    "link",
    ["relative", "absolute", "query_only", "other_host", "plain_http", "http_same_port", "unquoted"],
)
@pytest.mark.parametrize("tokens", [False, True])
async def test_pages_are_followed_whatever_host_their_link_names(connect: Connect, link: Any, *, tokens: bool) -> None:
    quirks = Quirks(auth="basic", page_cap=5, link=link, link_tokens_opaque=tokens)
    async with fake_registry(quirks, tls=True) as registry:
        registry.load("team/app", IMAGE, *TAGS)
        client = connect(registry, auth=basic())
        assert [tag async for tag in client.list_tags("team/app")] == TAGS
        assert registry.journal.count("tags") == 3
        assert {entry.origin for entry in registry.journal} == {"registry"}


async def test_a_link_to_itself_ends_the_list(connect: Connect) -> None:
    async with fake_registry(Quirks(page_cap=5, link="to_itself")) as registry:
        registry.load("team/app", IMAGE, *TAGS)
        assert [tag async for tag in connect(registry).list_tags("team/app")] == TAGS[:5]
        assert registry.journal.count("tags") <= 2


async def test_an_endless_list_ends_with_an_error(connect: Connect) -> None:
    async with fake_registry(Quirks(endless=True)) as registry:
        with pytest.raises(RegistryError) as refusal:
            [tag async for tag in connect(registry).list_tags("team/app")]
        assert (refusal.value.code, refusal.value.temporary) == ("limit_exceeded", False)
        assert registry.journal.count("tags") == MAX_PAGES + 1


async def test_a_list_with_too_many_entries_ends_with_an_error(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.registry.listing.pages.MAX_ITEMS", 11)
    for quirks in (Quirks(page_cap=5), Quirks(link_missing=True, n_limit=100)):
        async with fake_registry(quirks) as registry:
            registry.load("team/app", IMAGE, *[f"v{number:03}" for number in range(150)])
            with pytest.raises(RegistryError) as refusal:
                [tag async for tag in connect(registry).list_tags("team/app")]
            assert refusal.value.code == "limit_exceeded"


async def test_a_page_is_read_up_to_what_its_type_may_need(connect: Connect) -> None:
    tags = [f"{number:0100}" for number in range(45_000)]
    async with fake_registry(Quirks(extra_tags=tuple(tags), n_limit=0)) as registry:
        registry.load("team/app", IMAGE, "v1")
        with pytest.raises(RegistryError) as refusal:
            [tag async for tag in connect(registry).list_tags("team/app")]
        assert (refusal.value.code, refusal.value.temporary) == ("limit_exceeded", False)
        whole = [tag async for tag in connect(registry, type="gar").list_tags("team/app")]
        assert set(whole) == {"v1", *tags}


@pytest.mark.parametrize(("limit", "requests"), [(1000, 1), (999, 2), (100, 2), (99, 3)])
async def test_a_page_size_that_is_refused_is_lowered(connect: Connect, limit: int, requests: int) -> None:
    async with fake_registry(Quirks(n_limit=limit)) as registry:
        registry.load("team/app", IMAGE, *TAGS)
        client = connect(registry)
        assert [tag async for tag in client.list_tags("team/app")] == TAGS
        assert registry.journal.count("tags") == requests
        assert [path async for path in client.list_repositories()] == ["team/app"]


async def test_full_pages_without_a_link_are_followed_by_the_last_entry(connect: Connect) -> None:
    async with fake_registry(Quirks(link_missing=True, n_limit=100)) as registry:
        tags = [f"v{number:03}" for number in range(250)]
        registry.load("team/app", IMAGE, *tags)
        assert [tag async for tag in connect(registry).list_tags("team/app")] == tags
        assert registry.journal.count("tags") == 4


async def test_a_registry_that_ignores_last_is_not_asked_for_ever(connect: Connect) -> None:
    async with fake_registry(Quirks(link_missing=True, n_limit=100, link_tokens_opaque=True)) as registry:
        registry.load("team/app", IMAGE, *[f"v{number:03}" for number in range(250)])
        assert len([tag async for tag in connect(registry).list_tags("team/app")]) == 100
        assert registry.journal.count("tags") <= 3


async def test_what_is_no_tag_is_left_out(connect: Connect) -> None:
    extra = (None, "sha256:" + "0" * 64, "../../x", "", "a b", "\x1b[31m", "v" * 129, "v01")
    async with fake_registry(Quirks(extra_tags=extra, tags_unsorted=True, tags_extra_fields=True)) as registry:
        registry.load("team/app", IMAGE, "v01", "v02")
        tags = [tag async for tag in connect(registry).list_tags("team/app")]
        assert sorted(tags) == ["v01", "v02"]


async def test_what_is_no_repository_is_left_out(connect: Connect) -> None:
    async with fake_registry() as registry:
        for name in ("team/app", "Team/App", "../etc", "team//app"):
            registry.content.repository(name)
        registry.load("team/app", IMAGE, "v1")
        assert [path async for path in connect(registry).list_repositories()] == ["team/app"]


async def test_a_namespace_takes_what_lies_below_it(connect: Connect) -> None:
    async with fake_registry() as registry:
        for name in ("team", "team/app", "team/a/b", "teams/app", "other"):
            registry.load(name, IMAGE, "v1")
        client = connect(registry)
        assert [path async for path in client.list_repositories("team")] == ["team/a/b", "team/app"]


async def test_null_is_an_empty_list(connect: Connect) -> None:
    async with fake_registry(Quirks(tags_null=True)) as registry:
        assert [tag async for tag in connect(registry).list_tags("team/app")] == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "repository_missing"),
        (403, "denied"),
        (401, "unauthorized"),
        (405, "denied"),
        (418, "denied"),
    ],
)
async def test_a_refused_tag_list_has_its_code(connect: Connect, status: int, code: str) -> None:
    async with fake_registry(Quirks(tags_status=status)) as registry:
        with pytest.raises(RegistryError) as refusal:
            [tag async for tag in connect(registry).list_tags("team/app")]
        assert (refusal.value.code, refusal.value.status, refusal.value.temporary) == (code, status, False)


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "listing_unsupported"), (405, "listing_unsupported"), (403, "denied"), (401, "unauthorized")],
)
async def test_a_registry_without_a_catalog_says_so(connect: Connect, status: int, code: str) -> None:
    async with fake_registry(Quirks(catalog_status=status)) as registry:
        with pytest.raises(RegistryError) as refusal:
            [path async for path in connect(registry).list_repositories()]
        assert refusal.value.code == code


async def test_a_page_that_is_no_list_is_an_error(connect: Connect) -> None:
    async with fake_registry(Quirks(accepts_everything=True)) as registry:
        with pytest.raises(RegistryError, match="no list") as refusal:
            [tag async for tag in connect(registry).list_tags("team/app")]
        assert refusal.value.code == "registry_unreachable"


@pytest.mark.parametrize("gzipped", [False, True])
async def test_a_huge_page_is_not_read_to_its_end(connect: Connect, *, gzipped: bool) -> None:
    async with fake_registry(Quirks(lists_padded_to_bytes=80 * 1024 * 1024, lists_gzip=gzipped)) as registry:
        registry.load("team/app", IMAGE, "v1")
        with pytest.raises(RegistryError) as refusal:
            [tag async for tag in connect(registry).list_tags("team/app")]
        assert refusal.value.code == "limit_exceeded"


async def test_a_gzipped_page_is_read_all_the_same(connect: Connect) -> None:
    async with fake_registry(Quirks(lists_gzip=True)) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert [tag async for tag in connect(registry).list_tags("team/app")] == ["v1"]


@pytest.mark.parametrize(("tags", "requests", "is_told"), [(70, 1, False), (100, 2, False), (230, 3, True)])
async def test_a_list_that_is_cut_without_a_word_is_read_on_where_it_may_have_been_cut(
    connect: Connect, tags: int, requests: int, *, is_told: bool
) -> None:
    async with fake_registry(Quirks(link_missing=True, page_cap=100)) as registry:
        names = [f"v{number:03}" for number in range(tags)]
        registry.load("team/app", IMAGE, *names)
        list_warnings = ListWarnings()
        assert [tag async for tag in connect(registry).list_tags("team/app", list_warnings=list_warnings)] == names
        assert registry.journal.count("tags") == requests
        assert ("page_without_link" in list_warnings.by_code) is is_told
