"""Streams that send as fast as they may leave others their turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from model_folders import put
from onnx import TensorProto
from onnx_models import Models
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

PATIENCE_SECONDS = 60.0
STREAMS = 4
WARM_MESSAGES = 20_000
"""So many let gRPC's windows grow to what holds thousands."""
MOST_MESSAGES = 3_000
"""While one call is answered; without turns it is some ten thousand."""

_FLOOD = f"""
import sys
sys.path[:] = {sys.path!r}
import itertools, grpc
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(4)])
request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
with grpc.insecure_channel(sys.argv[1]) as channel:
    for answer in InferenceServiceStub(channel).ModelStreamInfer(itertools.repeat(request)):
        assert not answer.error_message, answer
"""


@contextmanager
def _flood(address: str) -> Iterator[None]:
    """Send on a stream of another process, whose library is not slowed by this one's."""
    with subprocess.Popen([sys.executable, "-c", _FLOOD, address], stderr=subprocess.PIPE) as process:
        try:
            yield
            assert process.poll() is None, "the stream has ended"
        finally:
            process.kill()


@pytest.fixture
def stub(models: Models, tmp_path: Path) -> Iterator[InferenceServiceStub]:
    put(tmp_path, "m", models.unary("Identity", TensorProto.FLOAT, ("N", 1), ("N", 1)))
    with ServerProcess(tmp_path) as server, ExitStack() as stack:
        address = server.ready()["grpc"]
        channel = stack.enter_context(grpc.insecure_channel(address))
        for _ in range(STREAMS):
            stack.enter_context(_flood(address))
        yield InferenceServiceStub(channel)


def _executed(stub: InferenceServiceStub) -> int:
    request = pb.ModelStatisticsRequest(name="m")
    statistics = stub.ModelStatistics(request, timeout=PATIENCE_SECONDS)
    return int(statistics.model_stats[0].inference_stats.success.count)


def test_a_call_waits_for_some_of_their_messages_and_not_for_all(stub: InferenceServiceStub) -> None:
    while (before := _executed(stub)) < WARM_MESSAGES:
        pass
    for _ in range(10):
        after = _executed(stub)
        assert after - before < MOST_MESSAGES
        before = after
