"""The model as Triton's Python backend runs it: join the requests of a batch, run once, split."""

from __future__ import annotations

import json
import sys
from typing import Any


class TritonPythonModel:
    """Made by Triton, in a process that knows nothing of virtual environments."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model that the configuration names."""
        parameters = json.loads(args["model_config"])["parameters"]
        sys.path.insert(0, parameters["packages"]["string_value"])
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = parameters["model"]["string_value"]
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests."""
        import numpy as np
        import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # Triton brings it

        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        outputs = self._session.run(None, {"x": inputs[0] if len(inputs) == 1 else np.concatenate(inputs)})[0]
        answers = []
        start = 0
        for rows in inputs:
            tensor = triton.Tensor("y", outputs[start : start + len(rows)])
            answers.append(triton.InferenceResponse([tensor]))
            start += len(rows)
        return answers
