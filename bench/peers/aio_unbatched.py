"""What one writes by hand first: a grpc.aio server whose handler runs the model on each request alone."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np

from bench import bare
from bench.models import INPUT, MODELS, Network
from bench.peers.session import open_session
from headrace_proto.v1 import inference_pb2 as pb


async def _serve(model: Network, file: Path, port: int) -> None:
    session = open_session(file)

    async def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        output = session.run(None, {INPUT: rows})[0]
        return bare.answer(request, output.shape, output.tobytes())

    server = await bare.serve(infer, model, port)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(MODELS[given.model], given.file, given.port))
