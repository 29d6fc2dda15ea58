"""Triton's own client, the one whose calls are awaited, unchanged against the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: no Triton client")
import triton_calls as calls
import tritonclient.grpc.aio as triton  # only where it is installed

HERE = {"stream_infer", "close", "plugin", "register_plugin", "unregister_plugin"}
"""What this client has beside the calls that both have; each is tried in this module."""


def run(address: str, exercise: calls.Exercise) -> set[str]:
    """Run an exercise in a thread, and its calls on the loop that the client belongs to."""

    async def main() -> set[str]:
        loop = asyncio.get_running_loop()

        def call(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(method(*arguments, **options), loop).result()

        async with triton.InferenceServerClient(address) as client:
            do = calls.Recorder(client, call)
            await asyncio.to_thread(exercise, do)
            return do.made

    return asyncio.run(main())


def test_every_public_call_is_tried() -> None:
    assert calls.public(triton.InferenceServerClient) == {*calls.COVERS, *HERE}


@pytest.mark.parametrize("name", calls.COVERS)
def test_call(address: str, name: str) -> None:
    assert name in run(address, calls.COVERS[name])


@pytest.mark.parametrize("exercise", calls.MORE)
def test_feature(address: str, exercise: calls.Exercise) -> None:
    run(address, exercise)


async def test_many_calls_at_once(address: str) -> None:
    async with triton.InferenceServerClient(address) as client:
        results = await asyncio.gather(*(client.infer("simple", calls.pair()) for _ in range(100)))
    for result in results:
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * calls.ROWS)


async def test_a_stream_of_answers_and_errors(address: str) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(10):
            model = "simpel" if number == 4 else "simple"
            yield {"model_name": model, "inputs": calls.pair(), "request_id": str(number)}

    good, wrong = [], []
    async with triton.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(requests()):
            wrong.append(error) if error else good.append(result.get_response().id)
    assert sorted(good) == [str(number) for number in range(10) if number != 4]
    assert len(wrong) == 1


async def test_a_decoupled_model(address: str) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        values = calls.tensor(np.array([3, 5, 8], np.int32), "INT32")
        yield {"model_name": "repeat", "inputs": [values]}

    async with triton.InferenceServerClient(address) as client:
        answers = [result async for result, _ in client.stream_infer(requests())]
    assert [one.as_numpy("y").item() for one in answers] == [3, 5, 8]


async def test_a_stream_that_is_left(address: str) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        while True:
            yield {"model_name": "simple", "inputs": calls.pair()}
            await asyncio.sleep(0)

    async with triton.InferenceServerClient(address) as client:
        stream = client.stream_infer(requests())
        await anext(aiter(stream))
        stream.cancel()
        assert await client.is_server_ready()


async def test_a_plugin_sees_every_call(address: str) -> None:
    class Plugin(triton.InferenceServerClientPlugin):  # type: ignore[misc]  # the package has no types
        def __call__(self, request: Any) -> None:
            request.headers["x-mine"] = "1"

    client = triton.InferenceServerClient(address)
    plugin = Plugin()
    client.register_plugin(plugin)
    assert client.plugin() is plugin
    assert await client.is_server_live()
    client.unregister_plugin()
    await client.close()
