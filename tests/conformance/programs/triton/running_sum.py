"""Adds up the values of each sequence, and answers the sum with the sequence's id."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self._sums = {}

    def execute(self, requests):
        answers = []
        for request in requests:
            x, start, ready, corrid = (
                triton.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("x", "START", "READY", "CORRID")
            )
            y = x.copy()
            if ready[0, 0]:
                key = int(corrid[0, 0])
                before = 0 if start[0, 0] else self._sums.get(key, 0)
                self._sums[key] = before + int(x[0, 0])
                y[0, 0] = self._sums[key]
            answers.append(triton.InferenceResponse([triton.Tensor("y", y), triton.Tensor("id", corrid)]))
        return answers
