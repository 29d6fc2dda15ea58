"""mosec: a Rust front that speaks HTTP and a Python worker; rows of raw float32 in, rows out.

Runs in an environment of its own, which has mosec and not this project.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
from mosec import Server, Worker  # type: ignore[import-not-found]  # installed in the peer's environment alone
from mosec.errors import ValidationError  # type: ignore[import-not-found]  # as above


class Model(Worker):  # type: ignore[misc]  # a class of the package that is not installed here
    """Runs batches; mosec starts it in a process of its own."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = os.environ["MODEL"]  # noqa: TID251  (mosec's command line is its own, and reaches no worker)
        self._shape = (-1, *map(int, os.environ["SHAPE"].split(",")))  # noqa: TID251  (as above)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> Any:
        """Return the rows in a body."""
        try:
            return np.frombuffer(data, np.float32).reshape(self._shape)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data: Any) -> bytes:
        """Return the body for rows."""
        return bytes(data.tobytes())

    def forward(self, data: list[Any]) -> list[Any]:
        """Run the rows of a batch of requests."""
        outputs = self._session.run(None, {self._input: np.concatenate(data)})[0]
        answers = []
        start = 0
        for rows in data:
            answers.append(outputs[start : start + len(rows)])
            start += len(rows)
        return answers


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=64, max_wait_time=1, timeout=60)
    server.run()
