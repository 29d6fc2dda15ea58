from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.core.responses import Ending, count_response
from headrace_server.core.statistics import Duration, Execution, FailReason, Statistics
from headrace_server.errors import (
    DeadlineMissed,
    DeviceLost,
    EngineFailed,
    InferenceError,
    InvalidInput,
    Overloaded,
    ShuttingDown,
)


def test_an_execution_counts_for_each_request_that_shared_it() -> None:
    statistics = Statistics()
    one = Execution(rows=5, begun_ns=1100, started_ns=1110, computed_ns=1210, ended_ns=1230)
    other = Execution(rows=5, begun_ns=2000, started_ns=2001, computed_ns=2003, ended_ns=2006)
    alone = Execution(rows=1, begun_ns=3000, started_ns=3001, computed_ns=3002, ended_ns=3003)
    queued_ns = ([900, 1000, 1100], [2000], [2995])
    for number, (execution, queued) in enumerate(zip((one, other, alone), queued_ns, strict=True)):
        statistics.executed(execution, queued, 1000 + number)
    assert statistics.last_inference_ms == 1002
    assert (statistics.inference_count, statistics.execution_count) == (11, 3)
    assert statistics.success == Duration(5, 330 + 230 + 130 + 6 + 8)
    assert statistics.queue == Duration(5, 200 + 100 + 0 + 0 + 5)
    assert statistics.compute_input == Duration(5, 32)
    assert statistics.compute_infer == Duration(5, 303)
    assert statistics.compute_output == Duration(5, 64)
    assert statistics.by_batch_size[5].compute_infer == Duration(2, 102)
    assert sorted(statistics.by_batch_size) == [1, 5]


def test_requests_that_end_apart_count_one_batch() -> None:
    statistics = Statistics()
    first = Execution(rows=4, begun_ns=10, started_ns=11, computed_ns=13, ended_ns=14, goes_on=True)
    statistics.executed(first, [5], 1)
    assert (statistics.success.count, statistics.inference_count, statistics.execution_count) == (1, 0, 0)
    statistics.executed(first._replace(ended_ns=20, goes_on=False), [5, 6, 7], 2)
    assert (statistics.success.count, statistics.inference_count, statistics.execution_count) == (4, 4, 1)


def test_a_batch_without_a_single_answer_is_still_an_execution() -> None:
    statistics = Statistics()
    statistics.executed(Execution(3, 10, 11, 12, 13), [], 1)
    assert statistics.success == Duration()
    assert (statistics.inference_count, statistics.execution_count) == (3, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("full", 1.0), FailReason.REJECTED),
        (DeadlineMissed("late"), FailReason.REJECTED),
        (EngineFailed("failed", "id"), FailReason.BACKEND),
        (DeviceLost("lost"), FailReason.BACKEND),
        (InvalidInput("wrong"), FailReason.OTHER),
        (ShuttingDown("closed"), FailReason.OTHER),
    ],
)
def test_why_a_request_got_no_rows(error: InferenceError, reason: FailReason) -> None:
    assert FailReason.of(error) is reason
    statistics = Statistics()
    statistics.failed(reason, 7)
    assert statistics.fail == Duration(1, 7)
    assert {why: count for why, count in statistics.failures.items() if count} == {reason: 1}


@given(st.lists(st.tuples(st.integers(1, 8), st.lists(st.integers(0, 10**9), max_size=8), st.booleans())))
def test_the_figures_add_up_and_a_copy_stays_as_it_was(
    batches: list[tuple[int, list[int], bool]],
) -> None:
    statistics = Statistics()
    taken_ns = 0
    for rows, waited_ns, goes_on in batches:
        before = statistics.copy()
        shown = dataclasses.asdict(before)
        begun_ns = 10**12
        execution = Execution(rows, begun_ns, begun_ns + 3, begun_ns + 10, begun_ns + 11, goes_on)
        statistics.executed(execution, [begun_ns - ns for ns in waited_ns], 1)
        statistics.failed(FailReason.CANCELED, 5)
        count_response(statistics, 0, Ending.SUCCESS, infer_ns=1, output_ns=1)
        assert dataclasses.asdict(before) == shown
        taken_ns += sum(waited_ns) + 11 * len(waited_ns)
    assert statistics.success.ns == taken_ns
    compute = (statistics.compute_input, statistics.compute_infer, statistics.compute_output)
    assert taken_ns == statistics.queue.ns + sum(duration.ns for duration in compute)
    requests = sum(len(waited_ns) for _, waited_ns, _ in batches)
    counts = {duration.count for duration in (statistics.success, statistics.queue, *compute)}
    assert counts == {requests}
    assert statistics.execution_count == sum(not goes_on for *_, goes_on in batches)
    for histogram in (statistics.queue_seconds, statistics.compute_seconds, statistics.request_seconds):
        assert sum(histogram.counts) == requests
