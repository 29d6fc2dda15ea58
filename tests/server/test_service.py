from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from scripted_engines import ROWS, Answers, Gate, ScriptedEngine, Shelf, f, infer, serving

from headrace_server.core.catalogue import Entry, IsWanted, ModelState, Override, always
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.service import Service
from headrace_server.core.settings import ModelSettings
from headrace_server.errors import (
    ControlDisabled,
    DeadlineMissed,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    NotSupported,
    Overloaded,
    ShuttingDown,
)

ROW = bytes(8)


def request(**changes: object) -> Request:
    usual = Request("m", "", "id", [InputTensor("x", "INT64", (1, 1), ROW)])
    return usual._replace(**changes)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (request(model="other"), ModelNotFound),
        (request(version="7"), ModelNotFound),
        (request(inputs=[]), InvalidInput),
        (request(inputs=[InputTensor("x", "INT64", (0, 1), b"")]), InvalidInput),
        (request(outputs=["z"]), InvalidInput),
    ],
)
def test_invariant_2_a_request_that_must_fail_is_refused_and_never_waits(
    wrong: Request, error: type[InferenceError]
) -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        with pytest.raises(error):
            infer(served.service, wrong, served.answers, "wrong")
        assert served.model.waiting == 0
        gate.open()
        served.infer("next", 1)
        assert served.answers.rows_of("next") == [int(f(1))]  # type: ignore[arg-type]  # a number is a row too
    assert not served.answers.by_key["wrong"]


def test_a_server_that_leaves_says_so_and_still_answers_whoever_has_not_heard() -> None:
    with serving(ScriptedEngine()) as served:
        assert served.service.is_ready()
        assert served.service.is_model_ready("m", "")
        served.service.leave()
        assert not served.service.is_ready()
        assert not served.service.is_model_ready("m", "")
        served.infer("late", 1)
        assert served.answers.rows_of("late") == [int(f(1))]  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(("deadline_seconds", "timeout_us"), [(-1.0, 0), (0.0, 0), (-1.0, 10_000_000)])
def test_a_deadline_that_has_passed_is_refused(deadline_seconds: float, timeout_us: int) -> None:
    with serving(ScriptedEngine()) as served:
        now_ns = time.monotonic_ns()
        deadline = now_ns * 1e-9 + deadline_seconds
        with pytest.raises(DeadlineMissed, match="had passed when the request came"):
            served.infer("late", 1, deadline=deadline, timeout_us=timeout_us, now_ns=now_ns)
    assert served.engine.executed == []


@pytest.mark.parametrize(
    ("call_seconds", "timeout_us", "expected_seconds"),
    [(5.0, 0, 5.0), (5.0, 2_000_000, 2.0), (1.0, 2_000_000, 1.0), (float("inf"), 2_000_000, 2.0)],
)
def test_the_earlier_of_both_deadlines_counts(
    call_seconds: float, timeout_us: int, expected_seconds: float
) -> None:
    with serving(ScriptedEngine()) as served:
        now_ns = time.monotonic_ns()
        now = now_ns * 1e-9
        work = served.infer("a", 1, deadline=now + call_seconds, timeout_us=timeout_us, now_ns=now_ns)
        assert work.deadline - now == pytest.approx(expected_seconds, abs=1e-6)


def test_a_service_that_stops_refuses_new_requests_and_answers_the_accepted() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("waits", 1)
        assert served.service.is_ready()
        served.service.stop_accepting()
        with pytest.raises(ShuttingDown):
            served.infer("late", 2)
        assert not served.service.is_ready()
        assert not served.service.is_model_ready("m", "")
        gate.open()
        assert served.answers.rows_of("waits") == [4]


def test_refused_for_overload_is_not_answered_through_the_sink() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate), Limits(max_queue_size=1)) as served:
        served.infer("first", 0)
        gate.arrival()
        served.infer("waits", 1)
        with pytest.raises(Overloaded):
            served.infer("refused", 2)
        gate.open()
        served.answers.wait_for("first", "waits")
    assert not served.answers.by_key["refused"]


class Loading(Shelf):
    """A catalogue whose models are still on their way."""

    def find(self, name: str, version: str) -> Model:
        raise ModelNotReady(f"model {name!r} is being loaded")


def test_what_is_ready_while_models_load() -> None:
    service = Service(Loading())
    assert not service.is_ready()
    assert not service.is_model_ready("m", "")


def test_what_is_ready_without_any_model() -> None:
    service = Service(Shelf())
    assert not service.is_ready()
    assert not service.is_model_ready("m", "")


class Polled(Shelf):
    """A catalogue that is not to be asked for the error, which looks for near names and takes its time."""

    def find(self, name: str, version: str) -> Model:
        raise NotImplementedError

    def answers(self, name: str, version: str) -> bool:
        return name == "m"


def test_readiness_costs_no_error_about_what_is_not_there() -> None:
    service = Service(Polled())
    assert [service.is_model_ready(name, "") for name in ("m", "n")] == [True, False]
    service.leave()
    assert not service.is_model_ready("m", "")


def test_models_by_name_and_version() -> None:
    a, b = (Model(name, "1", ROWS, "scripted", Limits()) for name in "ab")
    service = Service(Shelf(a, b))
    assert service.models("", "") == [a, b]
    assert service.models("a", "") == [a]
    assert service.models("b", "1") == [b]
    assert service.model("b", "") is b
    for name, version in (("c", ""), ("a", "2"), ("", "1")):
        with pytest.raises(ModelNotFound):
            service.models(name, version)


class Taken(Shelf):
    """A catalogue whose model is replaced by another one between finding and submitting."""

    def __init__(self, old: Model, new: Model) -> None:
        super().__init__(old)
        self._versions = [old, new]
        self.finds = 0

    def find(self, name: str, version: str) -> Model:
        self.finds += 1
        return self._versions[min(self.finds, 2) - 1]


def test_a_model_that_closes_meanwhile_hands_over_to_the_one_that_takes_over() -> None:
    old, new = (Model("m", number, ROWS, "scripted", Limits()) for number in "12")
    old.close(drain=True)
    work = infer(Service(Taken(old, new)), request(), Answers(), None)
    assert work.model is new
    assert (old.waiting, new.waiting) == (0, 1)
    assert old.snapshot().fail.count == 0, "the request came for the new one"


def test_a_model_that_closes_with_nobody_to_take_over_refuses() -> None:
    model = Model("m", "1", ROWS, "scripted", Limits())
    model.close(drain=True)
    with pytest.raises(ShuttingDown, match="model 'm' is being closed"):
        infer(Service(Shelf(model)), request(), Answers(), None)


def test_a_decoupled_model_is_for_callers_who_can_be_given_several_responses() -> None:
    model = Model("m", "1", ROWS, "scripted", Limits(), settings=ModelSettings(is_decoupled=True))
    service = Service(Shelf(model))
    with pytest.raises(NotSupported, match="model 'm' is decoupled: it is reached by streams"):
        infer(service, request(), Answers(), None)
    assert model.snapshot().fail.count == 1
    infer(service, request(), Answers(), None, takes_many=True)
    assert model.waiting == 1


class Noted(Shelf):
    """A control that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[object, ...]] = []

    def check_control(self) -> None:
        self.asked.append(("check",))

    def load_model(
        self,
        name: str,
        override: Override | None = None,
        repository: str = "",
        is_wanted: IsWanted = always,
    ) -> None:
        self.asked.append(("load", name, override, repository))

    def unload_model(self, name: str, repository: str = "", is_wanted: IsWanted = always) -> None:
        self.asked.append(("unload", name, repository))

    def index(self, repository: str = "") -> Sequence[Entry]:
        self.asked.append(("index", repository))
        return [Entry("m", "1", ModelState.READY)]


def test_models_are_loaded_and_unloaded_by_whoever_controls_them_until_a_stop() -> None:
    control = Noted()
    service = Service(Shelf(), control)
    override = Override("{}")
    service.load_model("m", override, "/models")
    service.unload_model("m", "/models")
    assert service.index("/models") == [Entry("m", "1", ModelState.READY)]
    assert control.asked == [
        ("load", "m", override, "/models"), ("unload", "m", "/models"), ("index", "/models"),
    ]  # fmt: skip
    service.stop_accepting()
    with pytest.raises(ShuttingDown, match="the server is stopping"):
        service.load_model("m")


def test_without_control_models_stay_as_they_are() -> None:
    service = Service(Shelf(Model("m", "1", ROWS, "scripted", Limits())))
    changes = (lambda: service.load_model("m"), lambda: service.unload_model("m"), service.check_control)
    for change in changes:
        with pytest.raises(ControlDisabled):
            change()
    assert service.index() == [Entry("m", "1", ModelState.READY)]


def test_each_transport_gets_its_own_answers_in_one_delivery() -> None:
    deliveries: list[tuple[str, int]] = []

    class Transport(Answers):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def deliver(self, answers: object) -> None:
            deliveries.append((self.name, len(answers)))  # type: ignore[arg-type]  # a sequence of answers
            super().deliver(answers)  # type: ignore[arg-type]  # the same

    one, two = Transport("one"), Transport("two")
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("first", 0)
        gate.arrival()
        for key, sink in enumerate((one, two, one, one)):
            served.infer(key, key, sink=sink)
        gate.open()
        one.wait_for(0, 2, 3)
        two.wait_for(1)
    assert sorted(deliveries) == [("one", 3), ("two", 1)]
