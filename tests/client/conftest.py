from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest
from fake_servers import FakeServer, HoldingProcess, Infer, Stream, echo, echo_stream

from headrace_proto.v1 import inference_pb2 as pb

Serve = Callable[..., FakeServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that are stopped after the test."""
    with ExitStack() as stack:

        def start(infer: Infer = echo, stream: Stream = echo_stream, port: int = 0) -> FakeServer:
            return stack.enter_context(FakeServer(infer, stream, port))

        yield start


@pytest.fixture
def holding() -> Iterator[HoldingProcess]:
    """A process that takes calls and never answers."""
    process = HoldingProcess()
    yield process
    process.kill()


@pytest.fixture
def hang() -> Iterator[Callable[..., pb.ModelInferResponse]]:
    """A behaviour that answers only when the test is over."""
    release = threading.Event()

    def wait(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(20)
        return echo(request)

    yield wait
    release.set()
