from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence

import pytest
from scripted_engines import PATIENCE_SECONDS, ROWS, Gate, ScriptedEngine, serving
from scripted_programs import rows, serving_program

from headrace_engines.steps import Call, Outcome
from headrace_server.core.settings import ModelSettings
from headrace_server.telemetry import long_executions
from headrace_server.telemetry.long_executions import LongExecutions


def test_each_long_execution_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        long = LongExecutions(served.shelf, after_seconds=0)
        long.look()
        assert not caplog.records
        for told in (1, 2):
            served.infer(told, told)
            gate.arrival()
            served.infer(f"waits {told}", told)
            long.look()
            long.look()
            assert len(caplog.records) == told
            gate.let_one_through()
            gate.arrival()
            gate.let_one_through()
            served.answers.wait_for(told, f"waits {told}")
    record = caplog.records[0]
    assert record.levelno == logging.WARNING
    assert "model m version 1: instance 0 has executed for " in record.getMessage()
    assert "without an answer, with 1 requests in hand; 1 wait" in record.getMessage()


def test_a_short_execution_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("a", 1)
        gate.arrival()
        LongExecutions(served.shelf).look()
    assert not caplog.records


def test_every_request_and_every_slot_in_hand_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with serving(ScriptedEngine(ROWS, slots=2, before=gate)) as served:
        served.infer("a", 1)
        gate.arrival()
        (one,) = served.model.instances.executing()
        assert (one.instance, one.requests) == (0, 1)
    assert not served.model.instances.executing()


def test_a_program_s_execution_is_as_old_as_its_last_response() -> None:
    goes_on, has_answered = threading.Event(), threading.Event()

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, rows(1), final=False)
        has_answered.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        yield Outcome(0, rows(2), final=True)

    with serving_program(script, settings=ModelSettings(is_decoupled=True)) as served:
        assert not served.model.instances.executing()
        work = served.infer("a", 1)
        served.infer("b", 1)
        assert has_answered.wait(PATIENCE_SECONDS)
        (one,) = served.model.instances.executing()
        assert (one.instance, one.requests) in {(0, 1), (0, 2)}
        assert one.since_ns > work.queued_ns
        goes_on.set()
        served.answers.wait_for("a", "b")
    assert not served.model.instances.executing()


async def test_the_watch_looks_until_it_is_cancelled() -> None:
    gate = Gate()
    told = asyncio.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    handler = Told()
    logging.getLogger(long_executions.__name__).addHandler(handler)
    with serving(ScriptedEngine(before=gate)) as served:
        watch = asyncio.create_task(LongExecutions(served.shelf, after_seconds=0).watch(every_seconds=0))
        served.infer("a", 1)
        await asyncio.wait_for(told.wait(), PATIENCE_SECONDS)
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch
    logging.getLogger(long_executions.__name__).removeHandler(handler)
