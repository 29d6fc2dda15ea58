"""Tensors through CUDA shared memory over a real connection: to an engine on a CPU, and on a fake GPU."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from fake_cuda import EAGER, LATE, FakeDriver, Order, present
from fake_device_memory import FakeDeviceMemory
from fake_memory import Bytes
from fake_onnxruntime import fake_provider
from gated_server import expected, gated
from hosted_server import connected, hosted, infer_request
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_models import Models
from scripted_engines import PATIENCE_SECONDS, Shelf

from headrace_engines.runtime.cuda import gpu
from headrace_engines.runtime.cuda.shared_memory import SharedMemory
from headrace_engines.runtime.onnxruntime_cuda import OnnxRuntimeCudaEngine
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.model import Limits, Model
from headrace_server.core.service import Service
from headrace_server.core.workers import worker_for

HANDLE = b"h".ljust(64, b"\0")
Code = grpc.StatusCode


def register(
    stub: InferenceServiceStub, handle: bytes, size_bytes: int, name: str = "r", device: int = 0
) -> None:
    request = pb.CudaSharedMemoryRegisterRequest(
        name=name, raw_handle=handle, device_id=device, byte_size=size_bytes
    )
    stub.CudaSharedMemoryRegister(request, timeout=PATIENCE_SECONDS)


def place(tensor: Any, offset: int, size_bytes: int, region: str = "r") -> None:
    """Say where in a region a tensor stands."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments)
    return error.value.code(), error.value.details()


def test_calls_about_regions() -> None:
    memory = FakeDeviceMemory({HANDLE: bytes(64)})
    with gated(allow_client_shm=True, device_memory=lambda: memory) as it:
        stub = it.stub
        assert "cuda_shared_memory" in stub.ServerMetadata(pb.ServerMetadataRequest()).extensions
        register(stub, HANDLE, 64)
        assert refusal(register, stub, HANDLE, 64)[0] is Code.ALREADY_EXISTS
        assert refusal(register, stub, HANDLE, 65, "s")[0] is Code.INVALID_ARGUMENT
        assert refusal(register, stub, b"short", 8, "s")[0] is Code.INVALID_ARGUMENT
        status = stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest())
        assert dict(status.regions) == {
            "r": pb.CudaSharedMemoryStatusResponse.RegionStatus(name="r", device_id=0, byte_size=64)
        }
        of_none = pb.CudaSharedMemoryStatusRequest(name="none")
        assert refusal(stub.CudaSharedMemoryStatus, of_none)[0] is Code.NOT_FOUND
        of_the_system = pb.SystemSharedMemoryStatusRequest(name="r")
        assert refusal(stub.SystemSharedMemoryStatus, of_the_system)[0] is Code.NOT_FOUND
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        assert memory.open_now == [HANDLE]
        stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(name="r"))
        assert memory.open_now == []
    assert memory.is_closed


def test_an_engine_on_a_cpu_gets_rows_through_the_host_and_answers_there() -> None:
    memory = FakeDeviceMemory({HANDLE: np.arange(8, dtype=np.int64).tobytes()})
    with gated(allow_client_shm=True, device_memory=lambda: memory) as it:
        register(it.stub, HANDLE, 64)
        it.gate.open()
        request = infer_request("m", ("x", "INT64", (3, 1), b""))
        del request.raw_input_contents[:]
        place(request.inputs[0], 8, 24)
        place(request.outputs.add(name="y"), 40, 24)
        response = it.stub.ModelInfer(request, timeout=PATIENCE_SECONDS)
        assert list(response.raw_output_contents) == [b""]
        found = np.frombuffer(memory.bytes_of(HANDLE), np.int64).tolist()
        assert found == [0, 1, 2, 3, 4, *expected(1, 2, 3)]


class OnAGpu(NamedTuple):
    """A server over an engine on a fake GPU, and another process's memory there: 16 rows of three."""

    stub: InferenceServiceStub
    driver: FakeDriver
    theirs: Bytes

    @property
    def rows(self) -> NDArray[np.float32]:
        """The memory's rows."""
        return self.theirs.view(np.float32).reshape(16, 3)


@contextlib.contextmanager
def on_a_gpu(path: Path, order: Order) -> Iterator[OnAGpu]:
    with FakeDriver(order) as driver, present(driver), fake_provider(driver):
        engine = OnnxRuntimeCudaEngine(path, gpu=gpu.open_gpu(0), max_batch_size=8)
        model = Model("m", "1", engine.spec, engine.platform, Limits(), takes_device_rows=True)
        worker = worker_for(model, engine, 0)
        worker.start()
        with (
            hosted(Service(Shelf(model)), allow_client_shm=True, device_memory=SharedMemory) as server,
            connected(server.address) as stub,
        ):
            handle, theirs = driver.share(16 * 12)
            theirs[:] = np.arange(16 * 3, dtype=np.float32).view(np.uint8)
            register(stub, handle, 16 * 12)
            yield OnAGpu(stub, driver, theirs)
        model.close(drain=True)
        assert worker.join(PATIENCE_SECONDS)


def through(first: int, count: int, *, into: int | None = None) -> pb.ModelInferRequest:
    """Ask for rows of the region, and for their answers in other rows of it."""
    request = infer_request("m", ("x", "FP32", (count, 3), b""))
    del request.raw_input_contents[:]
    place(request.inputs[0], 12 * first, 12 * count)
    if into is not None:
        place(request.outputs.add(name="y"), 12 * into, 12 * count)
    return request


@pytest.mark.parametrize("order", [LATE, EAGER, 5])
def test_an_engine_on_the_same_gpu_takes_rows_there(models: Models, order: Order) -> None:
    path = models.unary("Neg", TensorProto.FLOAT)
    sent = np.full((2, 3), 9, np.float32)
    with on_a_gpu(path, order) as it:
        before = it.driver.calls["copy_within"]
        own = infer_request("m", ("x", "FP32", (2, 3), sent.tobytes()))
        calls = [
            it.stub.ModelInfer.future(request)
            for request in (through(0, 2), own, through(2, 3, into=8), through(5, 1))
        ]
        first, by_message, _, last = (call.result(PATIENCE_SECONDS) for call in calls)
        answers = [np.frombuffer(one.raw_output_contents[0], np.float32) for one in (first, by_message, last)]
        np.testing.assert_array_equal(answers[0], -it.rows[:2].ravel())
        np.testing.assert_array_equal(answers[1], -sent.ravel())
        np.testing.assert_array_equal(answers[2], -it.rows[5])
        np.testing.assert_array_equal(it.rows[8:11], -it.rows[2:5])
        assert it.driver.calls["copy_within"] == before + 4, "three inputs and an output"
        it.stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
        assert it.driver.calls["close_shared"] == 1


def test_a_region_that_is_forgotten_meanwhile_serves_those_who_use_it(models: Models) -> None:
    with on_a_gpu(models.unary("Neg", TensorProto.FLOAT), LATE) as it:
        it.driver.hold()
        held = it.stub.ModelInfer.future(through(0, 8))
        behind = it.stub.ModelInfer.future(through(8, 2))
        forgotten = it.stub.CudaSharedMemoryUnregister.future(pb.CudaSharedMemoryUnregisterRequest())
        it.driver.let_go()
        forgotten.result(PATIENCE_SECONDS)
        answers = []
        for call in (held, behind):
            with contextlib.suppress(grpc.RpcError):  # it may have come after it was forgotten
                answers.append(call.result(PATIENCE_SECONDS))
        for answer in answers:
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).size in (24, 6)
        it.stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
        assert it.driver.calls["close_shared"] == 1


def test_tritons_client_shares_memory_of_a_real_gpu() -> None:
    if not gpu.available():
        pytest.skip(f"needs a GPU, on which tritonclient allocates: {gpu.why_none()}")
    program = Path(__file__).parent.parent / "support" / "triton_cuda_client.py"
    with gated(allow_client_shm=True, device_memory=SharedMemory) as it:
        it.gate.open()
        done = subprocess.run(
            [sys.executable, program, it.server.address],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert [int(value) for value in done.stdout.split()] == expected(0, 1, 2, 3)
