"""Blocking calls while the servers behind the target come and go."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
from fake_servers import echo, free_address

import headrace
from headrace import Client, Retry
from headrace.endpoint import Endpoint, Status
from headrace_proto.v1 import inference_pb2 as pb

X = np.arange(6, dtype=np.float32).reshape(2, 3)
QUICK = Retry(backoff_seconds=0.01)


class Script:
    """A look-up that says what it is told to."""

    def __init__(self, *sets: tuple[Endpoint, ...]) -> None:
        self._sets = iter(sets)
        self.go = threading.Semaphore(0)
        self.over = threading.Event()

    def next(self) -> None:
        self.go.release()

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        import asyncio

        try:
            for endpoints in self._sets:
                await asyncio.to_thread(self.go.acquire)
                yield endpoints
            await asyncio.Event().wait()
        finally:
            self.over.set()


def test_calls_wait_for_the_first_set_and_follow_the_next(serve: Any) -> None:
    one, two = serve(), serve()
    script = Script((Endpoint(one.address),), (Endpoint(two.address),))
    with Client(script) as client, ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, "m", {"x": X})
        assert not one.calls
        script.next()
        call.result(5)
        assert one.calls == 1
        script.next()
        _until(lambda: client.infer("m", {"x": X}) is not None and two.calls > 0)
        calls = one.calls
        for _ in range(20):
            client.infer("m", {"x": X})
        assert one.calls == calls
    assert script.over.wait(5), "closing ends the look-up"


def _until(happened: Any, seconds: float = 5.0) -> None:
    end = monotonic() + seconds
    while not happened():
        assert monotonic() < end


def test_a_look_up_that_knows_nothing_yet(serve: Any) -> None:
    script = Script(())
    with Client(script) as client:
        with pytest.raises(headrace.Unavailable, match="has not answered yet"):
            client.infer("m", {"x": X}, timeout_seconds=0.1)
        script.next()
        started = monotonic()
        with pytest.raises(headrace.Unavailable, match="lists none") as caught:
            client.infer("m", {"x": X})
        assert monotonic() - started < 5.0
        assert caught.value.attempts == 0


def test_a_look_up_that_lists_servers_in_maintenance_only() -> None:
    script = Script((Endpoint("127.0.0.1:1", status=Status.MAINTENANCE),))
    script.next()
    with Client(script) as client, pytest.raises(headrace.Unavailable, match=r"all 1 .* maintenance"):
        client.infer("m", {"x": X})


def test_a_look_up_that_breaks_is_logged_and_ends_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
            raise RuntimeError("a mistake")
            yield ()

    with Client(Broken()) as client, pytest.raises(headrace.Unavailable):
        client.infer("m", {"x": X})
    assert "a mistake" in caplog.text


def test_calls_on_a_critical_server_go_elsewhere_at_once(serve: Any) -> None:
    release = threading.Event()

    def hang(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(20)
        return echo(request)

    one, two = serve(hang), serve()
    script = Script(
        (Endpoint(one.address),),
        (Endpoint(one.address, status=Status.CRITICAL), Endpoint(two.address)),
    )
    with Client(script) as client, ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, "m", {"x": X})
        script.next()
        assert one.called.wait(5)
        script.next()
        np.testing.assert_array_equal(call.result(5)["x"], X)
        release.set()
    assert two.calls == 1


def test_connections_closed_under_the_calls_cost_no_answer(serve: Any) -> None:
    """Servers turn critical and back while calls are being started on them."""
    one, two = serve().address, serve().address
    critical = Status.CRITICAL
    turns = [
        (Endpoint(one), Endpoint(two, status=critical)),
        (Endpoint(one, status=critical), Endpoint(two)),
    ]
    script = Script(*turns * 40)
    retry = Retry(attempts=50, backoff_seconds=0.001, budget_burst=10_000)
    with Client(script, retry=retry) as client, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.infer, "m", {"x": X}) for _ in range(400)]
        streams = [
            threads.submit(lambda: list(client.stream([(1, {"x": X})] * 200, model="m"))) for _ in range(2)
        ]
        for _ in range(80):
            script.next()
            client.infer("m", {"x": X})
        for call in calls:
            assert call.result(20)
        for stream in streams:
            assert [type(result) for _, result in stream.result(20)] == [dict] * 200


def test_a_name_is_resolved(serve: Any) -> None:
    with Client(f"dns:///localhost:{serve().port}") as client:
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)


def test_consul_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    address = free_address()
    monkeypatch.setenv("CONSUL_HTTP_ADDR", address)
    with Client("consul:///inference") as client:

        def told() -> str:
            with pytest.raises(
                headrace.Unavailable, match="consul:///inference has not answered yet"
            ) as caught:
                client.infer("m", {"x": X}, timeout_seconds=0.2)
            return str(caught.value)

        why = f"(Consul at http://{address}: the agent cannot be reached (connection refused))"
        _until(lambda: why in told(), seconds=20.0)
        outcomes = list(client.stream([(7, {"x": X})], model="m", timeout_seconds=0.2))
    assert [key for key, _ in outcomes] == [7]
    assert isinstance(outcomes[0][1], headrace.Unavailable | headrace.DeadlineExceeded)
