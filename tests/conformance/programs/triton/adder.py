"""Adds the number of its version."""

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self._version = np.float32(int(args["model_version"]))

    def execute(self, requests):
        answers = []
        for request in requests:
            rows = triton.get_input_tensor_by_name(request, "x").as_numpy() + self._version
            answers.append(triton.InferenceResponse([triton.Tensor("y", rows)]))
        return answers
