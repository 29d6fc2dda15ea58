"""What becomes of requests that wait: full queues, timeouts, deadlines, callers that leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from google.rpc import error_details_pb2
from oip import differences
from oip.build import Parameters, infer, raw, tensors
from oip.case import Case, Code, Earlier, act, ask, case
from oip.wire import PATIENCE_SECONDS, Outcome, Pending, Wire

from headrace_proto.v1 import inference_pb2 as pb

_OVERLOAD: Final = 24
_BUSY_MS: Final = 300
_ROUND_TRIPS: Final = 20
"""After so many a server has most likely taken what it got before them for execution."""


def _slow(milliseconds: int, model: str = "slow", **parameters: Any) -> pb.ModelInferRequest:
    given: Parameters = parameters
    return infer(model, raw("x", "INT32", [[milliseconds]]), parameters=given)


def _statistics(wire: Wire, model: str) -> pb.ModelStatistics:
    (one,) = wire.call("ModelStatistics", pb.ModelStatisticsRequest(name=model)).answer.model_stats
    return one


def _begun(wire: Wire, request: pb.ModelInferRequest) -> Pending:
    """Begin a request; what is asked later on the same connection is answered once this one has arrived."""
    began = wire.begin("ModelInfer", request)
    for _ in range(_ROUND_TRIPS):
        _statistics(wire, request.model_name)
    return began


def _crowd(wire: Wire, _earlier: Earlier) -> Outcome:
    """Ask more at once than may wait; return one that was refused."""
    calls = [wire.begin("ModelInfer", _slow(200)) for _ in range(_OVERLOAD)]
    outcomes = [call.end() for call in calls]
    answered = [one for one in outcomes if one.code is Code.OK]
    refused = [one for one in outcomes if one.code is not Code.OK]
    assert 1 <= len(answered) <= 8
    assert len({one.code for one in refused}) == 1
    return refused[0]


def _retry_info(outcome: Outcome, _earlier: Earlier) -> None:
    (detail,) = outcome.details
    info = error_details_pb2.RetryInfo()
    assert detail.Unpack(info)
    assert info.retry_delay.ToNanoseconds() > 0


def _behind(request: pb.ModelInferRequest, model: str) -> Callable[[Wire, Earlier], Outcome]:
    """Ask while the model is busy with another request; again, if it was not: they were executed together."""

    def send(wire: Wire, _earlier: Earlier) -> Outcome:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            executed = _statistics(wire, model).execution_count
            first = _begun(wire, _slow(_BUSY_MS, model))
            came_in_time = not first.is_over
            outcome = wire.call("ModelInfer", request)
            assert first.end().code is Code.OK
            executed = _statistics(wire, model).execution_count - executed
            if outcome.code is not Code.OK or (came_in_time and executed > 1):
                return outcome
            assert time.monotonic() < give_up, f"{model} was never busy with one request alone"

    return send


def _cancelled(wire: Wire, _earlier: Earlier) -> Outcome:
    """Leave while waiting, again if it was answered first; the one that was executed is answered."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        first = _begun(wire, _slow(_BUSY_MS))
        second = _begun(wire, _slow(1))
        second.cancel()
        left = second.end()
        assert first.end().code is Code.OK
        if left.code is not Code.OK:
            assert left.code is Code.CANCELLED
            return wire.call("ModelInfer", _slow(1))
        assert time.monotonic() < give_up, "every request was answered before its caller could leave"


_FRAGILE: Final = infer("fragile", raw("x", "INT32", [[-1]]))

CASES: Final[list[Case]] = [
    case(
        "more requests than may wait",
        act(_crowd, code=Code.RESOURCE_EXHAUSTED, gives=_retry_info, differs=differences.QUEUE_FULL),
        ask("ModelInfer", _slow(1), gives=tensors(y=("INT32", [[1]]))),
    ),
    case(
        "a request that waits longer than its queue allows",
        act(
            _behind(_slow(1, "impatient"), "impatient"),
            code=Code.DEADLINE_EXCEEDED,
            differs=differences.QUEUE_TIMEOUT,
        ),
        ask("ModelInfer", _slow(1, "impatient")),
    ),
    case(
        "a request's own timeout, where it is shorter",
        act(
            _behind(_slow(1, "impatient", timeout=5_000), "impatient"),
            code=Code.DEADLINE_EXCEEDED,
            differs=differences.QUEUE_TIMEOUT,
        ),
    ),
    case(
        "a request's own timeout, where the configuration says nothing of timeouts",
        act(
            _behind(_slow(1, "sleeper", timeout=5_000), "sleeper"),
            code=Code.DEADLINE_EXCEEDED,
            differs=differences.TIMEOUT_WITHOUT_POLICY,
        ),
    ),
    case(
        "a deadline that passes while the request waits",
        ask("ModelInfer", _slow(300), Code.DEADLINE_EXCEEDED, timeout_seconds=0.05),
        ask("ModelInfer", _slow(1)),
    ),
    case("a caller that leaves while it waits", act(_cancelled, gives=tensors(y=("INT32", [[1]])))),
    case(
        "a program that raises fails its own request, and says nothing of itself",
        ask("ModelInfer", _FRAGILE, Code.INTERNAL, "^(?!.*secret)"),
        ask("ModelInfer", infer("fragile", raw("x", "INT32", [[1]])), gives=tensors(y=("INT32", [[1]]))),
    ),
]
