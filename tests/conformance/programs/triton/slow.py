"""Answers its input after as many milliseconds as the largest value says."""

import time

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        rows = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        time.sleep(max(int(one.max()) for one in rows) / 1000)
        return [triton.InferenceResponse([triton.Tensor("y", one)]) for one in rows]
