"""What a request says beside its tensors, and what becomes of requests that belong to a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import answer, echo, failing

from headrace import AsyncClient, Client, InvalidInput, Request, Unavailable
from headrace.config import Retry
from headrace.exchange import Exchange
from headrace.requests import RequestEncoder, encode_own
from headrace.retry import Failure, Retries
from headrace.sequences import is_of_a_sequence
from headrace.stream_requests import Encoder
from headrace_proto.v1 import inference_pb2 as pb

X: dict[str, Any] = {"x": np.zeros(1, np.float32)}
GONE = failing(grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, pb.InferParameter(bool_param=True)),
        (False, pb.InferParameter(bool_param=False)),
        (7, pb.InferParameter(int64_param=7)),
        (-(2**63), pb.InferParameter(int64_param=-(2**63))),
        (2**64 - 1, pb.InferParameter(uint64_param=2**64 - 1)),
        (0.5, pb.InferParameter(double_param=0.5)),
        ("é", pb.InferParameter(string_param="é")),
    ],
)
def test_a_parameter_keeps_its_type(value: Any, expected: pb.InferParameter) -> None:
    request = pb.ModelInferRequest.FromString(encode_own({"p": value}))
    assert request.parameters["p"] == expected


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, None, [1], np.int64(3), "\ud800"])
def test_what_is_no_parameter_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput, match="parameter 'p'"):
        encode_own({"p": value})


@pytest.mark.parametrize(
    ("parameters", "request_id", "text"),
    [
        ({3: 1}, "", "parameter 3: its name is int"),
        ({"\ud800": 1}, "", "its name is no text"),
        ([("p", 1)], "", "parameters: list came"),
        ({}, 5, "request_id is int, str expected"),
        (None, "\ud800", "request_id is no text"),
    ],
)
def test_what_cannot_be_said_of_a_request(parameters: Any, request_id: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        encode_own(parameters, request_id)


def test_outputs_as_classes() -> None:
    message = RequestEncoder().encode("m", X, outputs={"scores": 0, "best": 3})
    tensor, classes = pb.ModelInferRequest.FromString(message).outputs
    assert (tensor.name, len(tensor.parameters)) == ("scores", 0)
    assert (classes.name, classes.parameters["classification"].int64_param) == ("best", 3)


def test_a_call_has_its_parameters_and_its_id(serve: Any) -> None:
    asked: list[pb.ModelInferRequest] = []

    def remember(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        asked.append(request)
        return echo(request)

    with Client(serve(remember).address) as client:
        client.infer("m", X, parameters={"priority": 2}, request_id="mine")
    assert asked[0].id == "mine"
    assert asked[0].parameters["priority"].int64_param == 2


def test_a_streams_parameters_and_those_of_single_requests(serve: Any) -> None:
    asked: list[pb.ModelInferRequest] = []

    def remember(
        requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        for request in requests:
            asked.append(request)
            yield answer(request)

    given = [(0, X), (1, Request(X, {"priority": 9, "own": "a"})), (2, Request(X))]
    with Client(serve(stream=remember).address) as client:
        outcomes = list(client.stream(given, model="m", parameters={"priority": 1, "all": True}))
    assert all(isinstance(outcome, dict) for _, outcome in outcomes)
    assert [one.parameters["priority"].int64_param for one in asked] == [1, 9, 1]
    assert [one.parameters["all"].bool_param for one in asked] == [True] * 3
    assert ["own" in one.parameters for one in asked] == [False, True, False]


def test_a_stream_has_the_say_over_timeouts(serve: Any) -> None:
    with Client(serve().address) as client:
        (bad, good) = client.stream([(0, Request(X, {"timeout": 5})), (1, X)], model="m")
    assert isinstance(bad[1], InvalidInput)
    assert "timeout_seconds" in str(bad[1])
    assert isinstance(good[1], dict)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, False),
        ({"sequence_id": 0}, False),
        ({"sequence_id": ""}, False),
        ({"sequence_id": 1}, True),
        ({"sequence_id": 2**64 - 1}, True),
        ({"sequence_id": "a", "sequence_start": True}, True),
    ],
)
def test_what_belongs_to_a_sequence(parameters: dict[str, Any], expected: bool) -> None:
    assert is_of_a_sequence(parameters) is expected


def test_a_call_of_a_sequence_is_made_once(serve: Any) -> None:
    server = serve(GONE)
    with Client(server.address, retry=Retry(backoff_seconds=0.01)) as client:
        with pytest.raises(Unavailable) as caught:
            client.infer("m", X, parameters={"sequence_id": 5})
        assert (server.calls, caught.value.attempts) == (1, 1)
        with pytest.raises(Unavailable):
            client.infer("m", X, parameters={"sequence_id": 0})
        assert server.calls > 2, "others are tried again"


async def test_an_asynchronous_call_of_a_sequence_is_made_once(serve: Any) -> None:
    server = serve(GONE)
    async with AsyncClient(server.address) as client:
        with pytest.raises(Unavailable):
            await client.infer("m", X, parameters={"sequence_id": "five"})
    assert server.calls == 1


def test_a_turn_is_not_sent_again_on_another_leg() -> None:
    stream: Exchange[str] = Exchange(Retries(Retry(), Random(1)), max_in_flight=4, timeout_seconds=None)
    encoder = Encoder(RequestEncoder(), "m")
    stream.admit("turn", encoder.encode(Request(X, {"sequence_id": 5})), 0.0)
    stream.admit("other", encoder.encode(X), 0.0)
    leg = stream.start_leg("one")
    while stream.take(leg, 0.0) is not None:
        pass
    stream.end_leg(leg, Failure(grpc.StatusCode.UNAVAILABLE, "gone"), 0.0, elsewhere=True)
    outcome = stream.next_outcome()
    assert outcome is not None
    assert outcome[0] == "turn"
    assert isinstance(outcome[1], Unavailable)
    assert stream.next_outcome() is None, "the other one goes again"


@pytest.mark.parametrize("target", ["127.0.0.1:1,127.0.0.1:2", "dns:///localhost:1"])
async def test_a_client_with_a_choice_of_servers_refuses_sequences(target: str) -> None:
    told = "client of that server alone"
    turn = {"sequence_id": 5}
    with Client(target) as client:
        with pytest.raises(InvalidInput, match=told):
            client.infer("m", X, parameters=turn)
        ((_, outcome),) = client.stream([(0, X)], model="m", parameters=turn)
        assert isinstance(outcome, InvalidInput)
    async with AsyncClient(target) as aio_client:
        with pytest.raises(InvalidInput, match=told):
            await aio_client.infer("m", X, parameters=turn)
        ((_, outcome),) = [one async for one in aio_client.stream([(0, Request(X, turn))], model="m")]
        assert isinstance(outcome, InvalidInput)
