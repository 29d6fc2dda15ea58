"""Programs with any number of responses, over real streams: which is the last, and how errors end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from gated_server import answered, rows
from hosted_server import HostedServer, connected, eventually, hosted
from request_streams import Requests, closed
from scripted_engines import PATIENCE_SECONDS, RAGGED, ROWS, Gate
from scripted_programs import Script, ServedProgram, doubled, serving_program
from scripted_programs import rows as response

from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ModelSpec
from headrace_engines.steps import Call, Outcome
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.settings import ModelSettings
from headrace_server.core.statistics import FailReason
from headrace_server.core.steps_batch import Patience

Code = grpc.StatusCode
AS_STATUS = (("triton_grpc_error", "true"),)


class Hosted:
    """A program, its server and a client of it."""

    def __init__(self, served: ServedProgram, server: HostedServer, stub: InferenceServiceStub) -> None:
        self.served = served
        self.server = server
        self.stub = stub

    def stream(self, *requests: Any, **options: Any) -> Any:
        """Send these, and no more."""
        return self.stub.ModelStreamInfer(closed(*requests), timeout=PATIENCE_SECONDS, **options)


@contextlib.contextmanager
def hosting(
    script: Script,
    *,
    decoupled: bool = True,
    spec: ModelSpec = ROWS,
    patience: Patience | None = None,
    **options: Any,
) -> Iterator[Hosted]:
    settings = ModelSettings(is_decoupled=decoupled)
    with (
        serving_program(script, settings=settings, spec=spec, patience=patience) as served,
        hosted(served.service, **options) as server,
        connected(server.address) as stub,
    ):
        yield Hosted(served, server, stub)


def counted(calls: Sequence[Call]) -> Iterator[Outcome]:
    """Give each call as many responses as its element says; the last says that it is, for odd numbers."""
    for place, call in enumerate(calls):
        count = int(call.inputs["x"][0, 0])
        for number in range(count):
            yield Outcome(place, response(number), final=bool(count % 2) and number == count - 1)
        if not count % 2:
            yield Outcome(place, None, final=True)


def is_final(answer: pb.ModelStreamInferResponse) -> bool:
    return bool(answer.infer_response.parameters["triton_final_response"].bool_param)


def told(answers: Any) -> list[tuple[str, list[int], bool]]:
    """Return of each response whose it is, its elements, and whether it is the last."""
    return [
        (
            one.infer_response.id,
            answered(one.infer_response) if one.infer_response.outputs else [],
            is_final(one),
        )
        for one in answers
    ]


@pytest.mark.parametrize(
    ("count", "wants_end", "expected"),
    [
        (0, False, []),
        (0, True, [([], True)]),
        (1, False, [([0], True)]),
        (1, True, [([0], True)]),
        (2, False, [([0], False), ([1], False)]),
        (2, True, [([0], False), ([1], False), ([], True)]),
        (3, True, [([0], False), ([1], False), ([2], True)]),
    ],
)
def test_each_response_says_whether_it_is_the_last(
    count: int, wants_end: bool, expected: list[tuple[list[int], bool]]
) -> None:
    asked = {"triton_enable_empty_final_response": True} if wants_end else {}
    with hosting(counted) as it:
        stream = it.stream(rows(count, id="7", **asked))
        assert told(stream) == [("7", elements, final) for elements, final in expected]
        assert stream.code() is Code.OK


def test_an_empty_last_response_names_its_model() -> None:
    with hosting(counted) as it:
        (end,) = it.stream(rows(0, id="7", triton_enable_empty_final_response=True))
        assert (end.infer_response.model_name, end.infer_response.model_version) == ("m", "1")
        assert end.error_message == ""


def test_the_one_response_of_other_models_is_the_last_and_no_empty_one_follows() -> None:
    with hosting(doubled, decoupled=False) as it:
        asked = rows(4, id="7", triton_enable_empty_final_response=True)
        assert told(it.stream(asked)) == [("7", [8], True)]


def test_many_requests_get_their_own_responses_in_their_order() -> None:
    with hosting(counted) as it:
        stream = it.stream(
            *[rows(n % 5, id=str(n), triton_enable_empty_final_response=True) for n in range(60)]
        )
        by_id: dict[str, list[tuple[list[int], bool]]] = {}
        for request_id, elements, final in told(stream):
            by_id.setdefault(request_id, []).append((elements, final))
        for n in range(60):
            responses = by_id[str(n)]
            assert [elements for elements, _ in responses if elements] == [[i] for i in range(n % 5)]
            assert [final for _, final in responses] == [False] * (len(responses) - 1) + [True]


def test_a_unary_call_of_a_decoupled_model_names_what_reaches_it() -> None:
    with hosting(counted) as it:
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(1))
        assert refused.value.code() is Code.UNIMPLEMENTED
        assert "ModelStreamInfer" in refused.value.details()


def failing(calls: Sequence[Call]) -> Iterator[Outcome]:
    """Give two responses, and fail then, for elements below 5; else answer."""
    for place, call in enumerate(calls):
        if call.inputs["x"][0, 0] >= 5:
            yield Outcome(place, response(5), final=True)
            continue
        yield Outcome(place, response(0), final=False)
        yield Outcome(place, response(1), final=False)
        yield Outcome(place, ExecutionError("no more"), final=True)


def test_an_error_after_some_responses_is_the_last_of_its_request_alone() -> None:
    with hosting(failing) as it:
        requests = Requests(rows(1, id="bad"))
        stream = it.stub.ModelStreamInfer(requests, timeout=PATIENCE_SECONDS)
        came = [next(stream) for _ in range(3)]
        assert told(came[:2]) == [("bad", [0], False), ("bad", [1], False)]
        assert "no more" in came[2].error_message
        assert (came[2].infer_response.id, is_final(came[2])) == ("bad", True)
        requests.put(rows(5, id="good"))
        requests.close()
        assert told(stream) == [("good", [5], True)]


def test_the_first_error_ends_the_stream_where_that_is_asked_for() -> None:
    with hosting(failing) as it:
        requests = Requests(rows(5, id="before"))
        stream = it.stub.ModelStreamInfer(requests, timeout=PATIENCE_SECONDS, metadata=AS_STATUS)
        assert told([next(stream)]) == [("before", [5], True)]
        requests.put(rows(1, id="bad"))
        came = []
        with pytest.raises(grpc.RpcError) as ended:
            came.extend(stream)
        requests.close()
        assert ended.value.code() is Code.INTERNAL
        assert "no more" in ended.value.details()
        assert not any(answer.error_message for answer in came)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (rows(1, model="none"), Code.NOT_FOUND),
        (pb.ModelInferRequest(model_name="m"), Code.INVALID_ARGUMENT),
    ],
)
def test_a_refusal_ends_the_stream_likewise(wrong: Any, code: grpc.StatusCode) -> None:
    with hosting(counted) as it:
        stream = it.stream(wrong, rows(1, id="after"), metadata=AS_STATUS)
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() is code
        stream = it.stream(wrong, rows(1, id="after"), metadata=(("triton_grpc_error", "false"),))
        assert told(stream)[-1] == ("after", [0], True)
        assert stream.code() is Code.OK


def test_closing_the_half_lets_all_responses_come() -> None:
    gate = Gate()

    def slow(calls: Sequence[Call]) -> Iterator[Outcome]:
        yield Outcome(0, response(0), final=False)
        gate(())
        yield Outcome(0, response(1), final=True)

    with hosting(slow) as it:
        stream = it.stream(rows(1, id="7"))
        assert told([next(stream)]) == [("7", [0], False)]
        gate.open()
        assert told(stream) == [("7", [1], True)]
        assert stream.code() is Code.OK


def endless(calls: Sequence[Call]) -> Iterator[Outcome]:
    while True:
        yield Outcome(0, response(*range(8)), final=False)


def test_cancelling_ends_a_program_without_end() -> None:
    with hosting(endless) as it:
        stream = it.stream(rows(1))
        next(stream)
        stream.cancel()
        assert it.served.program.ended.wait(PATIENCE_SECONDS)
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")


def test_invariant_4_responses_that_are_not_read_are_bounded() -> None:
    def wide(calls: Sequence[Call]) -> Iterator[Outcome]:
        while True:
            yield Outcome(0, (np.zeros((1, 1 << 14), np.int64),), final=False)

    with hosting(wide, spec=RAGGED) as it:
        stream = it.stream(rows(1))
        eventually(lambda: it.server.transport.in_flight_bytes > 1 << 20, "responses wait to be written")
        for _ in range(50):
            assert it.stub.ServerLive(pb.ServerLiveRequest()).live
            assert it.server.transport.in_flight_bytes < 5 << 20
        stream.cancel()
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")


def test_invariant_4_answers_of_any_size_are_held_up_to_the_limit_and_then_told_as_errors() -> None:
    gate = Gate()

    def wide(calls: Sequence[Call]) -> Iterator[Outcome]:
        gate(())
        for place in range(len(calls)):
            yield Outcome(place, (np.zeros((1, 1 << 15), np.int64),), final=True)

    with hosting(wide, decoupled=False, spec=RAGGED, max_in_flight_bytes=1 << 20) as it:
        stream = it.stream(*[rows(1, id=str(n)) for n in range(16)])
        taken = it.served.program.executed
        eventually(lambda: sum(map(len, taken)) + it.served.model.waiting == 16, "all requests are there")
        gate.open()
        answers = list(stream)
        errors = [answer for answer in answers if answer.error_message]
        assert len(answers) == 16
        assert 0 < len(errors) < 16
        for error in errors:
            assert "bytes are in flight, the limit is 1048576" in error.error_message
            assert error.infer_response.parameters["retry_after_seconds"].double_param > 0
        figures = it.served.model.snapshot()
        assert figures.success.count == 16 - len(errors)
        assert (figures.fail.count, figures.failures[FailReason.REJECTED]) == (len(errors), len(errors))


def test_a_response_without_room_ends_its_request_and_is_a_rejection_to_the_model() -> None:
    def wide(calls: Sequence[Call]) -> Iterator[Outcome]:
        while True:
            yield Outcome(0, (np.zeros((1, 1 << 14), np.int64),), final=False)

    with hosting(wide, spec=RAGGED, max_in_flight_bytes=1 << 20) as it:
        stream = it.stream(rows(1))
        assert it.served.program.ended.wait(PATIENCE_SECONDS)
        *_, last = stream
        assert "bytes are in flight, the limit is 1048576" in last.error_message
        figures = it.served.model.snapshot()
        assert (figures.success.count, figures.cancel.count, figures.fail.count) == (0, 0, 1)
        assert figures.failures[FailReason.REJECTED] == 1
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")


def test_invariant_3_one_stream_that_is_not_read_costs_the_others_one_wait_and_not_one_for_each_request() -> (
    None
):
    def wide_for_zero(calls: Sequence[Call]) -> Iterator[Outcome]:
        for place, call in enumerate(calls):
            while call.inputs["x"][0, 0] == 0:
                yield Outcome(place, (np.zeros((1, 1 << 14), np.int64),), final=False)
            yield Outcome(place, response(7), final=True)

    patience = Patience(seconds=3600, seconds_beside_others=0.05)
    one_row = ModelSpec(RAGGED.inputs, RAGGED.outputs, 1, (1, 1))
    with hosting(wide_for_zero, spec=one_row, patience=patience) as it, connected(it.server.address) as idle:
        unread = idle.ModelStreamInfer(closed(*[rows(0, id=f"unread {n}") for n in range(30)]))
        eventually(lambda: bool(it.served.program.executed), "the first is executed")
        assert told(it.stream(rows(1, id="read"))) == [("read", [7], True)]
        assert it.served.model.snapshot().failures[FailReason.REJECTED] == 1, "the others are not waited for"
        with pytest.raises(grpc.RpcError) as ended:
            list(unread)
        assert ended.value.code() is Code.RESOURCE_EXHAUSTED
        assert ended.value.details() == "model 'm': the responses are not read"
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")
