"""Answers each element by itself; a negative one is an error."""

from headrace_engines.python_model import InputError, Response


class Model:
    def execute(self, batch):
        for request in batch.requests:
            for value in request.inputs["x"]:
                if value < 0:
                    yield Response(request, error=InputError(f"{value} is negative"))
                    break
                yield Response(request, {"y": value.reshape(1)})
