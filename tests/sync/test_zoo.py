"""Every shape of content, from a real registry to a real registry, compared tag by tag and blob by blob."""

from collections.abc import Callable

from tests.support.plain_client import PlainClient, differences
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.sync.workbench import workbench
from tests.sync.zoo import FOREIGN_URL, zoo

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
