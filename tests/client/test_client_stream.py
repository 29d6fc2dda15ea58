from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import answer, echo_stream, refusal
from numbered_requests import inputs, is_right, requests

import headrace
from headrace import Client
from headrace_proto.v1 import inference_pb2 as pb

Requests = Iterator[pb.ModelInferRequest]


Responses = Iterator[pb.ModelStreamInferResponse]


def test_ten_thousand_requests_are_answered_once_each(serve: Any) -> None:
    with Client(serve().address) as client:
        found = Counter(
            key for key, result in client.stream(requests(10_000), model="m") if is_right(key, result)
        )
    assert found == Counter(range(10_000))


def test_no_requests(serve: Any) -> None:
    with Client(serve().address) as client:
        assert list(client.stream([], model="m")) == []


def test_outcomes_come_as_they_are_known_and_keys_are_the_callers(serve: Any) -> None:
    def backwards(requests: Requests, context: grpc.ServicerContext) -> Responses:
        yield from map(answer, reversed(list(requests)))

    items = [(["same"], inputs(0)), (["same"], inputs(1)), (None, inputs(2))]
    with Client(serve(stream=backwards).address) as client:
        outcomes = list(client.stream(items, model="m"))
    assert [key for key, _ in outcomes] == [None, ["same"], ["same"]]
    assert [result["x"].item() for _, result in outcomes if isinstance(result, dict)] == [2, 1, 0]


def test_a_failed_request_is_one_outcome_among_the_others(serve: Any) -> None:
    def some_fail(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            match int(request.id) % 5:
                case 1:
                    yield refusal(request.id, "wrong shape", "INVALID_ARGUMENT")
                case 2:
                    yield refusal(request.id, "no reason given")
                case 3:
                    yield refusal(request.id, "engine broke", "INTERNAL")
                case _:
                    yield answer(request)

    server = serve(stream=some_fail)
    with Client(server.address) as client:
        outcomes = dict(client.stream(requests(50), model="m"))
    kinds = {1: headrace.InvalidInput, 2: headrace.RequestFailed, 3: headrace.EngineFailed}
    assert len(outcomes) == 50
    for key, result in outcomes.items():
        if kind := kinds.get(key % 5):
            assert type(result) is kind
            assert result.endpoint == server.address
        else:
            assert is_right(key, result)
    assert server.streams == 1


def test_a_request_that_cannot_be_sent_is_an_outcome_too(serve: Any) -> None:
    items = [(0, inputs(0)), (1, {"x": [1, 2]}), (2, {}), (3, {"x": np.array([object()])}), (4, inputs(4))]
    with Client(serve().address) as client:
        outcomes = dict(client.stream(items, model="m"))
    assert is_right(0, outcomes[0])
    assert is_right(4, outcomes[4])
    for key in (1, 2, 3):
        assert isinstance(outcomes[key], headrace.InvalidInput)
    assert "'x'" in str(outcomes[3])


@pytest.mark.parametrize("item", [3, "ab", (1, 2, 3)])
def test_items_that_are_no_pairs(serve: Any, item: object) -> None:
    with Client(serve().address) as client, pytest.raises(TypeError, match="pairs of a key"):
        list(client.stream([item], model="m"))  # type: ignore[list-item]  # the mistake that is tested


def test_wrong_arguments_are_told_at_once() -> None:
    with Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="max_in_flight"):
            client.stream([], model="m", max_in_flight=0)
        with pytest.raises(TypeError, match="iterable"):
            client.stream(3, model="m")  # type: ignore[arg-type]  # the mistake that is tested
        with pytest.raises(ValueError, match="timeout_seconds"):
            client.stream([], model="m", timeout_seconds=0)


@pytest.mark.parametrize("max_in_flight", [1, 2, 7])
def test_back_pressure(serve: Any, max_in_flight: int) -> None:
    """The caller's iterator never runs further ahead of the outcomes taken than it may."""
    given = taken = ahead = 0

    def endless() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal given, ahead
        while True:
            ahead = max(ahead, given + 1 - taken)
            given += 1
            yield given, inputs(given)

    with Client(serve().address) as client:
        stream = client.stream(endless(), model="m", max_in_flight=max_in_flight)
        for key, result in stream:
            assert is_right(key, result)
            if taken == 300:
                break
            taken += 1
        stream.close()
    assert 1 <= ahead <= max_in_flight + 1, "an outcome counts as taken when it is handed over"


def test_slow_requests_do_not_keep_the_other_places_empty(serve: Any) -> None:
    """49 of 64 wait for what only comes in the places of the other 15."""

    def some_slow(requests: Requests, context: grpc.ServicerContext) -> Responses:
        slow = []
        for number, request in enumerate(requests):
            if number < 49:
                slow.append(request)
            else:
                yield answer(request)
            if number == 64 + 14:
                yield from map(answer, slow)

    with Client(serve(stream=some_slow).address, timeout_seconds=10) as client:
        outcomes = list(client.stream(requests(200), model="m", max_in_flight=64))
    assert sorted(key for key, _ in outcomes) == list(range(200))
    assert all(is_right(*outcome) for outcome in outcomes)


def test_nothing_is_taken_from_the_caller_before_it_is_wanted() -> None:
    def never() -> Iterator[Any]:
        raise AssertionError("asked too early")
        yield

    with Client("127.0.0.1:1") as client:
        client.stream(never(), model="m")


def test_answers_come_while_the_caller_has_nothing_to_send(serve: Any) -> None:
    source: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with Client(serve().address) as client:
        stream = client.stream(((n, inputs(n)) for n in iter(source.get, None)), model="m")
        for number in range(20):
            source.put(number)
            assert is_right(*next(stream))
        source.put(None)
        assert list(stream) == []


def test_what_the_callers_iterator_raises_comes_after_the_outcomes(serve: Any) -> None:
    def broken() -> Iterator[tuple[int, dict[str, Any]]]:
        yield from requests(20)
        raise KeyError("mistake")

    with Client(serve().address) as client:
        stream = client.stream(broken(), model="m")
        found = [next(stream) for _ in range(20)]
        assert sorted(key for key, _ in found) == list(range(20))
        assert all(is_right(*outcome) for outcome in found)
        with pytest.raises(KeyError, match="mistake"):
            next(stream)
        assert len(list(client.stream(requests(3), model="m"))) == 3, "the client is none the worse"


def test_closing_a_stream_in_the_middle_cancels_it_at_the_server(serve: Any) -> None:
    cancelled = threading.Event()

    def watched(requests: Requests, context: grpc.ServicerContext) -> Responses:
        context.add_callback(cancelled.set)
        yield from map(answer, requests)

    server = serve(stream=watched)
    with Client(server.address) as client:
        with closing(client.stream(requests(1_000_000), model="m")) as stream:
            assert is_right(*next(stream))
        assert cancelled.wait(5)
        assert client.infer("m", inputs(1))


def test_closing_the_client_in_the_middle(serve: Any) -> None:
    client = Client(serve().address)
    stream = client.stream(requests(1_000_000), model="m")
    next(stream)
    client.close()
    with pytest.raises(headrace.ClientClosed):
        list(stream)
    with pytest.raises(headrace.ClientClosed):
        list(client.stream(requests(1), model="m"))


def test_closing_the_client_wakes_a_stream_that_waits(serve: Any) -> None:
    never = threading.Event()

    def nothing() -> Iterator[Any]:
        never.wait(20)
        return
        yield

    client = Client(serve().address)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(list, client.stream(nothing(), model="m"))
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        client.close()
        with pytest.raises(headrace.ClientClosed):
            waiting.result(5)
    never.set()


def test_each_request_has_its_own_deadline(serve: Any) -> None:
    told: list[int] = []
    over = threading.Event()

    def deaf_to_odd(requests: Requests, context: grpc.ServicerContext) -> Responses:
        context.add_callback(over.set)
        for request in requests:
            told.append(request.parameters["timeout"].int64_param)
            if int(request.id) % 2 == 0:
                yield answer(request)
        over.wait(20)

    server = serve(stream=deaf_to_odd)
    with Client(server.address) as client:
        assert client.ready()
        outcomes = dict(client.stream(requests(10), model="m", timeout_seconds=2.0))
    for key, result in outcomes.items():
        if key % 2:
            assert isinstance(result, headrace.DeadlineExceeded)
        else:
            assert is_right(key, result)
    assert all(0 < us <= 2_000_000 for us in told)
    assert over.wait(5), "the stream that still owed answers was cancelled"


def test_a_request_that_comes_while_nothing_is_on_the_way_has_its_deadline(serve: Any, hang: Any) -> None:
    """The caller waits for outcomes then, with no request whose time could wake it."""
    over = threading.Event()

    def answers_one(requests: Requests, context: grpc.ServicerContext) -> Responses:
        yield answer(next(requests))
        over.wait(20)

    server = serve(hang, answers_one)
    with Client(server.address) as client:
        assert client.ready()

        def given() -> Iterator[tuple[int, Any]]:
            yield 0, inputs(0)
            with pytest.raises(headrace.DeadlineExceeded):
                client.infer("m", inputs(0), timeout_seconds=1.5)
            yield 1, inputs(1)
            over.wait(20)

        with closing(client.stream(given(), model="m", timeout_seconds=1.0)) as stream:
            assert is_right(*next(stream))
            key, error = next(stream)
        over.set()
    assert key == 1
    assert isinstance(error, headrace.DeadlineExceeded)


def test_streams_from_many_threads(serve: Any) -> None:
    with Client(f"{serve().address},{serve(stream=echo_stream).address}") as client:

        def run(offset: int) -> bool:
            items = ((number, inputs(number)) for number in range(offset, offset + 200))
            outcomes = list(client.stream(items, model="m", max_in_flight=16))
            return sorted(key for key, _ in outcomes) == list(range(offset, offset + 200)) and all(
                is_right(*outcome) for outcome in outcomes
            )

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(run, range(0, 8000, 1000)))


def test_a_finished_stream_leaves_no_thread(serve: Any) -> None:
    with Client(serve().address) as client:
        for _ in range(3):
            list(client.stream(requests(20), model="m"))
        end = monotonic() + 5
        while any(thread.name.startswith("headrace") for thread in threading.enumerate()):
            assert monotonic() < end


def test_a_client_is_closed_while_other_threads_begin_streams() -> None:
    closed = threading.Event()

    def begin() -> None:
        kept = []
        while not closed.is_set():
            kept.append(client.stream(iter(()), model="m"))
            begun.release()

    for _ in range(10):
        client, begun = Client("127.0.0.1:1"), threading.Semaphore(0)
        closed.clear()
        with ThreadPoolExecutor(2) as threads:
            ended = [threads.submit(begin) for _ in range(2)]
            for _ in range(300):
                begun.acquire()
            try:
                client.close()
            finally:
                closed.set()
            for one in ended:
                one.result()
