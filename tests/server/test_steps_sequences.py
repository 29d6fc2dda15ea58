"""Sequences on a program that keeps a sum for each of them: many at once, failing, idle, and cut short."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from scripted_engines import PATIENCE_SECONDS, ROWS
from scripted_programs import ServedProgram, rows, serving_program, start

from headrace_engines.spec import ModelSpec
from headrace_engines.steps import Call, Outcome
from headrace_server.core.settings import ControlInput, ModelSettings, SequenceControl, Sequences
from headrace_server.errors import EngineFailed, InvalidInput, ShuttingDown

SLOTS = 3
SPEC = ModelSpec(ROWS.inputs, ROWS.outputs, SLOTS)


class Sums:
    """Adds up the values of each sequence in its slot, and fails of the values it is told to.

    State is kept by slot alone, so that requests which meet another slot, or share one, are told wrong sums.
    """

    def __init__(self, *poison: int) -> None:
        self._poison = poison
        self._places = threading.local()
        self.batches: list[list[str]] = []

    def __call__(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        if not hasattr(self._places, "sums"):
            self._places.sums = {}
        sums: dict[int, int] = self._places.sums
        self.batches.append([call.id for call in calls])
        slots = [call.sequence.slot for call in calls if call.sequence is not None]
        assert sorted(set(slots)) == slots, "each request has a slot of its own, in their order"
        for place, (slot, call) in enumerate(zip(slots, calls, strict=True)):
            assert call.sequence is not None
            value = int(call.inputs["x"].item())
            if value in self._poison:
                raise ValueError(f"poison {value}")
            sums[slot] = value + (0 if call.sequence.start else sums[slot])
            yield Outcome(place, rows(sums[slot]), final=True)


def sequenced(*, instances: int = 1, **sequences: object) -> ModelSettings:
    return ModelSettings(instances=instances, sequences=Sequences(**sequences))  # type: ignore[arg-type]  # fields of it


def turns(
    served: ServedProgram, sequence_id: int | str, *values: int, ends: bool = True, name: str = ""
) -> list[str]:
    """Ask for a whole sequence at once; return the keys of its requests."""
    keys = [f"{name or sequence_id}.{number}" for number in range(len(values))]
    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        is_last = ends and number == len(values) - 1
        served.infer(key, value, sequence_id=sequence_id, sequence_start=number == 0, sequence_end=is_last)
    return keys


def sums_of(served: ServedProgram, keys: Sequence[str]) -> list[int]:
    return [served.answers.rows_of(key)[0] for key in keys]


def test_many_sequences_from_many_threads_each_have_their_own_sum() -> None:
    sums = Sums()
    wrong: queue.Queue[str] = queue.Queue()

    def client(number: int) -> None:
        for round_number in range(6):
            sequence_id = 1 + number * 100 + round_number
            values = [sequence_id * (step + 1) for step in range(5)]
            if round_number % 2:  # one at a time, as most clients do, or all at once
                came = []
                for step, value in enumerate(values):
                    served.infer(
                        (sequence_id, step), value, sequence_id=sequence_id, sequence_start=step == 0,
                        sequence_end=step == 4,
                    )  # fmt: skip
                    came += served.answers.rows_of((sequence_id, step))
            else:
                came = sums_of(served, turns(served, sequence_id, *values))
            if came != np.cumsum(values).tolist():
                wrong.put(f"{sequence_id}: {came}")

    settings = sequenced(instances=2, max_idle_us=60_000_000)
    with serving_program(sums, spec=SPEC, settings=settings, starts=False) as served:
        at_once = [turns(served, f"at once {number}", number)[0] for number in range(4)]
        start(served)
        assert sums_of(served, at_once) == [0, 1, 2, 3]
        threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert wrong.empty(), wrong.get()
        figures = served.model.snapshot()
    assert figures.success.count == 4 + 10 * 6 * 5
    assert max(map(len, sums.batches)) > 1, "sequences share batches"


def test_a_sequence_that_nothing_comes_for_gives_its_slot_away_and_cannot_go_on() -> None:
    with serving_program(Sums(), spec=SPEC, settings=sequenced(max_idle_us=300_000)) as served:
        idle = [turns(served, number, number, ends=False)[0] for number in range(1, SLOTS + 1)]
        assert sums_of(served, idle) == [1, 2, 3]
        assert sums_of(served, turns(served, "next", 10, 20)) == [10, 30]
        with pytest.raises(InvalidInput, match="must specify the START"):
            served.infer("late", 1, sequence_id=1)
        assert sums_of(served, turns(served, 1, 5, 6, name="anew")) == [5, 11]


def test_invariant_3_a_failing_request_costs_the_other_sequences_only_that_batch() -> None:
    sums = Sums(13)
    with serving_program(sums, spec=SPEC, settings=sequenced(), starts=False) as served:
        healthy = turns(served, 1, 1, 2, 3)
        failing = turns(served, 2, 13, 4, ends=False)
        start(served)
        assert isinstance(served.answers.error_of(failing[0]), EngineFailed)
        assert sums_of(served, healthy) == [1, 3, 6]
        served.answers.wait_for(*failing)
        assert sums_of(served, turns(served, 2, 7, 8, name="anew")) == [7, 15], (
            "the sequence can be begun anew"
        )
    figures = served.model.snapshot()
    assert figures.success.count + figures.fail.count == len(healthy) + len(failing) + 2


def test_invariant_5_closing_in_the_middle_of_sequences_executes_what_was_accepted() -> None:
    with serving_program(
        Sums(), spec=SPEC, settings=sequenced(max_idle_us=60_000_000), starts=False
    ) as served:
        more_than_slots = [turns(served, number, 1, 1, 1, ends=False) for number in range(1, 2 * SLOTS + 1)]
        served.model.close(drain=True)
        with pytest.raises(ShuttingDown):
            served.infer("late", 1, sequence_id=1)
        start(served)
        assert [sums_of(served, keys) for keys in more_than_slots] == [[1, 2, 3]] * 2 * SLOTS
        assert all(worker.join(PATIENCE_SECONDS) for worker in served.workers)


def test_closing_without_drain_refuses_what_waits_and_answers_what_runs() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        begun.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        for place in range(len(calls)):
            yield Outcome(place, rows(0), final=True)

    with serving_program(script, spec=SPEC, settings=sequenced()) as served:
        (running,) = turns(served, 1, 1, ends=False)
        assert begun.wait(PATIENCE_SECONDS)
        served.infer("waits", 1, sequence_id=1, sequence_end=True)
        served.model.close(drain=False)
        assert isinstance(served.answers.error_of("waits"), ShuttingDown)
        goes_on.set()
        assert served.answers.rows_of(running) == [0]
    assert all(len(answers) == 1 for answers in served.answers.by_key.values())


@pytest.mark.parametrize("sequence_id", [7, "seven"])
def test_the_program_is_told_by_control_inputs_of_every_kind(sequence_id: int | str) -> None:
    id_type = "BYTES" if isinstance(sequence_id, str) else "UINT64"
    controls = (
        ControlInput("START", SequenceControl.START, "INT32", 0, 1),
        ControlInput("END", SequenceControl.END, "BOOL", False, True),
        ControlInput("READY", SequenceControl.READY, "FP32", -1, 1),
        ControlInput("ID", SequenceControl.CORRID, id_type),
    )
    told: list[dict[str, object]] = []

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        for place, call in enumerate(calls):
            told.append({control.name: call.inputs[control.name].item() for control in controls})
            yield Outcome(place, (call.inputs["x"],), final=True)

    with serving_program(script, spec=SPEC, settings=sequenced(controls=controls)) as served:
        served.answers.wait_for(*turns(served, sequence_id, 1, 2, 3))
    shown = sequence_id.encode() if isinstance(sequence_id, str) else sequence_id
    assert told == [
        {"START": start_value, "END": end_value, "READY": 1.0, "ID": shown}
        for start_value, end_value in ((1, False), (0, False), (0, True))
    ]


@pytest.mark.parametrize("closes", [False, True])
def test_a_sequence_that_begins_anew_on_an_instance_that_waits_is_executed(closes: bool) -> None:
    for _ in range(5):  # the other instance could by chance be awake in one of them
        is_last, goes_on = threading.Event(), threading.Event()

        def script(
            calls: Sequence[Call], is_last: threading.Event = is_last, goes_on: threading.Event = goes_on
        ) -> Iterator[Outcome]:
            if calls[0].id == "b.1":
                is_last.set()
                assert goes_on.wait(PATIENCE_SECONDS)
            yield Outcome(0, rows(int(calls[0].inputs["x"].item())), final=True)

        settings = sequenced(instances=2, max_idle_us=60_000_000)
        with serving_program(
            script, spec=ModelSpec(ROWS.inputs, ROWS.outputs, 1), settings=settings
        ) as served:
            for name in ("a", "b"):
                assert sums_of(served, turns(served, name, 1, ends=False)) == [1]
            served.infer("a.1", 2, sequence_id="a", sequence_end=True)
            assert served.answers.rows_of("a.1") == [2]
            served.infer("b.1", 3, sequence_id="b", sequence_end=True)
            assert is_last.wait(PATIENCE_SECONDS)
            again = turns(served, "b", 4, name="again")
            if closes:
                served.model.close(drain=True)
            goes_on.set()
            assert sums_of(served, again) == [4]
