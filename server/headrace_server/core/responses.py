"""What becomes of the single responses of requests that may have several, as statistics."""

from __future__ import annotations

import enum
from typing import Final

from headrace_server.core.statistics import ResponseStatistics, Statistics

_NUMBERED: Final = 64
"""Responses that are counted by their number; a program may give any number of them."""
_REST: Final = f"{_NUMBERED}+"


class Ending(enum.Enum):
    """What became of a response."""

    SUCCESS = enum.auto()
    EMPTY = enum.auto()
    """It had no outputs: it only said that there are no more."""
    FAIL = enum.auto()
    CANCEL = enum.auto()
    """The caller had gone."""


def count_response(
    statistics: Statistics, number: int, ending: Ending, *, infer_ns: int, output_ns: int
) -> None:
    """Add a response, the `number`-th of its request from 0.

    `infer_ns` is what making it took since the one before, in whatever request that was; `output_ns`
    what encoding and handing it out took.
    """
    key = str(number) if number < _NUMBERED else _REST
    responses = statistics.responses.get(key)
    if responses is None:
        responses = statistics.responses[key] = ResponseStatistics()
    whole_ns = infer_ns + output_ns
    match ending:
        case Ending.SUCCESS:
            responses.compute_infer.add(1, infer_ns)
            responses.compute_output.add(1, output_ns)
            responses.success.add(1, whole_ns)
        case Ending.EMPTY:
            responses.empty_response.add(1, whole_ns)
        case Ending.FAIL:
            responses.fail.add(1, whole_ns)
        case Ending.CANCEL:
            responses.cancel.add(1, whole_ns)
