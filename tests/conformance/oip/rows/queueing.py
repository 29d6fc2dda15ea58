"""What becomes of requests that wait: full queues, timeouts, deadlines, callers that leave; the counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.rpc import error_details_pb2
from oip import differences
from oip.build import Parameters, infer, raw, tensors
from oip.case import Case, Check, Code, Earlier, Step, act, ask, case
from oip.wire import PATIENCE_SECONDS, Outcome, Pending, Wire

from headrace_proto.v1 import inference_pb2 as pb

_DONE: Final = Outcome([], Code.OK, "")
_OVERLOAD: Final = 24
_STATISTICS: Final = "ModelStatistics"


def _slow(milliseconds: int, model: str = "slow", **parameters: Any) -> pb.ModelInferRequest:
    given: Parameters = parameters
    return infer(model, raw("x", "INT32", [[milliseconds]]), parameters=given)


def _statistics(wire: Wire, model: str) -> pb.ModelStatistics:
    (one,) = wire.call(_STATISTICS, pb.ModelStatisticsRequest(name=model)).answer.model_stats
    return one


def _engaged(wire: Wire, model: str, milliseconds: int = 300) -> Pending:
    """Begin a request that keeps the model busy, and give the model the time to take it."""
    began = wire.begin("ModelInfer", _slow(milliseconds, model))
    time.sleep(milliseconds / 3000)
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
    """Ask while the model is busy with another request."""

    def send(wire: Wire, _earlier: Earlier) -> Outcome:
        first = _engaged(wire, model)
        outcome = wire.call("ModelInfer", request)
        assert first.end().code is Code.OK
        return outcome

    return send


def _cancelled(wire: Wire, _earlier: Earlier) -> Outcome:
    """Leave while waiting; the one that was executed meanwhile is answered, and so is the next."""
    first = _engaged(wire, "slow")
    second = wire.begin("ModelInfer", _slow(1))
    time.sleep(0.02)
    second.cancel()
    assert second.end().code is Code.CANCELLED
    assert first.end().code is Code.OK
    return wire.call("ModelInfer", _slow(1))


def _calm(wire: Wire, model: str) -> None:
    """Wait until nothing that earlier rows began is still counted."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    before = None
    while (now := _statistics(wire, model).SerializeToString()) != before and time.monotonic() < give_up:
        before = now
        time.sleep(0.05)


def _counted(model: str, requests: Sequence[pb.ModelInferRequest], expected: Check) -> tuple[Step, ...]:
    """Make the steps: statistics, these requests, statistics, which are compared with the first ones."""

    def first(wire: Wire, _earlier: Earlier) -> Outcome:
        _calm(wire, model)
        return Outcome([_statistics(wire, model)], Code.OK, "")

    def then(wire: Wire, _earlier: Earlier) -> Outcome:
        for request in requests:
            wire.call("ModelInfer", request)
        _calm(wire, model)
        return Outcome([_statistics(wire, model)], Code.OK, "")

    return act(first), act(then, gives=expected)


def _grown(outcome: Outcome, earlier: Earlier, read: Callable[[Any], int]) -> int:
    return read(outcome.answer) - read(earlier[-1].answer)


def _grows(**expected: int) -> Check:
    """Expect these counts to have grown by so much."""
    readers: dict[str, Callable[[Any], int]] = {
        "inferences": lambda one: one.inference_count,
        "executions": lambda one: one.execution_count,
        "success": lambda one: one.inference_stats.success.count,
        "fail": lambda one: one.inference_stats.fail.count,
        "queue": lambda one: one.inference_stats.queue.count,
        "compute_input": lambda one: one.inference_stats.compute_input.count,
        "compute_infer": lambda one: one.inference_stats.compute_infer.count,
        "compute_output": lambda one: one.inference_stats.compute_output.count,
        "in_batches": lambda one: sum(batch.compute_infer.count for batch in one.batch_stats),
    }

    def check(outcome: Outcome, earlier: Earlier) -> None:
        came = {name: _grown(outcome, earlier, readers[name]) for name in expected}
        assert came == expected

    return check


def _sums_up(outcome: Outcome, _earlier: Earlier) -> None:
    """The parts of the time that requests took add up to the whole, but for a hundredth."""
    stats = outcome.answer.inference_stats
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert stats.success.count > 0
    assert abs(stats.success.ns - sum(part.ns for part in parts)) <= stats.success.ns / 100 + 100_000


def _has_batches(outcome: Outcome, _earlier: Earlier) -> None:
    assert {2, 3} <= {batch.batch_size for batch in outcome.answer.batch_stats}
    assert outcome.answer.last_inference > 0


def _names(expected: list[tuple[str, str]], *, exactly: bool) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        came = [(one.name, one.version) for one in outcome.answer.model_stats]
        assert came == expected if exactly else set(expected) <= set(came)

    return check


def _fp32(rows: int) -> pb.ModelInferRequest:
    return infer("identity_FP32", raw("x", "FP32", [[1, 2, 3]] * rows))


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
        "requests are counted, and their rows",
        *_counted(
            "identity_FP32",
            [_fp32(1), _fp32(2), _fp32(3)],
            _grows(
                inferences=6,
                executions=3,
                success=3,
                fail=0,
                queue=3,
                compute_input=3,
                compute_infer=3,
                compute_output=3,
                in_batches=3,
            ),
        ),
    ),
    case(
        "each size of a batch has counts of its own",
        *_counted("identity_FP32", [_fp32(2), _fp32(3)], _has_batches),
    ),
    case("the times of a model's requests add up", *_counted("slow", [_slow(30)] * 4, _sums_up)),
    case(
        "a request that is refused for its shape is not executed",
        *_counted(
            "identity_FP32",
            [infer("identity_FP32", raw("x", "FP32", [[1]]))],
            _grows(executions=0, success=0, compute_infer=0),
        ),
    ),
    case(
        "a request that fails in the model is counted as failed",
        *_counted("fragile", [_FRAGILE, _FRAGILE], _grows(success=0, fail=2)),
    ),
    case(
        "a program that raises fails its own request, and says nothing of itself",
        ask("ModelInfer", _FRAGILE, Code.INTERNAL, "^(?!.*secret)"),
        ask("ModelInfer", infer("fragile", raw("x", "INT32", [[1]])), gives=tensors(y=("INT32", [[1]]))),
    ),
    case(
        "the statistics of one model",
        ask(
            _STATISTICS,
            pb.ModelStatisticsRequest(name="simple"),
            gives=_names([("simple", "1")], exactly=True),
        ),
    ),
    case(
        "the statistics of all versions of a model",
        ask(
            _STATISTICS,
            pb.ModelStatisticsRequest(name="every_version"),
            gives=_names([("every_version", str(version)) for version in (1, 2, 3)], exactly=True),
        ),
    ),
    case(
        "the statistics of one version",
        ask(
            _STATISTICS,
            pb.ModelStatisticsRequest(name="every_version", version="2"),
            gives=_names([("every_version", "2")], exactly=True),
        ),
    ),
    case(
        "the statistics of all models",
        ask(
            _STATISTICS,
            pb.ModelStatisticsRequest(),
            gives=_names(
                [("simple", "1"), ("repeat", "1"), ("latest_two", "2"), ("latest_two", "3")], exactly=False
            ),
        ),
    ),
    case(
        "the statistics of a version that is no number",
        ask(
            _STATISTICS, pb.ModelStatisticsRequest(name="simple", version="abc"), Code.INVALID_ARGUMENT, "abc"
        ),
    ),
]
