"""Manifests, byte for byte: children before what names them, each by its digest; tags when all else is there."""

from __future__ import annotations

from app.domain.errors import RegistryError, TransferError
from app.domain.manifest import Manifest
from app.domain.reference import Digest, Tag
from app.sync.graph import Bundle
from app.sync.known_blobs import KnownBlobs
from app.sync.target import Target
from app.sync.together import together

_PUT_AT_ONCE = 8
_PART_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "MANIFEST_REFERENCE_UNKNOWN"})


class Publisher:
    """Pushes the manifests of one attempt; who refuses one fails, and no one else."""

    def __init__(self, known: KnownBlobs, *, is_first_attempt: bool) -> None:
        self._known = known
        self._is_first_attempt = is_first_attempt
        self._unlisted: dict[Target, dict[Digest, dict[Digest, Manifest]]] = {}

    async def push_below(self, bundle: Bundle) -> None:
        """Push everything below a bundle's root."""
        for level in bundle.levels():
            puts = (self.put(target, node.manifest, node.manifest.digest) for node in level for target in node.lacking)
            await together(puts, at_once=_PUT_AT_ONCE)

    async def push_root(self, bundle: Bundle) -> None:
        """Push a bundle's root, under its tag if it has one."""
        puts = (self.put(target, bundle.root, bundle.tag or bundle.root.digest) for target in bundle.targets)
        await together(puts, at_once=_PUT_AT_ONCE)

    async def put(self, target: Target, manifest: Manifest, place: Tag | Digest, *, left_out: bool = False) -> None:
        """Put one manifest; `left_out` says that children of it were not copied on purpose."""
        if not target.is_alive:
            return
        try:
            outcome = await target.client.put_manifest(target.path, place, manifest)
        except TransferError as error:
            self._learn(target, error)
            target.fail(_explained(error, left_out=left_out), step=f"put manifest {place}")
            return
        if manifest.subject is not None and not outcome.subject_acknowledged:
            subjects = self._unlisted.setdefault(target, {})
            subjects.setdefault(manifest.subject.digest, {})[manifest.digest] = manifest

    def take_unlisted(self) -> dict[Target, dict[Digest, dict[Digest, Manifest]]]:
        """Hand out the referrers put since the last time that a registry did not say it lists by itself."""
        unlisted, self._unlisted = self._unlisted, {}
        return unlisted

    def _learn(self, target: Target, error: TransferError) -> None:
        """Believe the registry that parts are missing, and let the next attempt ask for each of them.

        Its garbage was collected since, or it does not see yet what it just took (Artifactory, jib #534).
        """
        if isinstance(error, RegistryError) and _PART_MISSING.intersection(error.spec_codes):
            self._known.forget_repository(target.repository)
            error.temporary = error.temporary or self._is_first_attempt


def _explained(error: TransferError, *, left_out: bool) -> TransferError:
    if left_out and error.code == "manifest_rejected":
        error.message += "; it seems to refuse an index without all its children: use platform_mode rewrite"
        error.args = (error.message,)
        error.temporary = False
    return error
