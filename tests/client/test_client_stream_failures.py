"""Blocking streams whose servers fail, refuse, leave, or answer wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import HoldingProcess, answer, free_address, refusal
from numbered_requests import QUICK, is_right, requests

import headrace
from headrace import Client, Retry
from headrace_proto.v1 import inference_pb2 as pb

Requests = Iterator[pb.ModelInferRequest]


Responses = Iterator[pb.ModelStreamInferResponse]


def test_a_stream_that_breaks_goes_on_elsewhere(serve: Any) -> None:
    def breaks(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for _ in range(3):
            yield answer(next(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    bad, good = serve(stream=breaks), serve()
    with Client(f"{bad.address},{good.address}") as client:
        for _ in range(20):
            outcomes = list(client.stream(requests(200), model="m"))
            assert sorted(key for key, _ in outcomes) == list(range(200))
            assert all(is_right(*outcome) for outcome in outcomes)
            if bad.streams:
                break
    assert bad.streams == 1


def test_a_stream_that_is_cut_short_without_an_error_goes_on(serve: Any) -> None:
    """A server that half-closes before it has answered everything."""

    def three(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for _ in range(3):
            yield answer(next(requests))

    server = serve(stream=three)
    retry = Retry(attempts=50, backoff_seconds=0.001, budget_burst=1000)
    with Client(server.address, retry=retry) as client:
        outcomes = list(client.stream(requests(30), model="m", max_in_flight=4))
    assert sorted(key for key, _ in outcomes) == list(range(30))
    assert all(is_right(*outcome) for outcome in outcomes)
    assert server.streams >= 10


def test_a_server_that_says_it_leaves_gets_no_more(serve: Any) -> None:
    def leaving(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            yield refusal(request.id, "stopping", "UNAVAILABLE")

    bad, good = serve(stream=leaving), serve()
    with Client(f"{bad.address},{good.address}") as client:
        for _ in range(20):
            outcomes = list(client.stream(requests(100), model="m"))
            assert sorted(key for key, _ in outcomes) == list(range(100))
            assert all(is_right(*outcome) for outcome in outcomes)
            if bad.streams:
                break
    assert bad.streams >= 1


def test_a_killed_server_costs_no_answer(serve: Any, holding: HoldingProcess) -> None:
    good = serve()
    target = f"{holding.address},{good.address}"
    with Client(target, retry=QUICK) as client, ThreadPoolExecutor(8) as threads:
        streams = [threads.submit(lambda: list(client.stream(requests(100), model="m"))) for _ in range(8)]
        assert holding.line() == "call"
        holding.kill()
        for stream in streams:
            outcomes = stream.result(20)
            assert sorted(key for key, _ in outcomes) == list(range(100))
            assert all(is_right(*outcome) for outcome in outcomes)


def test_all_servers_down_is_told_for_each_request_without_a_storm() -> None:
    started = monotonic()
    retry = Retry(backoff_seconds=0.01, budget_burst=10)
    with Client(f"{free_address()},{free_address()}", retry=retry) as client:
        outcomes = list(client.stream(requests(1000), model="m"))
    assert sorted(key for key, _ in outcomes) == list(range(1000))
    assert all(isinstance(result, headrace.Unavailable) for _, result in outcomes)
    assert monotonic() - started < 10


def test_a_status_that_ends_the_stream_fails_what_was_on_it(serve: Any) -> None:
    def stranger(requests: Requests, context: grpc.ServicerContext) -> Responses:
        next(requests)
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
        yield

    server = serve(stream=stranger)
    with Client(server.address) as client:
        outcomes = dict(client.stream(requests(10), model="m"))
    assert sorted(outcomes) == list(range(10))
    assert all(isinstance(result, headrace.Unauthenticated) for result in outcomes.values())


def test_answers_that_fit_no_request_or_come_twice_are_dropped(serve: Any) -> None:
    def noisy(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            yield refusal("none of yours", "noise", "INTERNAL")
            yield answer(request)
            yield refusal(request.id, "again", "INTERNAL")
            yield answer(request)

    with Client(serve(stream=noisy).address) as client:
        outcomes = list(client.stream(requests(50), model="m"))
    assert [key for key, result in outcomes if is_right(key, result)] == list(range(50))


def test_a_request_over_the_servers_limit_fails_alone(serve: Any) -> None:
    def some_big() -> Iterator[tuple[int, dict[str, Any]]]:
        for key, arrays in requests(100):
            yield key, {"x": np.zeros((1, 3 << 20), np.float32)} if key in (3, 50) else arrays

    with Client(serve().address) as client:
        outcomes = dict(client.stream(some_big(), model="m", max_in_flight=16))
    assert sorted(outcomes) == list(range(100))
    assert {key for key in outcomes if not is_right(key, outcomes[key])} == {3, 50}
    assert isinstance(outcomes[3], headrace.InvalidInput)


def test_a_server_that_does_not_repeat_ids_is_told(serve: Any) -> None:
    def forgetful(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            request.id = ""
            yield answer(request)

    with Client(serve(stream=forgetful).address) as client:
        outcomes = dict(client.stream(requests(5), model="m"))
    assert sorted(outcomes) == list(range(5))
    assert all("which request" in str(result) for result in outcomes.values())


def test_an_error_without_an_id_ends_the_stream(serve: Any) -> None:
    def anonymous(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for _ in requests:
            yield refusal("", "something is wrong")

    with Client(serve(stream=anonymous).address) as client:
        outcomes = dict(client.stream(requests(5), model="m"))
    assert sorted(outcomes) == list(range(5))
    assert all(isinstance(result, headrace.RequestFailed) for result in outcomes.values())


def test_an_answer_that_cannot_be_read_is_that_requests_error(serve: Any) -> None:
    def garbled(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            response = answer(request)
            if request.id == "1":
                response.infer_response.raw_output_contents[0] = b"abc"
            yield response

    with Client(serve(stream=garbled).address) as client:
        outcomes = dict(client.stream(requests(3), model="m"))
    assert isinstance(outcomes[1], headrace.RequestFailed)
    assert outcomes[1].code is grpc.StatusCode.DATA_LOSS
    assert is_right(0, outcomes[0])
    assert is_right(2, outcomes[2])


def test_an_overloaded_server_is_asked_again(serve: Any) -> None:
    refused: set[str] = set()

    def full_at_first(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            if request.id in refused:
                yield answer(request)
            else:
                refused.add(request.id)
                yield refusal(request.id, "full", "RESOURCE_EXHAUSTED")

    with Client(serve(stream=full_at_first).address, retry=QUICK) as client:
        outcomes = list(client.stream(requests(30), model="m"))
    assert sorted(key for key, _ in outcomes) == list(range(30))
    assert all(is_right(*outcome) for outcome in outcomes)
    assert len(refused) == 30


@pytest.mark.parametrize(("code", "reason"), [("UNAVAILABLE", "MODEL_NOT_READY"), ("RESOURCE_EXHAUSTED", "")])
def test_what_a_server_refuses_goes_elsewhere_on_one_more_stream(serve: Any, code: str, reason: str) -> None:
    def refuses(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            yield refusal(request.id, "not now", code, reason, retry_after_seconds=60.0)

    bad, good = serve(stream=refuses), serve()
    with Client(f"{bad.address},{good.address}") as client:
        for _ in range(20):
            streams = good.streams
            outcomes = list(client.stream(requests(1000), model="m", max_in_flight=16))
            assert sorted(key for key, _ in outcomes) == list(range(1000))
            assert all(is_right(*outcome) for outcome in outcomes)
            if bad.streams:
                break
    assert bad.streams == 1
    assert good.streams == streams + 1


def test_the_advice_of_an_overloaded_server_is_followed(serve: Any) -> None:
    asked: list[float] = []

    def full_once(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            asked.append(monotonic())
            full = refusal(request.id, "full", "RESOURCE_EXHAUSTED", retry_after_seconds=0.4)
            yield full if len(asked) == 1 else answer(request)

    with Client(serve(stream=full_once).address, retry=QUICK) as client:
        ((key, result),) = client.stream(requests(1), model="m")
    assert is_right(key, result)
    assert 0.2 <= asked[1] - asked[0] < 5.0
