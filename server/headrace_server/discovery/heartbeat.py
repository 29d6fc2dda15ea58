"""What to tell a registry next, given what came of telling it the last thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

FIRST_DELAY_SECONDS = 0.1


class Outcome(Enum):
    """What came of one call."""

    DONE = auto()
    FORGOTTEN = auto()
    """The registry answers, and does not know the entry."""
    DENIED = auto()
    """The token lacks a right, which somebody may grant while we go on asking."""
    REFUSED = auto()
    """The registry takes this entry for wrong; asking again is right only because its rules may change."""
    UNREACHABLE = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """The next call: registering anew, or else a beat, `delay_seconds` from now."""

    register: bool
    delay_seconds: float = 0.0
    failures: int = 0


START = Step(register=True)


def next_step(last: Step, outcome: Outcome, beat_seconds: float) -> Step:
    """Return the step after `last`, which came to `outcome`.

    Delays are for the caller to shorten at random, so that a fleet does not come back as one; they
    never exceed a beat, so that a registry that is back finds the entry alive.
    """
    if outcome is Outcome.DONE:
        return Step(register=False, delay_seconds=beat_seconds)
    if outcome is Outcome.FORGOTTEN and not last.register:
        return Step(register=True)
    exponent = min(last.failures, 30)
    delay_seconds = min(beat_seconds, FIRST_DELAY_SECONDS * 2**exponent)
    return Step(last.register, delay_seconds, last.failures + 1)


def is_worth_a_line(failures: int) -> bool:
    """Whether to log this failure in a row: the first, the fourth, the sixteenth and so on."""
    return failures.bit_count() == 1 and failures.bit_length() % 2 == 1
