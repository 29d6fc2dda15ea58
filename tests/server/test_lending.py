"""A quick engine is used by whoever brings work, while its own thread has none."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable

import pytest
from scripted_engines import (
    PATIENCE_SECONDS,
    RAGGED,
    ROWS,
    WITHOUT_BATCH,
    Arrays,
    Gate,
    ScriptedEngine,
    Served,
    answered,
    infer,
    rows_spec,
    serving,
)

from headrace_engines.errors import DeviceError
from headrace_engines.spec import ModelSpec
from headrace_server.core.model import Limits
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.settings import ModelSettings
from headrace_server.errors import DeviceLost, ShuttingDown

ATTEMPTS = 2000
"""The engine is lent after a few dozen executions; those that find its thread not waiting do not count."""
KEEPS_BUSY_NS = 1_000_000


class QuickEngine(ScriptedEngine):
    """Computes on the thread that calls it, remembers which ones those were, and bears but one at a time."""

    computes_on_caller = True

    def __init__(
        self, spec: ModelSpec = ROWS, *, slots: int = 1, before: Callable[[Arrays], None] = lambda _: None
    ) -> None:
        super().__init__(spec, slots=slots, before=before)
        self.threads: list[int] = []
        self._is_free = threading.Lock()

    def submit(self, slot: int, rows: int) -> None:
        assert self._is_free.acquire(blocking=False), "another thread uses the engine"
        assert not self.closed.is_set()
        super().submit(slot, rows)

    def wait(self, slot: int) -> Arrays:
        self.threads.append(threading.get_ident())
        try:
            return super().wait(slot)
        finally:
            self._is_free.release()

    def close(self) -> None:
        assert self._is_free.acquire(blocking=False), "it is closed while it is used"
        super().close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return what is released whenever the thread of an engine that is served from now on begins to wait."""
    begun = threading.Semaphore(0)

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name.startswith("engine-"):
                begun.release()
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Condition", Watched)
    return begun


def ask(served: Served, key: object, *values: int) -> list[int]:
    """Ask as a transport does: let work wait, release it, and hear of it."""
    served.infer(key, *values, hold=True)
    served.model.release()
    return served.answers.rows_of(key)


def is_lent(served: Served, attempts: int = ATTEMPTS) -> bool:
    """Ask until this thread has executed; return whether that has come to be."""
    engine = served.engine
    assert isinstance(engine, QuickEngine)
    for number in range(attempts):
        assert ask(served, f"warm {number}", number) == answered(number)
        if engine.threads[-1] == threading.get_ident():
            return True
    return False


def test_a_quick_engine_is_lent_to_whoever_brings_work() -> None:
    with serving(QuickEngine()) as served:
        assert is_lent(served)
        assert served.model.snapshot().compute.count == len(served.engine.executed)


def keep_busy(_: Arrays) -> None:
    begun_ns = time.thread_time_ns()
    while time.thread_time_ns() - begun_ns < KEEPS_BUSY_NS:
        pass


def test_an_engine_that_takes_its_time_keeps_to_its_thread() -> None:
    with serving(QuickEngine(before=keep_busy)) as served:
        assert not is_lent(served, attempts=100)


def test_an_engine_that_becomes_slow_is_lent_no_more() -> None:
    with serving(QuickEngine()) as served:
        assert is_lent(served)
        served.engine.before = keep_busy
        ask(served, "slow", 1)
        ask(served, "next", 2)
        assert isinstance(served.engine, QuickEngine)
        assert served.engine.threads[-1] != threading.get_ident()


@pytest.mark.parametrize("slots", [1, 2])
def test_an_engine_of_several_is_not_lent(slots: int) -> None:
    engine, more = QuickEngine(slots=slots), [QuickEngine()] if slots == 1 else []
    with serving(engine, settings=ModelSettings(instances=1 + len(more)), more=more) as served:
        for number in range(200):
            ask(served, number, number)
        used = {thread for one in (engine, *more) for thread in one.threads}
        assert threading.get_ident() not in used


def test_a_batch_larger_than_those_that_were_quick_is_its_own_thread_s() -> None:
    def many_take_long(inputs: Arrays) -> None:
        if len(inputs[0]) > 4:
            keep_busy(inputs)

    with serving(QuickEngine(before=many_take_long)) as served:
        for round_ in range(50):
            assert is_lent(served), "requests of a row are"
            ask(served, f"large {round_}", *range(8))
            assert isinstance(served.engine, QuickEngine)
            assert served.engine.threads[-1] != threading.get_ident()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(RAGGED, (1, 3)), (WITHOUT_BATCH, (2,)), (rows_spec(dims=(1 << 13,)), (1, 1 << 13))],
    ids=["rows of any size", "no rows", "large rows"],
)
def test_an_engine_whose_next_batch_may_cost_anything_keeps_to_its_thread(
    spec: ModelSpec, shape: tuple[int, ...]
) -> None:
    used: set[int] = set()
    with serving(QuickEngine(spec, before=lambda _: used.add(threading.get_ident()))) as served:
        for number in range(100):
            inputs = [InputTensor("x", "INT64", shape, bytes(8 * math.prod(shape)))]
            request = Request("m", "", str(number), inputs)
            infer(served.service, request, served.answers, number, hold=True)
            served.model.release()
            served.answers.wait_for(number)
    assert threading.get_ident() not in used


def test_an_engine_is_not_lent_while_its_own_thread_uses_it() -> None:
    gate = Gate()
    with serving(QuickEngine()) as served:
        assert is_lent(served)
        served.engine.before = gate
        served.infer("its own", 1)
        gate.arrival()
        served.infer("meanwhile", 2, hold=True)
        served.model.release()
        gate.open()
        assert served.answers.rows_of("its own") == answered(1)
        assert served.answers.rows_of("meanwhile") == answered(2)


@pytest.mark.parametrize("hold", [False, True], ids=["beside the transport", "by another transport"])
def test_what_comes_while_the_engine_is_lent_is_executed_by_its_thread(hold: bool) -> None:
    with serving(QuickEngine(rows_spec(1))) as served:
        assert is_lent(served)
        engine = served.engine
        came = threading.Event()

        def more_comes(_: Arrays) -> None:
            if not came.is_set():
                came.set()
                served.infer("meanwhile", 2, hold=hold)
                if hold:
                    served.model.release()

        engine.before = more_comes
        assert ask(served, "first", 1) == answered(1)
        assert served.answers.rows_of("meanwhile") == answered(2)
        assert isinstance(engine, QuickEngine)
        assert engine.threads[-2] == threading.get_ident() != engine.threads[-1]


def test_a_device_that_is_lost_in_other_hands_answers_everything_once() -> None:
    engine = QuickEngine(rows_spec(1))
    served = Served(engine, Limits())
    served.worker.start()
    assert is_lent(served)

    def lose(_: Arrays) -> None:
        served.infer("waiting", 13)
        raise DeviceError("Xid 79")

    engine.before = lose
    served.infer("culprit", 13, hold=True)
    served.model.release()
    assert engine.threads[-1] == threading.get_ident()
    for key in ("culprit", "waiting"):
        assert isinstance(served.answers.error_of(key), DeviceLost)
        assert len(served.answers.by_key[key]) == 1
    assert served.worker.join(PATIENCE_SECONDS)
    assert engine.closed.is_set()
    assert served.losses == ["Xid 79"]


@pytest.mark.parametrize("waiting", [[], [2]], ids=["nothing waits", "a request waits"])
def test_a_model_that_is_closed_while_its_engine_is_lent_ends_after_it(
    waits: threading.Semaphore, waiting: list[int]
) -> None:
    engine = QuickEngine(rows_spec(1))
    served = Served(engine, Limits())
    served.worker.start()
    assert is_lent(served)
    lent_to = []

    def close(_: Arrays) -> None:
        engine.before = lambda _: None
        lent_to.append(threading.get_ident())
        while waits.acquire(blocking=False):
            pass
        for value in waiting:
            served.infer(value, value)
        served.model.close(drain=True)
        assert waits.acquire(timeout=PATIENCE_SECONDS), "woken by the close, its thread waits again"

    engine.before = close
    assert ask(served, "lent", 1) == answered(1)
    assert lent_to == [threading.get_ident()]
    for value in waiting:
        assert served.answers.rows_of(value) == answered(value)
        assert engine.threads[-1] != threading.get_ident()
    assert served.worker.join(PATIENCE_SECONDS)
    assert engine.closed.is_set()


@pytest.mark.parametrize("attempt", range(3))
def test_an_engine_that_several_bring_work_for_is_used_by_one_at_a_time_until_it_is_closed(
    attempt: int,
) -> None:
    with serving(QuickEngine(rows_spec(4))) as served:
        assert is_lent(served)
        accepted: list[tuple[int, int]] = []

        def bring(number: int) -> None:
            with contextlib.suppress(ShuttingDown):
                for turn in itertools.count():
                    served.infer((number, turn), turn, hold=True)
                    accepted.append((number, turn))
                    served.model.release()
                    served.answers.wait_for((number, max(turn - 1, 0)))

        threads = [threading.Thread(target=bring, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        served.answers.wait_for(*((number, 200) for number in range(3)))
        served.model.close(drain=True)
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert served.worker.join(PATIENCE_SECONDS)
        for key in accepted:
            assert served.answers.rows_of(key) == answered(key[1])
            assert len(served.answers.by_key[key]) == 1
