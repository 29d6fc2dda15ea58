"""What callers are told in words: whatever a program raises, each of them is told, in one line of UTF-8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
import pytest
from gated_server import answered, expected, gated, rows
from hosted_server import connected, eventually, hosted
from request_streams import closed
from scripted_engines import PATIENCE_SECONDS, Gate
from scripted_programs import serving_program
from transports import KINDS

from headrace_engines.errors import ExecutionError, InputError
from headrace_engines.steps import Call, Outcome
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.delivery import deliver
from headrace_server.core.settings import ModelSettings, Sequences
from headrace_server.errors import InvalidInput, Overloaded
from headrace_server.transport.choice import TransportKind

Code = grpc.StatusCode

TEXTS = [
    (InputError("file caf\udce9"), Code.INVALID_ARGUMENT, r"file caf\xe9"),
    (InputError("half a pair: \ud800"), Code.INVALID_ARGUMENT, r"half a pair: \ud800"),
    (InputError("a\r\nb\0c"), Code.INVALID_ARGUMENT, r"a\r\nb\x00c"),
    (InputError("größer als 4 €"), Code.INVALID_ARGUMENT, "größer als 4 €"),
    (InputError(), Code.INVALID_ARGUMENT, "the program raised InputError without a text"),
    (ExecutionError("file caf\udce9"), Code.INTERNAL, r"model 'm': file caf\xe9 (error "),
    (ExecutionError(), Code.INTERNAL, "model 'm': the program raised ExecutionError without a text (error "),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> TransportKind:
    chosen: TransportKind = request.param
    return chosen


def told(stub: InferenceServiceStub, value: int) -> list[tuple[str, str]]:
    """Ask once by a call and once on a stream; return the code and the text that each was told."""
    call = stub.ModelInfer.future(rows(value), timeout=PATIENCE_SECONDS)
    (streamed,) = stub.ModelStreamInfer(closed(rows(value)), timeout=PATIENCE_SECONDS)
    code = streamed.infer_response.parameters["error_code"].string_param
    return [(call.code().name, call.details()), (code, streamed.error_message)]


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "given"])
def test_every_text_of_a_program_arrives(kind: TransportKind, raised: bool) -> None:
    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        error, _, _ = TEXTS[int(calls[0].inputs["x"].item())]
        if raised:
            raise error
        yield Outcome(0, error, final=True)

    with (
        serving_program(script) as served,
        hosted(served.service, kind) as server,
        connected(server.address) as stub,
    ):
        for number, (_, code, text) in enumerate(TEXTS):
            for came_code, came in told(stub, number):
                assert came_code == code.name
                assert came.startswith(text)


def test_invariant_1_all_callers_of_a_batch_are_told_what_it_failed_of(kind: TransportKind) -> None:
    gate = Gate()

    def script(calls: Sequence[Call]) -> Iterator[Outcome]:
        gate(())
        if len(calls) > 1:
            raise ExecutionError("file caf\udce9 is not there")
        yield Outcome(0, (calls[0].inputs["x"],), final=True)

    settings = ModelSettings(sequences=Sequences())
    with (
        serving_program(script, settings=settings) as served,
        hosted(served.service, kind) as server,
        connected(server.address) as stub,
    ):
        busy = stub.ModelInfer.future(rows(0, sequence_id=1, sequence_start=True))
        gate.arrival()
        stream = stub.ModelStreamInfer(
            closed(rows(1, sequence_id=2, sequence_start=True)), timeout=PATIENCE_SECONDS
        )
        calls = [
            stub.ModelInfer.future(rows(1, sequence_id=one, sequence_start=True), timeout=PATIENCE_SECONDS)
            for one in (3, 4)
        ]
        eventually(lambda: served.model.waiting == 3, "all wait")
        gate.open()
        (streamed,) = stream
        assert answered(busy.result()) == [0]
        assert r"caf\xe9 is not there" in streamed.error_message
        assert all(r"caf\xe9 is not there" in call.details() for call in calls)
        assert {call.code() for call in calls} == {Code.INTERNAL}


def test_invariant_3_an_answer_that_cannot_be_handed_out_is_told_and_costs_the_others_nothing(
    kind: TransportKind,
) -> None:
    broken = Overloaded("come back", "soon")  # type: ignore[arg-type]  # a fault of ours, as an example
    with gated(transport=kind) as it:
        busy = it.occupy()
        wrong = it.stub.ModelInfer.future(rows(1, id="wrong"), timeout=PATIENCE_SECONDS)
        it.await_waiting(1)
        right = it.stub.ModelInfer.future(rows(1, id="right"), timeout=PATIENCE_SECONDS)
        it.await_waiting(2)
        stream = it.stub.ModelStreamInfer(
            closed(rows(1, id="wrong"), rows(1, id="right")), timeout=PATIENCE_SECONDS
        )
        it.await_waiting(4)
        taken = it.served.model.take(wait=False)
        assert taken is not None
        deliver([(work, broken if work.id == "wrong" else InvalidInput("as it is")) for work in taken])
        assert wrong.code() in (Code.INTERNAL, Code.UNKNOWN)  # the latter is what grpc.aio makes of it
        assert (right.code(), right.details()) == (Code.INVALID_ARGUMENT, "as it is")
        codes = {
            each.infer_response.id: each.infer_response.parameters["error_code"].string_param
            for each in stream
        }
        assert codes == {"wrong": "INTERNAL", "right": "INVALID_ARGUMENT"}
        it.gate.open()
        assert answered(busy.result()) == expected(0)
