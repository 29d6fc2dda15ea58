from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.discovery.heartbeat import START, Outcome, Step, is_worth_a_line, next_step

BEAT = 5.0
REGISTERED = Step(register=False, delay_seconds=BEAT)


@pytest.mark.parametrize(
    ("last", "outcome", "following"),
    [
        (START, Outcome.DONE, REGISTERED),
        (REGISTERED, Outcome.DONE, REGISTERED),
        (Step(register=False, failures=7), Outcome.DONE, REGISTERED),
        (REGISTERED, Outcome.FORGOTTEN, Step(register=True)),
        (Step(register=False, failures=7), Outcome.FORGOTTEN, Step(register=True)),
        (START, Outcome.FORGOTTEN, Step(register=True, delay_seconds=0.1, failures=1)),
        (START, Outcome.DENIED, Step(register=True, delay_seconds=0.1, failures=1)),
        (START, Outcome.UNREACHABLE, Step(register=True, delay_seconds=0.1, failures=1)),
        (REGISTERED, Outcome.UNREACHABLE, Step(register=False, delay_seconds=0.1, failures=1)),
        (REGISTERED, Outcome.DENIED, Step(register=False, delay_seconds=0.1, failures=1)),
        (Step(True, 0.1, 1), Outcome.REFUSED, Step(register=True, delay_seconds=0.2, failures=2)),
        (Step(True, 0.2, 5), Outcome.REFUSED, Step(register=True, delay_seconds=3.2, failures=6)),
        (Step(True, 3.2, 6), Outcome.REFUSED, Step(register=True, delay_seconds=BEAT, failures=7)),
        (
            Step(True, BEAT, 10**6),
            Outcome.REFUSED,
            Step(register=True, delay_seconds=BEAT, failures=10**6 + 1),
        ),
    ],
)
def test_what_follows_each_outcome(last: Step, outcome: Outcome, following: Step) -> None:
    assert next_step(last, outcome, BEAT) == following


@given(st.lists(st.sampled_from(Outcome)), st.floats(0.01, 100))
def test_whatever_happens_a_registry_that_is_back_is_told_within_one_beat(
    outcomes: list[Outcome], beat_seconds: float
) -> None:
    step, holds_entry, immediate = START, False, 0
    for outcome in outcomes:
        if outcome is Outcome.DONE:
            holds_entry = True
        elif outcome is Outcome.FORGOTTEN:
            holds_entry = False
        step = next_step(step, outcome, beat_seconds)
        assert 0 <= step.delay_seconds <= beat_seconds
        assert step.register is not holds_entry
        immediate = immediate + 1 if step.delay_seconds == 0 else 0
        assert immediate <= 1


def test_failures_in_a_row_are_logged_ever_more_rarely() -> None:
    assert [n for n in range(1, 1100) if is_worth_a_line(n)] == [1, 4, 16, 64, 256, 1024]
