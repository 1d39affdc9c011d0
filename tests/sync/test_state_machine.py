"""Random content, random faults, random losses at the destination: whatever happened, what is tagged is right."""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from app.domain.errors import CopyError
from app.domain.report import CopyResult
from tests.support.fake_registry import (
    Cut,
    CutAnswer,
    CutBody,
    FakeRegistry,
    Quirks,
    Respond,
    TooMany,
    Unauthorized,
    fake_registry,
)
from tests.support.images import (
    Manifest,
    artifact,
    blob,
    cosign_signature,
    cosign_tag,
    docker_image,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, workbench

LAYERS = [blob(f"layer {number}", size=size) for number, size in enumerate((1, 900, 40_000, 150_000))]
REPOSITORIES = st.sampled_from(["a", "b/c"])
TAGS = st.sampled_from(["1", "2", "latest"])
IMAGES = st.builds(
    lambda make, seed, layers: make(f"image {seed}", layers=layers),
    st.sampled_from([oci_image, docker_image]),
    st.integers(0, 5),
    st.lists(st.sampled_from(LAYERS), max_size=3),
)
GRAPHS = st.recursive(IMAGES, lambda inner: st.lists(inner, min_size=1, max_size=3).map(oci_index), max_leaves=4)
DEEDS = st.sampled_from(
    [Respond(503), Respond(500), Respond(403), Cut(), CutBody(30_000), CutAnswer(30_000), TooMany("0"), Unauthorized()]
)
SWITCHES = st.fixed_dictionaries(
    {},
    optional={
        "mount": st.sampled_from(["created", "session", "refused"]),
        "location": st.sampled_from(["relative", "absolute"]),
        "cut_uploads": st.sampled_from(["kept", "lost", "killed"]),
        "manifest_put_without_digest": st.booleans(),
        "blobs_visible_after_puts": st.integers(0, 1),
        "monolithic_refused": st.none() | st.just(413),
        "chunk_status": st.sampled_from([201, 202]),
    },
)


class Copies(RuleBasedStateMachine):
    """A source that changes, a destination that loses things, and a sync between them now and then."""

    manifests: Bundle[Manifest] = Bundle("manifests")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.history: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """What the source's tags ever pointed at."""

    @initialize(referrers=st.sampled_from(["api", "missing"]), switches=SWITCHES, page=st.sampled_from([None, 1]))
    def begin(self, referrers: str, switches: dict[str, Any], page: int | None) -> None:
        self.runner.run(self._begin(referrers, switches, page))

    async def _begin(self, referrers: str, switches: dict[str, Any], page: int | None) -> None:
        enter = self.stack.enter_async_context
        common: dict[str, Any] = {"auth": "token", "referrers": referrers}
        self.source: FakeRegistry = await enter(fake_registry(Quirks(**common, page_cap=page)))
        self.destination: FakeRegistry = await enter(fake_registry(Quirks(**common, **switches)))
        self.bench: Workbench = await enter(workbench(self.source, self.destination, accounts=True))

    @rule(target=manifests, repository=REPOSITORIES, tag=TAGS, manifest=GRAPHS)
    def push(self, repository: str, tag: str, manifest: Manifest) -> Manifest:
        self._load(repository, manifest, tag)
        return manifest

    @rule(target=manifests, repository=REPOSITORIES, subject=manifests, seed=st.integers(0, 2))
    def hang_a_referrer(self, repository: str, subject: Manifest, seed: int) -> Manifest:
        referrer = artifact(f"referrer {seed}", subject=subject)
        self._load(repository, referrer)
        if self.source.quirks.referrers == "missing":
            tag = fallback_tag(subject.digest)
            held = self.source.content.repository(repository)
            others = set(held.manifests[held.tags[tag]].children()) if tag in held.tags else set()
            known = [Manifest(held.manifests[one].raw, held.manifests[one].media_type) for one in sorted(others)]
            self._load(
                repository, fallback_index([*(one for one in known if one.digest != referrer.digest), referrer]), tag
            )
        return referrer

    @rule(repository=REPOSITORIES, signed=manifests)
    def sign(self, repository: str, signed: Manifest) -> None:
        self._load(repository, cosign_signature(signed), cosign_tag(signed.digest))

    @rule(repository=REPOSITORIES)
    def lose_a_repository(self, repository: str) -> None:
        self.destination.content.repositories.pop(repository, None)

    @rule(repository=REPOSITORIES, tag=TAGS, manifest=IMAGES)
    def let_somebody_else_push(self, repository: str, tag: str, manifest: Manifest) -> None:
        self.destination.load(repository, manifest, tag)
        self.history[repository, tag].add(manifest.digest)

    @rule(side=st.booleans(), deed=DEEDS, number=st.integers(1, 40), times=st.integers(1, 4), late=st.booleans())
    def break_something(self, *, side: bool, deed: Any, number: int, times: int, late: bool) -> None:
        registry = self.source if side else self.destination
        registry.faults.add(deed, number=number, times=times, after_work=late)

    @rule()
    def sync(self) -> None:
        self.runner.run(self._sync())
        self._check_tags()

    @rule()
    def sync_in_peace(self) -> None:
        for registry in (self.source, self.destination):
            registry.faults.clear()
        results = self.runner.run(self._sync())
        assert [result.error for result in results if result.error] == []
        self._check_tags()
        for name, held in self.source.content.repositories.items():
            there = self.destination.content.repository(name)
            assert held.tags.items() <= there.tags.items() or self._only_merged(name)
            for digest in held.tags.values():
                if digest in there.manifests:  # else it is a list of referrers that was merged
                    self._check_below(name, digest)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def _load(self, repository: str, manifest: Manifest, *tags: str) -> None:
        self.source.load(repository, manifest, *tags)
        for tag in tags:
            self.history[repository, tag].add(manifest.digest)

    async def _sync(self) -> list[CopyResult]:
        try:
            return await self.bench.sync(f"{self.source.host}/**", self.destination.host)
        except CopyError:
            if self.source.faults.planned:
                return []
            raise  # planning fails only where something was broken

    def _check_tags(self) -> None:
        """See that no tag points at what the source never had there, and that none was put too early."""
        self.destination.check(open_sessions=True)
        self.destination.content.sessions.clear()
        for name, held in self.destination.content.repositories.items():
            for tag, digest in held.tags.items():
                assert digest in self.history[name, tag] or tag.startswith("sha256-"), f"{name}:{tag}"

    def _only_merged(self, name: str) -> bool:
        """Say whether tags differ only where lists of referrers were merged: those of both sides are in them."""
        here, there = (registry.content.repository(name) for registry in (self.source, self.destination))
        return all(
            there.tags.get(tag) == digest
            or set(here.manifests[digest].children()) <= set(there.manifests[there.tags[tag]].children())
            for tag, digest in here.tags.items()
        )

    def _check_below(self, name: str, digest: str) -> None:
        """See that a manifest of the source is at the destination with all below it."""
        here, there = (registry.content.repository(name) for registry in (self.source, self.destination))
        assert there.manifests[digest].raw == here.manifests[digest].raw
        for part in here.manifests[digest].blobs():
            assert there.blobs[part] == here.blobs[part]
        for child in here.manifests[digest].children():
            self._check_below(name, child)


TestCopies = Copies.TestCase
TestCopies.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
