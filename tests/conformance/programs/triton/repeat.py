"""Answers each element by itself; a negative one is an error."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for value in triton.get_input_tensor_by_name(request, "x").as_numpy():
                if value < 0:
                    error = triton.TritonError(f"{value} is negative")
                    sender.send(triton.InferenceResponse([], error))
                    break
                sender.send(triton.InferenceResponse([triton.Tensor("y", value.reshape(1))]))
            sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
