"""What one writes by hand next: a grpc.aio server that batches whatever waits while the model runs."""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import bare
from bench.models import INPUT, MODELS, Network
from bench.peers.session import open_session
from headrace_proto.v1 import inference_pb2 as pb

_Waiting = tuple[NDArray[np.float32], asyncio.Future[NDArray[np.float32]]]


class Batcher:
    """Puts requests into one queue, and runs all that wait, on a thread of its own."""

    def __init__(self, file: Path) -> None:
        self._session = open_session(file)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Answer one request with its rows."""
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((rows, answer))
        output = await answer
        return bare.answer(request, output.shape, output.tobytes())

    async def run(self) -> None:
        """Run batch after batch."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            most = max(1, bare.MAX_BATCH // len(batch[0][0]))
            while len(batch) < most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            outputs = await loop.run_in_executor(self._thread, self._execute, batch)
            start = 0
            for rows, answer in batch:
                if not answer.done():
                    answer.set_result(outputs[start : start + len(rows)])
                start += len(rows)

    def _execute(self, batch: list[_Waiting]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._session.run(
            None, {INPUT: np.concatenate([rows for rows, _ in batch])}
        )[0]
        return outputs


async def _serve(model: Network, file: Path, port: int) -> None:
    batcher = Batcher(file)
    server = await bare.serve(batcher.infer, model, port)
    try:
        await batcher.run()
    finally:
        await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(MODELS[given.model], given.file, given.port))
