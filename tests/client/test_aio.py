from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import NOT_READY, failing, free_address
from numbered_requests import QUICK, inputs, is_right, requests
from scripted_lookup import Script

import headrace
from headrace import AsyncClient, Retry
from headrace.endpoint import Endpoint, Status
from headrace.lookup import DnsLookup

X = np.arange(6, dtype=np.float32).reshape(2, 3)


async def called(server: Any) -> None:
    assert await asyncio.to_thread(server.called.wait, 5)


async def test_predictions_at_once(serve: Any) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        answers = await asyncio.gather(*(client.infer("m", inputs(number)) for number in range(200)))
    assert [answer["x"].item() for answer in answers] == list(range(200))
    assert server.calls == 200


async def test_metadata_and_ready(serve: Any) -> None:
    async with AsyncClient(serve().address) as client:
        assert (await client.metadata("digits")).versions == ("1", "2")
        with pytest.raises(headrace.ModelNotFound):
            await client.metadata("digit")
        assert await client.ready()
    async with AsyncClient(free_address(), retry=QUICK) as client:
        assert not await client.ready()


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL]
)
async def test_another_server_answers_instead(serve: Any, code: grpc.StatusCode) -> None:
    bad, good = serve(failing(code)), serve()
    async with AsyncClient(f"{bad.address},{good.address}") as client:
        for _ in range(50):
            await client.infer("m", {"x": X})
            if bad.calls:
                break
    assert bad.calls == 1


async def test_a_model_that_is_not_ready_costs_no_answer_and_ejects_no_server(serve: Any) -> None:
    bad, good = serve(NOT_READY), serve()
    retry = Retry(budget_burst=1, budget_ratio=0)
    async with AsyncClient(f"{bad.address},{good.address}", retry=retry) as client:
        for _ in range(100):
            await client.infer("m", {"x": X})
    assert good.calls == 100
    assert bad.calls > 20


async def test_errors(serve: Any) -> None:
    server = serve(failing(grpc.StatusCode.INVALID_ARGUMENT, "the reason"))
    async with AsyncClient(server.address) as client:
        with pytest.raises(headrace.InvalidInput, match="the reason"):
            await client.infer("m", {"x": X})
        with pytest.raises(headrace.InvalidInput, match="none came"):
            await client.infer("m", {})
    assert server.calls == 1


async def test_all_servers_down_is_told_soon() -> None:
    async with AsyncClient(f"{free_address()},{free_address()}", retry=QUICK) as client:
        started = monotonic()
        with pytest.raises(headrace.Unavailable) as caught:
            await client.infer("m", {"x": X})
        assert caught.value.attempts == 3
        assert monotonic() - started < 5.0


async def test_the_deadline(serve: Any, hang: Any) -> None:
    server = serve(hang)
    async with AsyncClient(server.address) as client:
        assert await client.ready()
        with pytest.raises(headrace.DeadlineExceeded):
            await client.infer("m", {"x": X}, timeout_seconds=2.0)
    assert server.calls == 1


async def test_a_caller_who_gives_up(serve: Any, hang: Any) -> None:
    server = serve(hang)
    async with AsyncClient(server.address) as client:
        call = asyncio.create_task(client.infer("m", {"x": X}))
        await called(server)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert server.calls == 1, "no retry for a caller who left"
        server.called.clear()

        async def end_once_called(limit: asyncio.Timeout) -> None:
            await called(server)
            limit.reschedule(asyncio.get_running_loop().time())

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                await asyncio.gather(client.infer("m", {"x": X}), end_once_called(limit))
    assert server.calls == 2


@pytest.mark.parametrize("retry", [Retry(), Retry(attempts=1), Retry(budget_burst=0)])
async def test_closing_ends_calls_under_way(serve: Any, hang: Any, retry: Retry) -> None:
    server = serve(hang)
    client = AsyncClient(server.address, retry=retry)
    call = asyncio.create_task(client.infer("m", {"x": X}))
    await called(server)
    await client.close()
    with pytest.raises(headrace.ClientClosed):
        await call
    with pytest.raises(headrace.ClientClosed):
        await client.infer("m", {"x": X})
    await client.close()


async def test_closing_ends_a_pause_before_a_retry(serve: Any) -> None:
    server = serve(failing(grpc.StatusCode.UNAVAILABLE))
    client = AsyncClient(server.address, retry=Retry(backoff_seconds=20, max_backoff_seconds=20))
    call = asyncio.create_task(client.infer("m", {"x": X}))
    await called(server)
    await client.close()
    with pytest.raises(headrace.ClientClosed):
        await call


async def test_calls_on_a_critical_server_go_elsewhere_at_once(serve: Any, hang: Any) -> None:
    one, two = serve(hang), serve()
    script = Script()
    async with AsyncClient(script) as client:
        call = asyncio.create_task(client.infer("m", {"x": X}))
        script.sets.put_nowait((Endpoint(one.address),))
        await called(one)
        script.sets.put_nowait((Endpoint(one.address, status=Status.CRITICAL), Endpoint(two.address)))
        np.testing.assert_array_equal((await call)["x"], X)
    assert two.calls == 1
    assert script.over


async def test_connections_closed_under_the_calls_cost_no_answer(serve: Any) -> None:
    """Servers turn critical and back while calls are being started on them."""
    one, two = serve().address, serve().address
    critical = Status.CRITICAL
    turns = [
        (Endpoint(one), Endpoint(two, status=critical)),
        (Endpoint(one, status=critical), Endpoint(two)),
    ]
    script = Script()
    retry = Retry(attempts=50, backoff_seconds=0.001, budget_burst=10_000)

    async def collect(client: AsyncClient) -> list[tuple[int, Any]]:
        return [outcome async for outcome in client.stream(requests(200), model="m")]

    async with AsyncClient(script, retry=retry) as client:
        calls = [asyncio.create_task(client.infer("m", inputs(number))) for number in range(200)]
        streams = [asyncio.create_task(collect(client)) for _ in range(2)]
        for turn in turns * 20:
            script.sets.put_nowait(turn)
            await client.infer("m", {"x": X})
        for number, call in enumerate(calls):
            assert is_right(number, await call)
        for stream in streams:
            outcomes = await stream
            assert sorted(key for key, _ in outcomes) == list(range(200))
            assert all(is_right(*outcome) for outcome in outcomes)


async def test_a_look_up_that_knows_nothing_yet() -> None:
    script = Script()
    async with AsyncClient(script) as client:
        with pytest.raises(headrace.Unavailable, match="has not answered yet"):
            await client.infer("m", {"x": X}, timeout_seconds=0.1)
        script.sets.put_nowait(())
        with pytest.raises(headrace.Unavailable, match="lists none"):
            await client.infer("m", {"x": X})
        outcomes = [outcome async for outcome in client.stream(requests(3), model="m")]
    assert [key for key, _ in outcomes] == [0, 1, 2]
    assert all(isinstance(result, headrace.Unavailable) for _, result in outcomes)


async def test_a_look_up_tells_why_it_knows_nothing() -> None:
    async def refused(host: str, port: int) -> tuple[str, ...]:
        raise OSError("no name server")

    lookup = DnsLookup("inference.example", 8001, resolve=refused)
    async with AsyncClient(lookup) as client:
        with pytest.raises(headrace.Unavailable) as caught:
            await client.infer("m", {"x": X}, timeout_seconds=0.2)
    assert "has not answered yet (inference.example cannot be resolved: no name server)" in str(caught.value)


async def test_a_look_up_that_breaks_is_logged_and_ends_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
            raise RuntimeError("a mistake")
            yield ()

    async with AsyncClient(Broken()) as client:
        with pytest.raises(headrace.Unavailable):
            await client.infer("m", {"x": X})
    assert "a mistake" in caplog.text
