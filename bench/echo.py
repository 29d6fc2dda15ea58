"""The least that a grpc.aio server can do: parse the request, build a constant answer. A program."""

from __future__ import annotations

import argparse
import asyncio

from bench import bare
from bench.models import MODELS, Network
from headrace_proto.v1 import inference_pb2 as pb


async def _serve(model: Network, port: int) -> None:
    async def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        count = request.inputs[0].shape[0]
        return bare.answer(request, (count, model.classes), bytes(4 * count * model.classes))

    server = await bare.serve(infer, model, port)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(MODELS[given.model], given.port))
