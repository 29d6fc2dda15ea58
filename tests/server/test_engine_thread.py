from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from scripted_engines import PATIENCE_SECONDS, ROWS, Answers
from works import work_of

from headrace_engines.errors import DeviceError
from headrace_server.core.engine_thread import EngineThread
from headrace_server.core.model import Limits, Model
from headrace_server.errors import DeviceLost


class Closes:
    """An engine that notes which thread closed it."""

    def __init__(self) -> None:
        self.by = ""

    def close(self) -> None:
        self.by = threading.current_thread().name


def ended(serve: Callable[[], None]) -> tuple[Model, Closes, Answers]:
    model, engine, sink = Model("m", "1", ROWS, "scripted", Limits()), Closes(), Answers()
    thread = EngineThread(
        model, engine, 2, serve, lambda: [work_of(model, sink, reply="in hand")], lambda: None
    )
    thread.start()
    assert thread.join(PATIENCE_SECONDS)
    return model, engine, sink


def test_an_engine_is_closed_by_the_thread_that_served_it() -> None:
    names: list[str] = []
    model, engine, sink = ended(lambda: names.append(threading.current_thread().name))
    assert names == [engine.by] == ["engine-m-1-2"]
    assert model.lost is None
    assert not sink.by_key


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DeviceError("the GPU fell off the bus"), "the GPU fell off the bus"),
        (KeyError("x"), "its worker stopped"),
        (SystemExit(3), "its worker stopped"),
    ],
)
def test_invariant_8_whatever_ends_it_loses_the_model_and_answers_what_is_in_hand(
    error: BaseException, told: str
) -> None:
    def serve() -> None:
        raise error

    model, engine, sink = ended(serve)
    assert model.lost == told
    assert isinstance(sink.error_of("in hand"), DeviceLost)
    assert engine.by == "engine-m-1-2"


def test_a_thread_that_still_serves_has_not_ended() -> None:
    goes_on = threading.Event()
    model, engine = Model("m", "1", ROWS, "scripted", Limits()), Closes()
    thread = EngineThread(model, engine, 0, lambda: assert_set(goes_on), list, lambda: None)
    thread.start()
    assert not thread.join(0.01)
    goes_on.set()
    assert thread.join(PATIENCE_SECONDS)


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE_SECONDS)


def test_a_thread_that_was_given_up_is_not_waited_for_though_it_goes_on() -> None:
    goes_on = threading.Event()
    model, engine, sink = Model("m", "1", ROWS, "scripted", Limits()), Closes(), Answers()
    in_hand = [work_of(model, sink, reply="in hand")]
    thread = EngineThread(model, engine, 0, lambda: assert_set(goes_on), lambda: in_hand, lambda: None, gpu=1)
    thread.start()
    assert not thread.join(0)
    assert thread.give_up() == in_hand
    assert thread.join(0)
    assert not engine.by
    goes_on.set()


def test_an_engine_that_cannot_be_closed_has_ended_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Closes):
        def close(self) -> None:
            super().close()
            raise SystemExit

    model, engine = Model("m", "1", ROWS, "scripted", Limits()), Fails()
    thread = EngineThread(model, engine, 0, lambda: None, list, lambda: None)
    thread.start()
    assert thread.join(PATIENCE_SECONDS)
    assert engine.by
    assert not model.instances.executing()
    assert "model m: its engine could not be closed" in caplog.text
