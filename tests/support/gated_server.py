"""A gRPC server over an engine that executes only when the test lets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from hosted_server import HostedServer, connected, eventually, hosted, infer_request
from scripted_engines import Gate, ScriptedEngine, Served, f, rows_spec, serving

from headrace_engines.spec import ModelSpec
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.model import Limits


@dataclass(frozen=True, slots=True)
class Gated:
    """The server, its model `m`, and the gate in front of its engine."""

    served: Served
    server: HostedServer
    gate: Gate
    stub: InferenceServiceStub

    def occupy(self) -> pb.ModelInferResponse:
        """Begin an execution of the row 0 that ends when the gate opens; return its call's future."""
        call = self.stub.ModelInfer.future(rows(0))
        self.gate.arrival()
        return call

    def await_waiting(self, count: int) -> None:
        """Wait until so many requests are in the queue."""
        eventually(lambda: self.served.model.waiting == count, f"{count} requests wait")

    def executed(self) -> list[int]:
        """Return every element that was executed, in order."""
        return [int(value) for inputs in self.served.engine.executed for value in inputs[0].ravel()]


def rows(*values: int, id: str = "", model: str = "m", **parameters: int) -> pb.ModelInferRequest:  # noqa: A002  # the field's name in the protocol
    """Ask for these rows of one element."""
    data = np.array(values, np.int64).tobytes()
    return infer_request(model, ("x", "INT64", (len(values), 1), data), id=id, **parameters)


def answered(response: pb.ModelInferResponse) -> list[int]:
    """Return the elements of an answer."""
    return [int(value) for value in np.frombuffer(response.raw_output_contents[0], np.int64)]


def expected(*values: int) -> list[int]:
    """Return the elements that the engine answers to these."""
    return [int(f(np.int64(value))) for value in values]


@contextmanager
def gated(
    gate: Gate | None = None,
    *,
    limits: Limits | None = None,
    spec: ModelSpec | None = None,
    **options: Any,
) -> Iterator[Gated]:
    """Serve a gated model while the block runs; the gate opens at its end."""
    gate = gate or Gate()
    engine = ScriptedEngine(spec or rows_spec(), before=gate)
    with (
        serving(engine, limits) as served,
        hosted(served.service, **options) as server,
        connected(server.address) as stub,
    ):
        yield Gated(served, server, gate, stub)
        gate.open()
