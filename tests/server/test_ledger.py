from __future__ import annotations

import threading

import pytest
from scripted_engines import PATIENCE_SECONDS, ROWS, Answers
from works import work_of

from headrace_server.core.ledger import Ledger
from headrace_server.core.model import Limits, Model
from headrace_server.core.statistics import Duration, Execution, FailReason
from headrace_server.errors import EngineFailed, InvalidInput, Overloaded

MODEL = Model("m", "1", ROWS, "scripted", Limits())
SINK = Answers()


def test_an_answer_that_could_not_be_encoded_counts_as_a_failure_of_that_request() -> None:
    ledger = Ledger(max_rows=8)
    works = [work_of(MODEL, SINK, queued_ns=queued_ns) for queued_ns in (10, 20, 30)]
    answers = list(zip(works, (b"", InvalidInput("not written"), b""), strict=True))
    ledger.executed(answers, Execution(3, 100, 101, 103, 106))
    figures = ledger.snapshot()
    assert figures.success == Duration(2, 96 + 76)
    assert figures.fail == Duration(1, 86)
    assert figures.failures[FailReason.OTHER] == 1
    assert (figures.inference_count, figures.execution_count) == (3, 1)
    assert figures.last_inference_ms > 0


def test_refusals_take_no_time_and_count_by_their_reason() -> None:
    ledger = Ledger(max_rows=8)
    for error in (Overloaded("full", 1.0), InvalidInput("wrong"), EngineFailed("failed", "id")):
        ledger.refused(error)
    figures = ledger.snapshot()
    assert figures.fail == Duration(3, 0)
    assert set(figures.failures.items()) == {
        (FailReason.REJECTED, 1), (FailReason.CANCELED, 0), (FailReason.BACKEND, 1), (FailReason.OTHER, 1),
    }  # fmt: skip


def test_what_was_cancelled_is_no_failure() -> None:
    ledger = Ledger(max_rows=8)
    ledger.failed(FailReason.CANCELED, [work_of(MODEL, SINK), work_of(MODEL, SINK)])
    figures = ledger.snapshot()
    assert (figures.cancel.count, figures.fail.count) == (2, 0)
    assert figures.cancel.ns > 0


def test_a_queue_drains_as_fast_as_batches_were_executed() -> None:
    ledger = Ledger(max_rows=8)
    ledger.executed([(work_of(MODEL, SINK), b"")], Execution(1, 0, 1, 2, 200_000_000))
    assert ledger.drain_seconds(16) == pytest.approx(0.4)


def test_a_snapshot_adds_up_while_others_count() -> None:
    ledger = Ledger(max_rows=8)
    ends = threading.Event()

    def count() -> None:
        while not ends.is_set():
            ledger.executed([(work_of(MODEL, SINK, queued_ns=90), b"")] * 2, Execution(2, 100, 101, 103, 106))

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        figures = ledger.snapshot()
        assert figures.success.ns == 16 * figures.success.count
        assert figures.inference_count == figures.success.count == 2 * figures.execution_count
        assert sum(figures.request_seconds.counts) == figures.success.count
    ends.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
