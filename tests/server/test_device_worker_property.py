"""Invariant 1 on devices: whatever happens to the engine, the GPU and the callers, each request ends once."""

from __future__ import annotations

import time
from collections.abc import Callable

from hosted_server import eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_devices import ScriptedDevice
from scripted_engines import PATIENCE_SECONDS, Arrays, Gate, Served, answered, rows_spec

from headrace_engines.errors import DeviceError, EngineSpoilt, ExecutionError
from headrace_server.core.model import Limits
from headrace_server.core.request import Work
from headrace_server.errors import DeadlineMissed, DeviceLost, EngineFailed, InferenceError

POISON = 13
GPU = 2

FAILURES: tuple[tuple[str, Callable[[], Exception]], ...] = (
    ("submit", lambda: ExecutionError("not these")),
    ("wait", lambda: ExecutionError("not these")),
    ("submit", lambda: EngineSpoilt("spoilt", was_executed=False)),
    ("wait", lambda: EngineSpoilt("spoilt", was_executed=False)),
    ("wait", lambda: EngineSpoilt("spoilt")),
    ("inputs", lambda: EngineSpoilt("spoilt", was_executed=False)),
    ("renew", lambda: EngineSpoilt("spoilt")),
    ("renew", lambda: DeviceError("gone")),
    ("wait", lambda: DeviceError("gone")),
)
STEPS = st.one_of(
    st.tuples(st.just("infer"), st.integers(1, 20)),
    st.tuples(st.just("infer"), st.integers(1, 20)),
    st.tuples(st.just("pass"), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("expire"), st.integers(0, 30)),
    st.tuples(st.just("fail"), st.integers(0, len(FAILURES) - 1)),
    st.tuples(st.just("spoil"), st.just(0)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("settle"), st.just(0)),
)


class Door(Gate):
    """A gate that tells whether an execution is held."""

    holds = False

    def __call__(self, inputs: Arrays) -> None:
        self.holds = True
        super().__call__(inputs)
        self.holds = False


class Scene:
    """A model on a device whose executions wait to be let through, and its callers."""

    def __init__(self, slots: int) -> None:
        self.gate = Door()
        self.device = ScriptedDevice(rows_spec(3), slots=slots, gpu=GPU, poison=[POISON], before=self.gate)
        self.served = Served(self.device, Limits())
        self.served.worker.start()
        self.works: dict[int, tuple[Work, int]] = {}
        self.refused = 0

    def step(self, what: str, number: int) -> None:
        if what == "infer":
            key = len(self.works) + self.refused
            try:
                work = self.served.infer(key, number, deadline=time.monotonic() + PATIENCE_SECONDS)
            except DeviceLost:
                self.refused += 1
            else:
                self.works[key] = work, number
        elif what in ("cancel", "expire") and number in self.works:
            getattr(self.served.model, what)(self.works[number][0])
        elif what == "pass":
            self.gate.let_one_through()
        elif what == "fail":
            call, error = FAILURES[number]
            self.device.script[call].append(error())
        elif what == "spoil":
            self.device.spoil()
        elif what == "lose":
            self.served.model.lose_gpu(GPU, "it never ends")
        elif what == "settle":
            eventually(self.is_settled, "the engine's thread has nothing to do, or is held")

    def is_settled(self) -> bool:
        model = self.served.model
        return self.gate.holds or model.lost is not None or not (model.waiting or model.instances.executing())

    def end(self) -> None:
        self.gate.open()
        self.served.model.close(drain=True)
        assert self.device.closed.wait(PATIENCE_SECONDS)
        assert self.served.worker.join(PATIENCE_SECONDS)

    def check(self) -> None:
        for key, (work, value) in self.works.items():
            came = self.served.answers.by_key[key]
            assert len(came) == (0 if work.abandoned and not came else 1), f"{key} got {came}"
            for answer in came:
                if isinstance(answer, InferenceError):
                    assert isinstance(answer, EngineFailed | DeviceLost | DeadlineMissed)
                else:
                    assert self.served.answers.rows_of(key) == answered(value)
                    assert value != POISON
        figures = self.served.model.snapshot()
        ended = figures.success.count + figures.fail.count + figures.cancel.count
        assert ended == len(self.works) + self.refused


@settings(max_examples=50)
@given(st.integers(1, 2), st.lists(STEPS, max_size=40))
def test_invariant_1_each_request_ends_once_whatever_happens(
    slots: int, steps: list[tuple[str, int]]
) -> None:
    scene = Scene(slots)
    for what, number in steps:
        scene.step(what, number)
    scene.end()
    scene.check()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=30), st.permutations(range(30)))
def test_whoever_spoils_a_gpu_only_batches_that_do_it_fail_on_any_of_its_engines(
    requests: list[tuple[int, int]], order: list[int]
) -> None:
    poisoned = [at for at in order if at < len(requests)][:4]
    devices = [ScriptedDevice(rows_spec(1), gpu=GPU, poison=[POISON]) for _ in range(3)]
    scenes = [Served(device, Limits()) for device in devices]
    for device, served in zip(devices, scenes, strict=True):
        device.beside = [one for one in devices if one is not device]
        served.worker.start()
    for key, (place, value) in enumerate(requests):
        scenes[place].infer(key, POISON if key in poisoned else value)
    for key, (place, value) in enumerate(requests):
        answers = scenes[place].answers
        if key in poisoned:
            assert isinstance(answers.error_of(key), EngineFailed)
        else:
            assert answers.rows_of(key) == answered(value)
    for served in scenes:
        served.model.close(drain=True)
    assert all(served.worker.join(PATIENCE_SECONDS) for served in scenes)
