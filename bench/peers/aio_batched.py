"""What one writes by hand: a grpc.aio server that batches whatever waits while the model runs."""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb

_MAX_BATCH = 64
_Waiting = tuple[NDArray[np.float32], asyncio.Future[NDArray[np.float32]]]


class Batcher:
    """Puts requests into one queue, and runs all that wait, on a thread of its own."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        """Answer one request with its rows."""
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((rows, answer))
        output = await answer
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=output.shape)
        response.raw_output_contents.append(output.tobytes())
        return response

    async def run(self) -> None:
        """Run batch after batch."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            outputs = await loop.run_in_executor(self._thread, self._execute, batch)
            start = 0
            for rows, answer in batch:
                if not answer.done():
                    answer.set_result(outputs[start : start + len(rows)])
                start += len(rows)

    def _execute(self, batch: list[_Waiting]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._session.run(
            None, {self._input: np.concatenate([rows for rows, _ in batch])}
        )[0]
        return outputs


async def _serve(model: Path, port: int) -> None:
    batcher = Batcher(model)
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        batcher.infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(TRITON_SERVICE, {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await batcher.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(given.model, given.port))
