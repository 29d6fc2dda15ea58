"""The asynchronous streams against real servers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from fake_servers import HoldingProcess, answer, free_address, refusal
from numbered_requests import QUICK, awaited, inputs, is_right, requests
from scripted_lookup import Script

import headrace
from headrace import AsyncClient, Retry
from headrace.endpoint import Endpoint, Status
from headrace_proto.v1 import inference_pb2 as pb

Requests = Iterator[pb.ModelInferRequest]
Responses = Iterator[pb.ModelStreamInferResponse]


@pytest.mark.parametrize("source", [requests, awaited])
async def test_a_stream_from_any_iterable(serve: Any, source: Callable[[int], Any]) -> None:
    found: Counter[int] = Counter()
    async with AsyncClient(serve().address) as client:
        async for key, result in client.stream(source(3000), model="m"):
            assert is_right(key, result)
            found[key] += 1
        assert [item async for item in client.stream(source(0), model="m")] == []
    assert found == Counter(range(3000))


async def test_a_cancellation_inside_the_iterator_is_raised_as_any_error_of_it(serve: Any) -> None:
    async def waits_for_what_was_cancelled() -> AsyncIterator[tuple[int, dict[str, Any]]]:
        yield 0, inputs(0)
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    async with AsyncClient(serve().address) as client:
        outcomes = client.stream(waits_for_what_was_cancelled(), model="m")
        assert (await anext(outcomes))[0] == 0
        with pytest.raises(asyncio.CancelledError):
            await anext(outcomes)


async def test_wrong_arguments_are_told_at_once() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="max_in_flight"):
            client.stream([], model="m", max_in_flight=0)
        with pytest.raises(TypeError, match="iterable"):
            client.stream(3, model="m")  # type: ignore[arg-type]  # the mistake that is tested


@pytest.mark.parametrize("max_in_flight", [1, 5])
async def test_back_pressure(serve: Any, max_in_flight: int) -> None:
    given = taken = ahead = 0

    async def endless() -> AsyncIterator[tuple[int, dict[str, Any]]]:
        nonlocal given, ahead
        while True:
            ahead = max(ahead, given + 1 - taken)
            given += 1
            yield given, inputs(given)

    async with AsyncClient(serve().address) as client:
        stream = client.stream(endless(), model="m", max_in_flight=max_in_flight)
        async with aclosing(stream):
            async for key, result in stream:
                assert is_right(key, result)
                if taken == 200:
                    break
                taken += 1
    assert 1 <= ahead <= max_in_flight + 1, "an outcome counts as taken when it is handed over"


async def test_slow_requests_do_not_keep_the_other_places_empty(serve: Any) -> None:
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

    async with AsyncClient(serve(stream=some_slow).address, timeout_seconds=10) as client:
        outcomes = [outcome async for outcome in client.stream(requests(200), model="m", max_in_flight=64)]
    assert sorted(key for key, _ in outcomes) == list(range(200))
    assert all(is_right(*outcome) for outcome in outcomes)


async def test_errors_within_a_stream(serve: Any) -> None:
    def some_fail(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            if int(request.id) % 2:
                yield refusal(request.id, "wrong shape", "INVALID_ARGUMENT")
            else:
                yield answer(request)

    items = [*requests(4), (4, {"x": "no array"})]
    async with AsyncClient(serve(stream=some_fail).address) as client:
        outcomes = {key: result async for key, result in client.stream(items, model="m")}  # type: ignore[arg-type]  # the mistake that is tested
    assert [type(outcomes[key]) for key in range(5)] == [
        dict,
        headrace.InvalidInput,
        dict,
        headrace.InvalidInput,
        headrace.InvalidInput,
    ]


@pytest.mark.parametrize(("code", "reason"), [("UNAVAILABLE", "MODEL_NOT_READY"), ("RESOURCE_EXHAUSTED", "")])
async def test_what_a_server_refuses_goes_elsewhere_on_one_more_stream(
    serve: Any, code: str, reason: str
) -> None:
    def refuses(requests: Requests, context: grpc.ServicerContext) -> Responses:
        for request in requests:
            yield refusal(request.id, "not now", code, reason, retry_after_seconds=60.0)

    bad, good = serve(stream=refuses), serve()
    async with AsyncClient(f"{bad.address},{good.address}") as client:
        for _ in range(20):
            streams = good.streams
            outcomes = [
                outcome async for outcome in client.stream(requests(1000), model="m", max_in_flight=16)
            ]
            assert sorted(key for key, _ in outcomes) == list(range(1000))
            assert all(is_right(*outcome) for outcome in outcomes)
            if bad.streams:
                break
    assert bad.streams == 1
    assert good.streams == streams + 1


async def test_what_the_callers_iterator_raises_comes_after_the_outcomes(serve: Any) -> None:
    async def broken() -> AsyncIterator[tuple[int, dict[str, Any]]]:
        async for item in awaited(20):
            yield item
        raise KeyError("mistake")

    async with AsyncClient(serve().address) as client:
        stream = client.stream(broken(), model="m")
        found = [await anext(stream) for _ in range(20)]
        assert sorted(key for key, _ in found) == list(range(20))
        with pytest.raises(KeyError, match="mistake"):
            await anext(stream)


async def test_each_request_has_its_own_deadline(serve: Any) -> None:
    over = threading.Event()

    def deaf(requests: Requests, context: grpc.ServicerContext) -> Responses:
        context.add_callback(over.set)
        for request in requests:
            if int(request.id) % 2 == 0:
                yield answer(request)
        over.wait(20)

    async with AsyncClient(serve(stream=deaf).address) as client:
        assert await client.ready()
        outcomes = {k: r async for k, r in client.stream(requests(10), model="m", timeout_seconds=2.0)}
    assert all(isinstance(outcomes[key], headrace.DeadlineExceeded) for key in range(1, 10, 2))
    assert all(is_right(key, outcomes[key]) for key in range(0, 10, 2))


async def test_a_request_that_comes_while_nothing_is_on_the_way_has_its_deadline(
    serve: Any, hang: Any
) -> None:
    """The caller waits for outcomes then, with no request whose time could wake it."""
    over = threading.Event()

    def answers_one(requests: Requests, context: grpc.ServicerContext) -> Responses:
        yield answer(next(requests))
        over.wait(20)

    async with AsyncClient(serve(hang, answers_one).address) as client:
        assert await client.ready()

        async def given() -> AsyncIterator[tuple[int, Any]]:
            yield 0, inputs(0)
            with pytest.raises(headrace.DeadlineExceeded):
                await client.infer("m", inputs(0), timeout_seconds=1.5)
            yield 1, inputs(1)
            await asyncio.Event().wait()

        async with aclosing(client.stream(given(), model="m", timeout_seconds=1.0)) as stream:
            assert is_right(*await anext(stream))
            key, error = await anext(stream)
        over.set()
    assert key == 1
    assert isinstance(error, headrace.DeadlineExceeded)


async def test_a_killed_server_costs_no_answer(serve: Any, holding: HoldingProcess) -> None:
    good = serve()

    async def collect(client: AsyncClient) -> list[tuple[int, Any]]:
        return [outcome async for outcome in client.stream(requests(50), model="m")]

    async with AsyncClient(f"{holding.address},{good.address}", retry=QUICK) as client:
        streams = [asyncio.create_task(collect(client)) for _ in range(8)]
        calls = [asyncio.create_task(client.infer("m", inputs(number))) for number in range(16)]
        assert await asyncio.to_thread(holding.line) == "call"
        holding.kill()
        for stream in streams:
            outcomes = await stream
            assert sorted(key for key, _ in outcomes) == list(range(50))
            assert all(is_right(*outcome) for outcome in outcomes)
        for number, call in enumerate(calls):
            assert is_right(number, await call)


async def test_a_stream_on_a_critical_server_goes_on_elsewhere(serve: Any) -> None:
    over = threading.Event()
    arrived = threading.Event()

    def hang(requests: Requests, context: grpc.ServicerContext) -> Responses:
        context.add_callback(over.set)
        for request in requests:
            arrived.set()
            if request.id == "0":
                yield answer(request)
        over.wait(20)

    one, two = serve(stream=hang), serve()
    script = Script()
    script.sets.put_nowait((Endpoint(one.address),))
    async with AsyncClient(script) as client:
        stream = client.stream(requests(20), model="m")
        assert is_right(*await anext(stream))
        script.sets.put_nowait((Endpoint(one.address, status=Status.CRITICAL), Endpoint(two.address)))
        outcomes = [outcome async for outcome in stream]
    assert sorted(key for key, _ in outcomes) == list(range(1, 20))
    assert all(is_right(*outcome) for outcome in outcomes)


async def test_a_retired_server_gets_no_more_and_its_answers_still_count(serve: Any) -> None:
    one, two = serve(), serve()
    script = Script()
    script.sets.put_nowait((Endpoint(one.address),))
    source: asyncio.Queue[int] = asyncio.Queue()

    async def asked() -> AsyncIterator[tuple[int, dict[str, Any]]]:
        while (number := await source.get()) >= 0:
            yield number, inputs(number)

    async with AsyncClient(script) as client:
        stream = client.stream(asked(), model="m")
        source.put_nowait(0)
        assert is_right(*await anext(stream))
        script.sets.put_nowait((Endpoint(two.address),))
        number = 1
        while not two.streams:
            source.put_nowait(number)
            assert is_right(*await anext(stream))
            number += 1
            assert number < 10_000
        source.put_nowait(-1)
        assert [item async for item in stream] == []
    assert (one.streams, two.streams) == (1, 1)


async def test_all_servers_down_is_told_for_each_request() -> None:
    retry = Retry(backoff_seconds=0.01, budget_burst=10)
    async with AsyncClient(free_address(), retry=retry) as client:
        outcomes = [outcome async for outcome in client.stream(requests(300), model="m")]
    assert sorted(key for key, _ in outcomes) == list(range(300))
    assert all(isinstance(result, headrace.Unavailable) for _, result in outcomes)


async def test_closing_a_stream_in_the_middle_cancels_it_at_the_server(serve: Any) -> None:
    cancelled = threading.Event()

    def watched(requests: Requests, context: grpc.ServicerContext) -> Responses:
        context.add_callback(cancelled.set)
        yield from map(answer, requests)

    before = asyncio.all_tasks()
    async with AsyncClient(serve(stream=watched).address) as client:
        async with aclosing(client.stream(awaited(1_000_000), model="m")) as stream:
            assert is_right(*await anext(stream))
        assert await asyncio.to_thread(cancelled.wait, 5)
        assert await client.infer("m", inputs(1))
    assert asyncio.all_tasks() == before


async def test_closing_the_client_in_the_middle(serve: Any) -> None:
    client = AsyncClient(serve().address)
    stream = client.stream(awaited(1_000_000), model="m")
    await anext(stream)
    await client.close()
    with pytest.raises(headrace.ClientClosed):
        _ = [item async for item in stream]


async def test_a_consumer_who_is_cancelled(serve: Any) -> None:
    async def nothing() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    before = asyncio.all_tasks()
    async with AsyncClient(serve().address) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(client.stream(nothing(), model="m"))
    assert asyncio.all_tasks() == before
