"""Answers the request's own parameters, as JSON."""

import json

import numpy as np

from headrace_engines.python_model import Response


class Model:
    def execute(self, batch):
        for request in batch.requests:
            said = json.dumps(dict(request.parameters), sort_keys=True).encode()
            yield Response(request, {"said": np.full((request.rows, 1), said, object)})
