"""Asks a server through KServe's own client, and prints what came as JSON. Run where kserve is installed."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferOutput, InferRequest

ROWS = np.arange(32, dtype=np.int32).reshape(2, 16)


def pair(*, binary: bool) -> list[InferInput]:
    inputs = [InferInput(name, [2, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for one in inputs:
        one.set_data_from_numpy(ROWS, binary_data=binary)
    return inputs


def text(*values: bytes) -> InferInput:
    given = InferInput("x", [1, len(values)], "BYTES")
    given.set_data_from_numpy(np.array([values], object), binary_data=True)
    return given


def told(output: InferOutput) -> Any:
    rows = output.as_numpy()
    return [[one.decode() for one in row] for row in rows] if rows.dtype == object else rows.tolist()


async def answer(client: InferenceGRPCClient, request: InferRequest) -> dict[str, Any]:
    response = await client.infer(request)
    outputs = {one.name: told(one) for one in response.outputs}
    return {"id": response.id, "version": response.model_version, "outputs": outputs}


async def failure(
    client: InferenceGRPCClient, model: str, inputs: list[InferInput], **options: Any
) -> list[str]:
    try:
        await client.infer(InferRequest(model, inputs), **options)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


async def main(address: str) -> None:
    async with InferenceGRPCClient(address) as client:
        slow = InferInput("x", [1, 1], "INT32")
        slow.set_data_from_numpy(np.array([[400]], np.int32), binary_data=True)
        json.dump(
            {
                "live": await client.is_server_live(),
                "ready": await client.is_server_ready(),
                "models": [await client.is_model_ready(name) for name in ("simple", "never_asked", "simpel")],
                "raw": await answer(client, InferRequest("simple", pair(binary=True), request_id="7")),
                "typed": await answer(client, InferRequest("simple", pair(binary=False))),
                "text": await answer(client, InferRequest("identity_BYTES", [text(b"a", b"", "€".encode())])),
                "not there": await failure(client, "simpel", pair(binary=True)),
                "bad input": await failure(client, "simple", [slow]),
                "late": await failure(client, "slow", [slow], timeout=0.05),
            },
            sys.stdout,
        )


if __name__ == "__main__":
    logging.disable()  # the client logs each error that it raises
    asyncio.run(main(sys.argv[1]))
