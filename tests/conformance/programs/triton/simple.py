"""Adds and subtracts."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            one = triton.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            two = triton.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            made = {"OUTPUT0": one + two, "OUTPUT1": one - two}
            wanted = request.requested_output_names()
            answers.append(
                triton.InferenceResponse([triton.Tensor(name, made[name]) for name in made if name in wanted])
            )
        return answers
