"""Whose turn it is on a GPU while batches are on trial there."""

from __future__ import annotations

import threading

import pytest
from scripted_engines import PATIENCE_SECONDS

from headrace_engines.errors import DeviceError
from headrace_server.core.trials import Trials


class Executes:
    """A party that has a batch, or none."""

    def __init__(self, trials: Trials, *, has_batch: bool = False) -> None:
        self.has_batch = has_batch
        trials.join(self)


def never() -> None:
    """Check nothing."""


def test_only_those_with_a_batch_are_suspected_and_each_is_acquitted_by_itself() -> None:
    trials = Trials()
    first, second, _ = (Executes(trials, has_batch=has) for has in (True, True, False))
    assert not trials.are_on
    trials.suspect()
    trials.acquit(first)
    assert trials.are_on
    trials.leave(second)
    assert not trials.are_on


def test_nothing_is_left_of_a_party_that_leaves() -> None:
    trials = Trials()
    first, second = Executes(trials), Executes(trials)
    for _ in range(2):
        trials.take_turn(first, never)
    trials.leave(first)
    trials.take_turn(second, lambda: pytest.fail("nobody is before it"))


def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    trials = Trials()
    first, second = Executes(trials), Executes(trials)
    trials.take_turn(first, never)
    asks, order = threading.Event(), []

    def wait_for_turn() -> None:
        trials.take_turn(second, asks.set)
        order.append("second")
        trials.give_turn(second)

    thread = threading.Thread(target=wait_for_turn)
    thread.start()
    assert asks.wait(PATIENCE_SECONDS)
    order.append("first")
    trials.give_turn(first)
    trials.take_turn(first, never)
    thread.join(PATIENCE_SECONDS)
    assert order == ["first", "second"]


def test_who_is_told_to_give_up_waits_no_more_and_holds_nobody_up() -> None:
    trials = Trials()
    first, second, third = (Executes(trials) for _ in range(3))
    trials.take_turn(first, never)
    checks: list[None] = []
    asks, is_over = threading.Event(), threading.Event()

    def check() -> None:
        checks.append(None)
        asks.set()
        if len(checks) > 1:
            raise DeviceError("given up")

    def wait_for_turn() -> None:
        with pytest.raises(DeviceError):
            trials.take_turn(second, check)
        is_over.set()

    threading.Thread(target=wait_for_turn).start()
    assert asks.wait(PATIENCE_SECONDS)
    trials.wake()
    assert is_over.wait(PATIENCE_SECONDS)
    trials.leave(first)
    trials.take_turn(third, never)
