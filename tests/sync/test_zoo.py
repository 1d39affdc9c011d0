"""Every shape of content, from a real registry to a real registry, compared tag by tag and blob by blob."""

from collections.abc import Callable

from tests.conftest import Namespace
from tests.support.plain_client import PlainClient, differences
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.sync.workbench import workbench
from tests.sync.zoo import FOREIGN_URL, buildkit_cache, zoo

Start = Callable[[RegistryOptions], RegistryProcess]


async def test_the_whole_zoo_arrives_and_a_second_visit_changes_nothing(start_registry: Start) -> None:
    options = RegistryOptions(allowed_foreign_urls=(FOREIGN_URL,), catalog_page_cap=3)
    source, destination = start_registry(options), start_registry(options)
    animals = zoo()
    with PlainClient.of(source) as here, PlainClient.of(destination) as there:
        for animal in animals:
            here.push(animal.repository, animal.manifest, tags=animal.tags)
        async with workbench(source, destination) as bench:
            first = await bench.sync(f"{source.host}/**", destination.host)
            second = await bench.sync(f"{source.host}/**", destination.host)
        names = here.list_repositories()
        assert there.list_repositories() == names == sorted({animal.repository for animal in animals})
        found = differences(here, there, repositories=[(name, name) for name in names])
    assert [(str(result.destination), result.error) for result in first if result.outcome == "failed"] == []
    assert found == []
    assert {result.outcome for result in second} == {"up_to_date"}
    assert len(first) == len(second) == sum(len(animal.tags) for animal in animals)


async def test_an_index_of_blobs_arrives_with_its_blobs(source: Namespace, destination: Namespace) -> None:
    cache = buildkit_cache()
    source.push("cache", cache, "1")
    async with workbench(source, destination) as bench:
        [result] = await bench.copy(source.reference("cache", "1"), destination.reference("cache", "1"))
    assert (result.outcome, result.error) == ("copied", None)
    assert destination.client.digest(destination.repository("cache"), "1") == cache.digest
    for part in cache.blobs:
        assert destination.client.blob_digest(destination.repository("cache"), part.digest) == (part.digest, part.size)
