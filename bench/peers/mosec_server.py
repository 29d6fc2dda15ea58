"""mosec: a Rust front that speaks HTTP and a Python worker; a row of raw float32 in, one out.

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
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> Any:
        """Return the row in a body."""
        try:
            return np.frombuffer(data, np.float32)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data: Any) -> bytes:
        """Return the body for a row."""
        return bytes(data.tobytes())

    def forward(self, data: list[Any]) -> list[Any]:
        """Run a batch of rows."""
        return list(self._session.run(None, {self._input: np.stack(data)})[0])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=64, max_wait_time=1, timeout=60)
    server.run()
