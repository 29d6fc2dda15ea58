"""Sequences: requests that belong together, with the control inputs that a model gets for them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from oip import differences
from oip.build import Value, infer, raw, tensors
from oip.case import Case, Code, Step, ask, case, talk
from oip.rows.streams import answers


def _turn(value: int, sequence: Value, expected: int, *, start: bool = False, end: bool = False) -> Step:
    """Make the step of one request of a sequence, and of the sum that it comes to."""
    return ask("ModelInfer", _request(value, sequence, start=start, end=end), gives=_sum(expected, sequence))


def _request(value: int, sequence: Value, *, start: bool = False, end: bool = False, **more: Value) -> Any:
    parameters: dict[str, Value] = {"sequence_id": sequence, **more}
    if start:
        parameters["sequence_start"] = True
    if end:
        parameters["sequence_end"] = True
    return infer("running_sum", raw("x", "INT32", [[value]]), parameters=parameters)


def _sum(expected: int, sequence: Value) -> Any:
    return tensors(y=("INT32", [[expected]]), id=("UINT64", np.array([[sequence]], np.uint64)))


def _refused(name: str, request: Any, says: str, *before: Step, **more: Any) -> Case:
    return case(name, *before, ask("ModelInfer", request, Code.INVALID_ARGUMENT, says, **more))


CASES: Final[list[Case]] = [
    case(
        "a sequence keeps its sum",
        _turn(1, 101, 1, start=True),
        _turn(10, 101, 11),
        _turn(100, 101, 111, end=True),
    ),
    case("a sequence of one request", _turn(5, 102, 5, start=True, end=True)),
    case(
        "two sequences keep sums of their own",
        _turn(1, 103, 1, start=True),
        _turn(2, 104, 2, start=True),
        _turn(10, 103, 11),
        _turn(20, 104, 22),
        _turn(0, 103, 11, end=True),
        _turn(0, 104, 22, end=True),
    ),
    case(
        "eight sequences at once, as many as there are slots",
        *(_turn(number, 110 + number, number, start=True) for number in range(8)),
        *(_turn(1, 110 + number, number + 1, end=True) for number in range(8)),
    ),
    case(
        "a start in the middle begins anew",
        _turn(1, 120, 1, start=True),
        _turn(7, 120, 7, start=True),
        _turn(1, 120, 8, end=True),
    ),
    case(
        "a sequence that ended begins anew",
        _turn(1, 121, 1, start=True, end=True),
        _turn(2, 121, 2, start=True, end=True),
    ),
    case("the largest number of a sequence", _turn(1, 2**63 - 1, 1, start=True, end=True)),
    _refused("a request without a sequence", infer("running_sum", raw("x", "INT32", [[1]])), "sequence"),
    _refused("a sequence 0", _request(1, 0, start=True), "sequence"),
    _refused("a sequence without a name", _request(1, "", start=True), "sequence"),
    _refused("a sequence that nobody began", _request(1, 130), "130"),
    _refused(
        "a sequence that has ended",
        _request(1, 131),
        "131",
        _turn(1, 131, 1, start=True, end=True),
    ),
    _refused(
        "two rows in one request",
        infer(
            "running_sum",
            raw("x", "INT32", [[1], [2]]),
            parameters={"sequence_id": 132, "sequence_start": True, "sequence_end": True},
        ),
        "",
    ),
    _refused(
        "a control input that the caller fills",
        infer(
            "running_sum",
            raw("x", "INT32", [[1]]),
            raw("START", "INT32", [[1]]),
            parameters={"sequence_id": 133, "sequence_start": True, "sequence_end": True},
        ),
        "START",
    ),
    _refused(
        "a name for a model that takes the number",
        _request(1, "abc", start=True, end=True),
        "sequence",
        differs=differences.STRING_SEQUENCE,
    ),
    case(
        "a sequence on a stream",
        talk(
            _request(1, 140, start=True),
            _request(10, 140),
            _request(100, 140, end=True),
            gives=answers(
                *({"y": ("INT32", [[value]]), "id": ("UINT64", [[140]])} for value in (1, 11, 111))
            ),
        ),
    ),
]
