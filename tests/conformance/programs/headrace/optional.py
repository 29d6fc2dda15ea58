"""Adds the bonus where one came."""

from headrace_engines.python_model import Response


class Model:
    def execute(self, batch):
        for request in batch.requests:
            yield Response(request, {"y": request.inputs["x"] + request.inputs.get("bonus", 0)})
