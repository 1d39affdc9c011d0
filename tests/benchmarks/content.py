"""What is copied: images of given sizes and numbers, the same on every run."""

import itertools
from collections.abc import Callable

from tests.support.images import Blob, blob, oci_image
from tests.support.plain_client import PlainClient

MIB = 1024**2
GIB = 1024**3


def one_image(repository: str, *, layers: int, layer_bytes: int) -> Callable[[PlainClient], None]:
    """Return what pushes one image as `repository:v1`."""

    def fill(client: PlainClient) -> None:
        made = [large_blob(f"{repository}/{number}", size=layer_bytes) for number in range(layers)]
        client.push(repository, oci_image(repository, layers=made), tags=["v1"])

    return fill


def large_blob(seed: str, *, size: int) -> Blob:
    """Make a blob of whole MiB that costs little more than its digest: one random MiB, over and over."""
    return Blob(blob(seed, size=MIB).data * (size // MIB))


def many_images(repositories: int, tags: int) -> Callable[[PlainClient], None]:
    """Return what pushes small images: one layer for all, one for each repository, one for each image."""

    def fill(client: PlainClient) -> None:
        for number, tag in itertools.product(range(repositories), range(tags)):
            seeds = [("base", 200_000), (f"app-{number}", 50_000), (f"app-{number}:{tag}", 5_000)]
            layers = [blob(seed, size=size) for seed, size in seeds]
            client.push(f"app-{number}", oci_image(f"{number}:{tag}", layers=layers), tags=[f"v{tag}"])

    return fill


def names(repositories: int) -> list[str]:
    """Return what `many_images` calls its repositories."""
    return [f"app-{number}" for number in range(repositories)]
