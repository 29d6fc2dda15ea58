"""Real gRPC servers that behave as a test wants: right, wrong, slow, or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)

Infer = Callable[[pb.ModelInferRequest, grpc.ServicerContext], pb.ModelInferResponse]
Stream = Callable[
    [Iterator[pb.ModelInferRequest], grpc.ServicerContext], Iterator[pb.ModelStreamInferResponse]
]

GRACE_SECONDS = 5.0

OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.keepalive_permit_without_calls", 1),
]
"""A port of its own, and leave for the client to ping as often as it does."""


def echo(request: pb.ModelInferRequest, context: grpc.ServicerContext | None = None) -> pb.ModelInferResponse:
    """Answer with the inputs as outputs."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    response.raw_output_contents.extend(request.raw_input_contents)
    return response


def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    """Answer one request of a stream."""
    return pb.ModelStreamInferResponse(infer_response=echo(request))


def refusal(
    request_id: str, text: str, code: str = "", reason: str = "", retry_after_seconds: float | None = None
) -> pb.ModelStreamInferResponse:
    """Answer one request of a stream with an error, as Headrace does, or without a code as Triton does."""
    response = pb.ModelStreamInferResponse(error_message=text)
    response.infer_response.id = request_id
    if code:
        response.infer_response.parameters["error_code"].string_param = code
    if reason:
        response.infer_response.parameters["error_reason"].string_param = reason
    if retry_after_seconds is not None:
        response.infer_response.parameters["retry_after_seconds"].double_param = retry_after_seconds
    return response


def echo_stream(
    requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
) -> Iterator[pb.ModelStreamInferResponse]:
    return map(answer, requests)


def failing(code: grpc.StatusCode, text: str = "on purpose", *details: Message) -> Infer:
    """Return a behaviour that ends every call with a status, and details that tell more of it."""
    status = Status(code=code.value[0], message=text)
    for detail in details:
        status.details.add().Pack(detail)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()

    def fail(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.set_trailing_metadata(trailers)
        context.abort(code, text)
        raise AssertionError("abort raises")

    return fail


NOT_READY = failing(
    grpc.StatusCode.UNAVAILABLE, "loading", ErrorInfo(reason="MODEL_NOT_READY", domain="headrace")
)
"""As Headrace answers while a model is being loaded, or could not be."""


class FakeServer(InferenceServiceServicer):
    """A server on a free port; `calls` counts the predictions asked of it, `streams` its streams."""

    def __init__(self, infer: Infer = echo, stream: Stream = echo_stream, port: int = 0) -> None:
        self.infer = infer
        self.stream = stream
        self.calls = 0
        self.streams = 0
        self.is_ready = True
        self.called = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(40), options=OPTIONS)
        add_InferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._server.start()
        return self

    def stop(self, grace_seconds: float | None = None) -> None:
        self._server.stop(grace_seconds).wait(GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        with self._lock:
            self.calls += 1
        self.called.set()
        return self.infer(request, context)

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        with self._lock:
            self.streams += 1
        return self.stream(request_iterator, context)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return pb.ServerReadyResponse(ready=self.is_ready)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if request.name != "digits":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}")
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name="digits",
            versions=["1", "2"],
            platform="onnxruntime_onnx",
            inputs=[tensor(name="image", datatype="FP32", shape=[-1, 64])],
            outputs=[tensor(name="scores", datatype="FP32", shape=[-1, 10])],
        )


HOLDING_SERVER = """
import os, sys, threading
from fake_servers import FakeServer

def hold(request, context):
    os.write(1, b"call\\n")  # in one piece, however many threads do it
    threading.Event().wait()

def hold_stream(requests, context):
    for request in requests:
        os.write(1, b"call\\n")  # in one piece, however many threads do it
    threading.Event().wait()
    yield

server = FakeServer(hold, hold_stream).start()
print(server.address, flush=True)
sys.stdin.read()
"""


class HoldingProcess:
    """A server in a process of its own that takes calls and never answers, to be killed."""

    def __init__(self) -> None:
        path = [entry for entry in sys.path if entry]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{HOLDING_SERVER}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self.line()

    def line(self) -> str:
        """Wait for the next line: the address, then "call" for each call that arrived."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def free_address() -> str:
    """Return an address that nobody listens on."""
    with FakeServer() as server:
        return server.address
