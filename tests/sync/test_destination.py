"""Counts of one copy: each blob once, never back."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from app.domain.manifest import Descriptor, digest_of
from app.domain.reference import Reference
from app.domain.report import Tally
from app.sync.destination import Progress

BLOBS = [Descriptor("layer", digest_of(str(size).encode()), size) for size in (0, 10, 100)]
STEPS = st.lists(
    st.tuples(st.sampled_from(BLOBS), st.sampled_from(["send", "present", "mounted", "transferred"]), st.integers(0, 9))
)


@given(steps=STEPS)
def test_counts_add_up_and_never_go_back(steps: list[tuple[Descriptor, str, int]]) -> None:
    seen: list[Tally] = []
    progress = Progress(Reference.parse("a.io/x:1"), lambda _, tally: seen.append(tally))
    for blob, what, share in steps:
        progress.expect(blob)
        if what == "send":
            progress.moved(blob, offset=blob.size * share // 9, sent=share)
        else:
            progress.settle(blob, what)  # type: ignore[arg-type]  # of the literals above
    for before, after in itertools.pairwise(seen):
        assert all(getattr(after, name) >= getattr(before, name) for name in Tally.__struct_fields__)
        assert after != before
    last = progress.tally
    touched = {blob for blob, _, _ in steps}
    assert last.bytes_total == sum(blob.size for blob in touched)
    assert last.bytes_done <= last.bytes_total
    settled = {blob for blob, what, _ in steps if what != "send"}
    assert last.blobs_present + last.blobs_mounted + last.blobs_transferred == len(settled)
    assert settled != touched or last.bytes_done == last.bytes_total
