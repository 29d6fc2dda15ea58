"""Streams whose requests get any number of answers: what becomes of them, and that they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, closing
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import answer, refusal
from grpc import StatusCode

from headrace import AsyncClient, Client, DeadlineExceeded, HeadraceError, Retry, Unavailable
from headrace.exchange import Exchange, Leg
from headrace.messages import StreamAnswer, decode_stream_answer
from headrace.requests import RequestEncoder
from headrace.retry import Failure, Retries
from headrace.stream_requests import Encoder
from headrace_proto.v1 import inference_pb2 as pb

Requests = Iterator[pb.ModelInferRequest]
Responses = Iterator[pb.ModelStreamInferResponse]
ONE: dict[str, Any] = {"x": np.zeros(1, np.uint8)}
GONE = Failure(StatusCode.UNAVAILABLE, "gone")
TOO_LARGE = Failure(StatusCode.INVALID_ARGUMENT, "larger than max", too_large=True)


def said(response: pb.ModelStreamInferResponse) -> StreamAnswer:
    return decode_stream_answer(response.SerializeToString())


def told(response: pb.ModelStreamInferResponse, *, is_last: bool) -> pb.ModelStreamInferResponse:
    response.infer_response.parameters["triton_final_response"].bool_param = is_last
    return response


@pytest.mark.parametrize("is_last", [True, False])
def test_which_answer_is_the_last(is_last: bool) -> None:
    request = pb.ModelInferRequest(id="7")
    request.inputs.add(name="x", datatype="UINT8", shape=[1])
    request.raw_input_contents.append(b"\0")
    assert said(told(answer(request), is_last=is_last)).is_last is is_last
    assert said(told(refusal("7", "no"), is_last=is_last)).is_last is is_last


def test_servers_that_do_not_tell_give_one_answer_each() -> None:
    assert said(answer(pb.ModelInferRequest(id="7"))) == StreamAnswer("7", {}, is_last=True)
    assert said(refusal("7", "no")).is_last


def test_an_answer_that_only_ends_its_request() -> None:
    assert said(told(answer(pb.ModelInferRequest(id="7")), is_last=True)) == StreamAnswer("7", None)


def exchange(*, max_in_flight: int = 4, timeout_seconds: float | None = None) -> Exchange[str]:
    retries = Retries(Retry(attempts=3), Random(1))
    return Exchange(retries, max_in_flight=max_in_flight, timeout_seconds=timeout_seconds)


def begun(stream: Exchange[str], *keys: str) -> tuple[Leg[str], dict[str, str]]:
    """Send a request for each key; return the leg and their ids."""
    encoder = Encoder(RequestEncoder(), "m")
    expected = {key: encoder.encode(ONE) for key in keys}
    for key, request in expected.items():
        stream.admit(key, request, 0.0)
    leg = stream.start_leg("one")
    while (message := stream.take(leg, 0.0)) is not None:
        sent = pb.ModelInferRequest.FromString(message)
        assert sent.parameters["triton_enable_empty_final_response"].bool_param
    return leg, {key: request.id for key, request in expected.items()}


def give(stream: Exchange[str], leg: Leg[str], request_id: str, value: Any, *, is_last: bool = False) -> None:
    stream.answer(leg, request_id, value, 0.0, elsewhere=True, is_last=is_last)


def taken(stream: Exchange[str]) -> list[Any]:
    return list(iter(stream.next_outcome, None))


def test_the_place_of_a_request_is_free_once_its_last_answer_is_taken() -> None:
    stream = exchange(max_in_flight=1)
    leg, ids = begun(stream, "a")
    give(stream, leg, ids["a"], {"y": 1})
    give(stream, leg, ids["a"], {"y": 2})
    assert taken(stream) == [("a", {"y": 1}), ("a", {"y": 2})]
    assert not stream.has_room
    give(stream, leg, ids["a"], {"y": 3}, is_last=True)
    assert not stream.has_room
    assert taken(stream) == [("a", {"y": 3})]
    assert stream.has_room


def test_a_request_without_an_answer_has_no_outcome_and_leaves_room() -> None:
    stream = exchange(max_in_flight=1)
    leg, ids = begun(stream, "a")
    give(stream, leg, ids["a"], None, is_last=True)
    assert stream.has_room
    stream.end_source()
    assert stream.finished
    assert taken(stream) == []


@pytest.mark.parametrize("at_the_end_of_the_leg", [True, False])
def test_what_was_answered_is_not_sent_again(at_the_end_of_the_leg: bool) -> None:
    stream = exchange()
    leg, ids = begun(stream, "a", "b")
    give(stream, leg, ids["a"], {"y": 1})
    if at_the_end_of_the_leg:
        stream.end_leg(leg, GONE, 0.0, elsewhere=True)
    else:
        give(stream, leg, ids["a"], GONE, is_last=True)
        give(stream, leg, ids["b"], GONE, is_last=True)
    outcomes = taken(stream)
    assert [key for key, _ in outcomes] == ["a", "a"]
    assert isinstance(outcomes[1][1], Unavailable)
    again = stream.start_leg("two")
    message = stream.take(again, 0.0)
    assert message is not None
    assert pb.ModelInferRequest.FromString(message).id == ids["b"]
    assert stream.take(again, 0.0) is None


def test_a_leg_that_one_request_ended_by_its_size_ends_what_was_answered() -> None:
    stream = exchange()
    leg, ids = begun(stream, "a", "b", "c")
    give(stream, leg, ids["b"], {"y": 1})
    stream.end_leg(leg, TOO_LARGE, 0.0, elsewhere=True)
    failed = [key for key, outcome in taken(stream) if isinstance(outcome, HeadraceError)]
    assert failed == ["a", "b"]
    message = stream.take(stream.start_leg("two"), 0.0)
    assert message is not None
    assert pb.ModelInferRequest.FromString(message).id == ids["c"]


def test_an_error_that_is_not_the_last_answer_is_one_of_them() -> None:
    stream = exchange()
    leg, ids = begun(stream, "a")
    give(stream, leg, ids["a"], GONE)
    give(stream, leg, ids["a"], {"y": 2}, is_last=True)
    first, second = taken(stream)
    assert isinstance(first[1], Unavailable)
    assert second == ("a", {"y": 2})


def test_the_time_of_a_request_is_for_all_of_its_answers() -> None:
    stream = exchange(timeout_seconds=1.0)
    leg, ids = begun(stream, "a")
    give(stream, leg, ids["a"], {"y": 1})
    stream.tick(1.0)
    give(stream, leg, ids["a"], {"y": 2}, is_last=True)
    first, (_, error) = taken(stream)
    assert first == ("a", {"y": 1})
    assert isinstance(error, DeadlineExceeded)
    assert "the last answer" in str(error)


ANSWER_BYTES = 1 << 20
MOST_ON_THE_WAY = 40
"""What the client keeps at two in flight, and what the connection's own windows hold."""


class Endless:
    """A stream's behaviour: answers without end, and how many were made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, requests: Requests, context: grpc.ServicerContext) -> Responses:
        response = answer(next(requests))
        response.infer_response.outputs[0].shape[:] = [ANSWER_BYTES]
        response.infer_response.raw_output_contents[:] = [bytes(ANSWER_BYTES)]
        while True:
            yield told(response, is_last=False)
            self.made += 1


def test_answers_wait_at_the_server_for_a_caller_that_takes_none(serve: Any) -> None:
    endless = Endless()
    with (
        Client(serve(stream=endless).address) as client,
        closing(client.stream([(0, ONE)], model="m", max_in_flight=2)) as stream,
    ):
        next(stream)
        for _ in range(300):
            client.infer("m", ONE)
        assert endless.made <= MOST_ON_THE_WAY
        assert all(isinstance(next(stream)[1], dict) for _ in range(2 * MOST_ON_THE_WAY))


async def test_they_wait_for_an_asynchronous_caller(serve: Any) -> None:
    endless = Endless()
    async with (
        AsyncClient(serve(stream=endless).address) as client,
        aclosing(client.stream([(0, ONE)], model="m", max_in_flight=2)) as stream,
    ):
        await anext(stream)
        for _ in range(300):
            await client.infer("m", ONE)
        assert endless.made <= MOST_ON_THE_WAY
        for _ in range(2 * MOST_ON_THE_WAY):
            async with asyncio.timeout(10):
                assert isinstance((await anext(stream))[1], dict)
