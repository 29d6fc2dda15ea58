"""The demo's server: `headrace serve` in a process of its own, and what it says about itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_cli.demo.child import Child
from headrace_cli.failure import CommandError
from headrace_proto.names import SERVICES, model_health_name
from headrace_proto.v1.inference_pb2 import ModelStatisticsRequest, ServerLiveRequest, ServerReadyRequest
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

_START_SECONDS = 60.0
_CALL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a model has done: rows answered, and executions that it took."""

    rows: int
    executions: int

    def since(self, earlier: Work) -> Work:
        """Return what was done after `earlier`."""
        return Work(self.rows - earlier.rows, self.executions - earlier.executions)

    @property
    def mean_batch(self) -> float:
        """Rows in an execution."""
        return self.rows / self.executions if self.executions else 0.0


class Server:
    """A running server; `address` is host:port."""

    def __init__(self, child: Child, address: str) -> None:
        self.child = child
        self.address = address

    def health(self, model: str) -> dict[str, str]:
        """Return the standard health status of the server, its services and the model."""
        names = ("", *SERVICES, model_health_name(model))
        with self._channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answers = {
                name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=_CALL_SECONDS)
                for name in names
            }
        statuses = health_pb2.HealthCheckResponse.ServingStatus
        return {name: statuses.Name(answer.status) for name, answer in answers.items()}

    def is_ready(self) -> bool:
        """Whether it says, over the inference service, that it is live and ready."""
        with self._channel() as channel:
            stub = InferenceServiceStub(channel)
            live = stub.ServerLive(ServerLiveRequest(), timeout=_CALL_SECONDS).live
            return live and stub.ServerReady(ServerReadyRequest(), timeout=_CALL_SECONDS).ready

    def work(self, model: str) -> Work:
        """Return what the model has done so far."""
        with self._channel() as channel:
            answer = InferenceServiceStub(channel).ModelStatistics(
                ModelStatisticsRequest(name=model), timeout=_CALL_SECONDS
            )
        return Work(
            sum(statistics.inference_count for statistics in answer.model_stats),
            sum(statistics.execution_count for statistics in answer.model_stats),
        )

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        try:
            with grpc.insecure_channel(self.address) as channel:
                yield channel
        except grpc.RpcError as error:
            reason = error.details() if isinstance(error, grpc.Call) else str(error)
            raise CommandError(f"the server at {self.address} does not answer: {reason}") from error


def start(repository: Path, log: Path, flags: Sequence[str]) -> Server:
    """Start a server on a free port and wait until it is ready; CommandError tells why it is not."""
    arguments = [
        sys.executable, "-m", "headrace_cli", "serve", "--model-repository", str(repository),
        "--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0", *flags,
    ]  # fmt: skip
    child = Child("the server", arguments, log, read=True)
    try:
        ready = json.loads(child.line(_START_SECONDS))
    except BaseException:
        child.stop()
        raise
    return Server(child, ready["grpc"])
