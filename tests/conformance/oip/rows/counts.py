"""What a model's statistics count: requests, rows, batches, single responses, and the time they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from oip import differences
from oip.build import infer, raw
from oip.case import Case, Check, Code, Difference, Earlier, Step, act, ask, case
from oip.rows.streams import repeat
from oip.wire import PATIENCE_SECONDS, Outcome, Wire

from headrace_proto.v1 import inference_pb2 as pb

_STATISTICS: Final = "ModelStatistics"
_NO_RESPONSES: Final = "the Python backend of Triton 2.51 does not count single responses"


def _statistics(wire: Wire, model: str) -> pb.ModelStatistics:
    (one,) = wire.call(_STATISTICS, pb.ModelStatisticsRequest(name=model)).answer.model_stats
    return one


def _calm(wire: Wire, model: str) -> None:
    """Wait until nothing that earlier rows began is still counted."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    before = None
    while (now := _statistics(wire, model).SerializeToString()) != before and time.monotonic() < give_up:
        before = now
        time.sleep(0.05)


def _counted(
    model: str,
    requests: Sequence[pb.ModelInferRequest],
    expected: Check,
    differs: Difference | None = None,
) -> tuple[Step, ...]:
    """Make the steps: statistics, these requests, statistics, which are compared with the first ones."""

    def first(wire: Wire, _earlier: Earlier) -> Outcome:
        _calm(wire, model)
        return Outcome([_statistics(wire, model)], Code.OK, "")

    def then(wire: Wire, _earlier: Earlier) -> Outcome:
        for request in requests:
            wire.converse("ModelStreamInfer", [request])
        _calm(wire, model)
        return Outcome([_statistics(wire, model)], Code.OK, "")

    return act(first), act(then, gives=expected, differs=differs)


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
        "rows_in_batches": lambda one: sum(
            batch.batch_size * batch.compute_infer.count for batch in one.batch_stats
        ),
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


def _responses(**expected: dict[str, int]) -> Check:
    """Expect these counts to have grown by so much, by the number of the response; what is not named is 0."""

    def count(stats: pb.ModelStatistics, number: str, field: str) -> int:
        return (
            int(getattr(stats.response_stats[number], field).count) if number in stats.response_stats else 0
        )

    def check(outcome: Outcome, earlier: Earlier) -> None:
        fields = [field.name for field in pb.InferResponseStatistics.DESCRIPTOR.fields]
        for number in outcome.answer.response_stats:
            grown = {
                field: count(outcome.answer, number, field) - count(earlier[-1].answer, number, field)
                for field in fields
            }
            wanted = dict.fromkeys(fields, 0) | expected.get(f"number_{number}", {})
            assert grown == wanted, f"response {number}: {grown} came, {wanted} expected"

    return check


def _adds_up_by_size(outcome: Outcome, _earlier: Earlier) -> None:
    """The sizes of batches account for every execution and every row."""
    stats = outcome.answer
    assert sum(batch.compute_infer.count for batch in stats.batch_stats) == stats.execution_count
    rows = sum(batch.batch_size * batch.compute_infer.count for batch in stats.batch_stats)
    assert rows == stats.inference_count
    for batch in stats.batch_stats:
        parts = (batch.compute_input, batch.compute_infer, batch.compute_output)
        assert len({part.count for part in parts}) == 1
        assert batch.compute_infer.ns > 0


def _fp32(rows: int) -> pb.ModelInferRequest:
    return infer("identity_FP32", raw("x", "FP32", [[1, 2, 3]] * rows))


_SLOW: Final = infer("slow", raw("x", "INT32", [[30]]))
_FRAGILE: Final = infer("fragile", raw("x", "INT32", [[-1]]))

CASES: Final[list[Case]] = [
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
                rows_in_batches=6,
            ),
        ),
    ),
    case(
        "each size of a batch has counts of its own",
        *_counted("identity_FP32", [_fp32(2), _fp32(3)], _has_batches),
    ),
    case(
        "the sizes of batches add up to all rows and executions",
        *_counted("identity_FP32", [_fp32(rows) for rows in (1, 8, 8, 5)], _adds_up_by_size),
    ),
    case("the times of a model's requests add up", *_counted("slow", [_SLOW] * 4, _sums_up)),
    case(
        "a request that is refused for its shape is not executed",
        *_counted(
            "identity_FP32",
            [infer("identity_FP32", raw("x", "FP32", [[1]]))],
            _grows(executions=0, success=0, compute_infer=0),
        ),
    ),
    case(
        "a request with several answers is one request, and one execution",
        *_counted(
            "repeat",
            [repeat("r", 5, 6, 7), repeat("r", 5), repeat("r")],
            _grows(inferences=3, executions=3, success=3, fail=0, in_batches=3),
        ),
    ),
    case(
        "a request with an error among its answers is counted as failed",
        *_counted(
            "repeat",
            [repeat("r", 5, -1)],
            _grows(inferences=0, success=0, fail=1),
            differences.DECOUPLED_FAILURE,
        ),
    ),
    case(
        "each answer of several is counted by its number",
        *_counted(
            "repeat",
            [repeat("r", 5, 6), repeat("r", 7), repeat("r", 8, -1), repeat("r")],
            _responses(
                number_0={"success": 3, "compute_infer": 3, "compute_output": 3, "empty_response": 1},
                number_1={
                    "success": 1,
                    "compute_infer": 1,
                    "compute_output": 1,
                    "fail": 1,
                    "empty_response": 1,
                },
                number_2={"empty_response": 1},
            ),
        ),
        only_ours=_NO_RESPONSES,
    ),
    case(
        "a request that fails in the model is counted as failed",
        *_counted("fragile", [_FRAGILE, _FRAGILE], _grows(success=0, fail=2)),
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
