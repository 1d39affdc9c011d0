"""One change of a job, worked out without a database: counts follow, states keep to the allowed moves."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import ConflictError
from app.domain.job import ImageState, JobKind, JobPause, JobState, Priority, Progress
from app.domain.report import ActionCounts, ExecutionError, FailureCount, JobWarning, Tally
from app.jobs.submission import PRIORITY_STEP, unit_priority
from app.jobs.transitions import JobTransition, added, grown
from app.store.jobs import LockedJob
from app.worker.plan_writer import MOST_IN_UNIT, SHARES_PER_WORKER, divided
from tests.support.clock import START

tallies = st.builds(Tally, *(st.integers(min_value=0, max_value=10**6) for _ in Tally.__struct_fields__))


def locked(state: JobState = JobState.RUNNING, *, units_left: int = 1, progress: Progress | None = None) -> LockedJob:
    return LockedJob(
        traceparent=None,
        kind=JobKind.COPY,
        totals=ActionCounts(),
        number=7,
        id="01890000-0000-7000-8000-000000000000",
        state=state,
        priority=Priority.NORMAL,
        policy=None,
        progress=progress or Progress(planned=True),
        units_left=units_left,
        version=10,
        state_version=4,
        cancel_requested=False,
        is_failing_fast=False,
        error=None,
        failures=(),
        warnings=(),
        waiting_for=None,
        created_at=START,
        started_at=START,
        finished_at=None,
        rate_bytes=0,
        rate_at=None,
    )


def transition(job: LockedJob | None = None, *, seconds: float = 0) -> JobTransition:
    return JobTransition(job or locked(), now=START + timedelta(seconds=seconds))


def test_progress_alone_is_a_new_version_but_no_news() -> None:
    one = transition()
    assert one.take_revisions(3) == 11
    one.count(ImageState.QUEUED, ImageState.RUNNING)
    job = one.result()
    assert (job.version, job.state_version) == (14, 4)
    assert (job.progress.images.queued, job.progress.images.running) == (-1, 1)


def test_whatever_else_changes_is_news() -> None:
    one = transition()
    one.request_cancel()
    assert one.result().state_version == one.result().version == 11


def test_a_job_begins_once() -> None:
    first = transition(locked(JobState.QUEUED))
    first.begin()
    begun = first.result()
    assert (begun.state, begun.started_at) == (JobState.RUNNING, START)
    again = transition(begun, seconds=5)
    again.begin()
    assert again.result().started_at == START


@pytest.mark.parametrize(
    ("ended", "has_cancel", "has_error", "state"),
    [
        ([ImageState.COPIED, ImageState.UP_TO_DATE], False, False, JobState.SUCCEEDED),
        ([], False, False, JobState.SUCCEEDED),
        ([ImageState.COPIED, ImageState.FAILED], False, False, JobState.FAILED),
        ([ImageState.COPIED], False, True, JobState.FAILED),
        ([ImageState.COPIED, ImageState.CANCELLED], True, False, JobState.CANCELLED),
        ([ImageState.FAILED, ImageState.CANCELLED], True, False, JobState.CANCELLED),
        ([ImageState.FAILED, ImageState.CANCELLED], False, False, JobState.FAILED),
        ([ImageState.COPIED], True, False, JobState.SUCCEEDED),
    ],
)
def test_the_last_unit_ends_the_job_as_its_images_ended(
    *,
    ended: list[ImageState],
    has_cancel: bool,
    has_error: bool,
    state: JobState,
) -> None:
    one = transition(locked(units_left=2), seconds=9)
    for image in ended:
        one.count(None, image)
    if has_cancel:
        one.request_cancel()
    if has_error:
        one.fail(ExecutionError("internal", "no"))
    one.finish_units(1)
    assert not one.job.done
    one.finish_units(1)
    job = one.result()
    assert (job.state, job.finished_at) == (state, START + timedelta(seconds=9))


def test_a_job_that_is_done_does_not_move() -> None:
    with pytest.raises(ConflictError):
        transition(locked(JobState.SUCCEEDED)).finish_units(1)


def test_warnings_of_one_kind_are_one_with_a_count_and_the_first_names() -> None:
    one = transition()
    one.warn([JobWarning("no_match", ("a",), rule=0)])
    one.warn([JobWarning("no_match", ("b",), rule=1), JobWarning("tag_unusable", tuple("uvw"), 30, rule=0)])
    one.warn(JobWarning("tag_unusable", (name,), rule=0) for name in "wxyz")
    assert one.result().warnings == (
        JobWarning("no_match", ("a",), rule=0),
        JobWarning("no_match", ("b",), rule=1),
        JobWarning("tag_unusable", tuple("uvwxy"), 34, rule=0),
    )
    assert one.result().warnings[2].message.endswith(": u, v, w, x, y and 29 more")


def test_a_job_that_fails_for_its_images_says_what_for_the_most_frequent_first() -> None:
    one = transition()
    for code in ("denied", "timeout", "timeout"):
        one.count(None, ImageState.FAILED)
        one.count_failures([FailureCount("image", code, "source", 1, "a", "b", f"{code}!")])
    one.finish_units(1)
    error = one.result().error
    assert error is not None
    assert (error.code, [(failed.code, failed.count) for failed in error.failures]) == (
        "images_failed",
        [("timeout", 2), ("denied", 1)],
    )
    assert error.message == "3 failed, 2 for timeout (source), 1 for denied (source); the first: timeout!"


def test_the_longest_pause_is_shown_until_it_is_over_or_the_job_is_done() -> None:
    first, second = (JobPause("r.io", START + timedelta(seconds=seconds), "429") for seconds in (60, 30))
    one = transition()
    one.wait_for(first)
    one.wait_for(second)
    waiting = one.result()
    assert (waiting.waiting_for, waiting.state_version) == (first, waiting.version)
    for seconds, shown in ((59, first), (60, None)):
        later = transition(waiting, seconds=seconds)
        later.end_wait()
        assert later.result().waiting_for == shown
    done = transition(waiting)
    done.finish_units(1)
    assert done.result().waiting_for is None


def test_a_rate_is_that_of_the_last_second_or_more() -> None:
    job = locked()
    for second, moved in ((0, 500), (0.5, 500), (2, 1_000), (3, 0)):
        one = transition(job, seconds=second)
        one.count(ImageState.RUNNING, ImageState.RUNNING, growth=Tally(bytes_transferred=moved))
        job = one.result()
        if second == 2:
            assert job.progress.bytes.per_second == 750  # 1500 bytes since the first look, two seconds ago
    assert job.progress.bytes.per_second == 0
    assert job.progress.bytes.transferred == 2_000


@given(tallies, tallies)
def test_a_second_attempt_takes_nothing_back(first: Tally, second: Tally) -> None:
    both = grown(first, second)
    for field in Tally.__struct_fields__:
        assert getattr(both, field) >= getattr(first, field)
    assert grown(first, Tally()) == first
    assert grown(Tally(), second) == second
    assert added(added(first, second), second, sign=-1) == first


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_what_the_first_attempt_sent_is_counted_once(present: int, mounted: int, sent: int, left: int) -> None:
    first = Tally(blobs_present=present, blobs_mounted=mounted, blobs_transferred=sent)
    second = Tally(blobs_present=present + mounted + sent, blobs_transferred=left)
    expected = Tally(blobs_present=present, blobs_mounted=mounted, blobs_transferred=sent + left)
    assert grown(first, second) == expected


def test_an_upload_that_is_resumed_counts_its_bytes_once_and_one_sent_again_twice() -> None:
    first = Tally(bytes_total=100, bytes_done=70, bytes_transferred=70)
    resumed = Tally(bytes_total=100, bytes_done=100, bytes_transferred=30)
    again = Tally(bytes_total=100, bytes_done=100, bytes_transferred=100)
    assert grown(first, resumed).bytes_transferred == 100
    assert grown(first, again).bytes_transferred == 170  # that much went over the wire
    assert grown(first, again).bytes_done == 100


def test_first_units_of_a_small_job_go_before_the_later_ones_of_a_large_one() -> None:
    assert unit_priority(Priority.NORMAL, 1) > unit_priority(Priority.NORMAL, 2)
    assert unit_priority(Priority.NORMAL, 10**9) > unit_priority(Priority.LOW, 0)
    assert unit_priority(Priority.HIGH, 10**9) > unit_priority(Priority.NORMAL, 0)
    assert unit_priority(Priority.HIGH, 0) == 3 * PRIORITY_STEP


@given(st.lists(st.integers(1, 16), max_size=300), st.integers(1, 40))
def test_units_hold_every_image_once_and_no_copy_is_torn(fan_outs: list[int], workers: int) -> None:
    ends = [sum(fan_outs[: number + 1]) - 1 for number in range(len(fan_outs))]
    ranges = divided(ends, workers=workers)
    positions = [position for first, last in ranges for position in range(first, last + 1)]
    assert positions == list(range(sum(fan_outs)))
    assert {last for _, last in ranges} <= set(ends)


def test_a_job_is_divided_so_that_all_workers_get_some_and_none_gets_too_much() -> None:
    def sizes(images: int, workers: int) -> list[int]:
        return [last - first + 1 for first, last in divided(range(images), workers=workers)]

    assert sizes(1, 4) == [1]
    assert sizes(3, 4) == [1, 1, 1]
    assert sizes(8, 1) == [8]
    assert sizes(0, 1) == []
    assert max(sizes(100_000, 1)) == MOST_IN_UNIT
    assert len(sizes(1_000, 4)) >= 4 * SHARES_PER_WORKER
