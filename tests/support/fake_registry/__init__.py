"""A registry in memory that follows distribution-spec v1.1, on real sockets, with a switch for each quirk.

    async with fake_registry(Quirks(blob_cut_after_bytes=1000)) as registry:
        registry.load("team/app", oci_image("app"), "1.0")
        ...                                                  # talk to registry.url
        registry.check()                                     # nothing was tagged too early, leaked or left open
        assert registry.journal.count("manifest", method="GET") == 0

It is for what the real one (`tests.support.registries`) cannot do on demand. It listens on five ports, each an origin
of its own: `registry`, `auth` (tokens), `storage` (redirects of blobs), `stranger` (a host nothing secret belongs to)
and `plain` (the registry over plain http). `tests` may import everything from here.
"""

from tests.support.fake_registry.content import Content, Session, StoredManifest, Violation
from tests.support.fake_registry.faults import (
    Call,
    Cut,
    CutAnswer,
    CutBody,
    Echo,
    Fault,
    Respond,
    Stall,
    TooMany,
    Unauthorized,
    on,
)
from tests.support.fake_registry.journal import Entry, Journal, Kind, Origin
from tests.support.fake_registry.quirks import (
    ACR,
    ARTIFACTORY,
    DISTRIBUTION_2,
    DOCKER_HUB,
    ECR,
    GHCR,
    GITLAB,
    HARBOR,
    NEXUS,
    QUAY,
    Quirks,
)
from tests.support.fake_registry.server import FakeRegistry, Findings, fake_registry, fake_registry_thread

__all__ = [
    "ACR",
    "ARTIFACTORY",
    "DISTRIBUTION_2",
    "DOCKER_HUB",
    "ECR",
    "GHCR",
    "GITLAB",
    "HARBOR",
    "NEXUS",
    "QUAY",
    "Call",
    "Content",
    "Cut",
    "CutAnswer",
    "CutBody",
    "Echo",
    "Entry",
    "FakeRegistry",
    "Fault",
    "Findings",
    "Journal",
    "Kind",
    "Origin",
    "Quirks",
    "Respond",
    "Session",
    "Stall",
    "StoredManifest",
    "TooMany",
    "Unauthorized",
    "Violation",
    "fake_registry",
    "fake_registry_thread",
    "on",
]
