"""What is done beside a transport, what is held for it, and what becomes of it when its caller goes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from direct_reactor import DirectReactor
from hosted_server import eventually
from scripted_engines import PATIENCE_SECONDS

from headrace_server.errors import InvalidInput, Overloaded, ShuttingDown
from headrace_server.transport.aside import Aside
from headrace_server.transport.holdings import Call, Holdings


class Beside:
    """An `Aside`, with threads that can be kept busy."""

    def __init__(self) -> None:
        self.holdings = Holdings(100)
        self.aside = Aside("large-request", 2, DirectReactor(), self.holdings)
        self.gate = threading.Event()
        self.done: list[object] = []

    def run(
        self,
        size_bytes: int,
        function: Callable[[], object],
        own_bytes: int = 0,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Future[Any]:
        """Have it done, and return what will be told of it."""
        told: Future[Any] = Future()
        self.aside.run(size_bytes, own_bytes, lambda _: function(), told.set_result, is_wanted)
        return told

    def wait(self) -> None:
        assert self.gate.wait(PATIENCE_SECONDS)

    def occupy(self) -> list[Future[Any]]:
        """Keep both threads waiting for the gate."""
        return [self.run(10, self.wait) for _ in range(2)]

    def await_nothing_held(self) -> None:
        eventually(lambda: self.holdings.size_bytes == 0, "nothing is held any more")


@pytest.fixture
def beside() -> Iterator[Beside]:
    made = Beside()
    yield made
    made.gate.set()
    made.aside.close()


def test_nobody_is_held_up_meanwhile(beside: Beside) -> None:
    waiting = beside.run(10, beside.wait)
    assert not waiting.done()
    assert beside.holdings.size_bytes == 10
    beside.gate.set()
    waiting.result(PATIENCE_SECONDS)
    assert beside.holdings.size_bytes == 0


def test_what_comes_of_it_is_told(beside: Beside) -> None:
    assert beside.run(10, lambda: 7).result(PATIENCE_SECONDS) == 7

    def refuse() -> None:
        raise InvalidInput("wrong")

    assert isinstance(beside.run(10, refuse).result(PATIENCE_SECONDS), InvalidInput)
    assert beside.holdings.size_bytes == 0


def test_invariant_4_more_than_the_limit_is_refused_and_not_done(beside: Beside) -> None:
    told = beside.occupy()
    with pytest.raises(Overloaded, match="20 bytes are in flight, the limit is 100"):
        beside.run(81, lambda: beside.done.append("refused"))
    beside.gate.set()
    for one in told:
        one.result(PATIENCE_SECONDS)
    assert beside.done == []


def test_a_request_that_is_alone_may_have_any_size(beside: Beside) -> None:
    beside.holdings.admit(Call(), 90)
    assert beside.run(500, lambda: 7, own_bytes=90).result(PATIENCE_SECONDS) == 7
    with pytest.raises(Overloaded):
        beside.run(500, lambda: 7, own_bytes=80)


def test_what_nobody_waits_for_any_more_is_not_begun_and_held_until_then(beside: Beside) -> None:
    beside.occupy()
    callers = {"gone", "stays"}
    for name in sorted(callers):
        done = functools.partial(beside.done.append, name)
        beside.run(30, done, is_wanted=functools.partial(callers.__contains__, name))
    callers.discard("gone")
    assert beside.holdings.size_bytes == 80
    beside.gate.set()
    beside.await_nothing_held()
    assert beside.done == ["stays"]


def test_a_server_that_has_stopped_says_so(beside: Beside) -> None:
    beside.aside.close()
    with pytest.raises(ShuttingDown):
        beside.run(10, lambda: 7)
    assert beside.holdings.size_bytes == 0


@contextlib.contextmanager
def no_further_thread() -> Iterator[None]:
    """Keep threads from being begun: none finds room for its stack."""
    usual_bytes = threading.stack_size(1 << 46)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=threading.Event().set).start()
        yield
    finally:
        threading.stack_size(usual_bytes)


def test_where_no_further_thread_can_be_begun_the_others_do_what_is_to_be_done(beside: Beside) -> None:
    busy = beside.run(10, beside.wait)
    with no_further_thread():
        waiting = [beside.run(10, functools.partial(beside.done.append, number)) for number in range(3)]
    beside.gate.set()
    for told in (busy, *waiting):
        told.result(PATIENCE_SECONDS)
    assert sorted(map(str, beside.done)) == ["0", "1", "2"]
    assert beside.holdings.size_bytes == 0


def test_there_is_a_thread_even_where_none_can_be_begun_any_more(beside: Beside) -> None:
    with no_further_thread():
        assert beside.run(10, lambda: 7).result(PATIENCE_SECONDS) == 7
