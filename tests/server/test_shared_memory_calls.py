"""Tensors through shared memory over a real connection, whatever becomes of the regions meanwhile."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from gated_server import Gated, answered, expected, gated, rows
from hosted_server import HostedServer, connected, eventually, hosted, infer_request
from numpy.typing import NDArray
from scripted_engines import PATIENCE_SECONDS, Arrays, ScriptedEngine, serving
from shared_objects import SharedObject, shared_object

from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_proto.tensors import from_raw, to_raw
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.settings import ModelSettings

Code = grpc.StatusCode


def register(
    stub: InferenceServiceStub, shared: SharedObject, size_bytes: int = 256, name: str = "r"
) -> None:
    stub.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(name=name, key=shared.key, byte_size=size_bytes)
    )


def place(tensor: Any, offset: int, size_bytes: int, region: str = "r") -> None:
    """Say where in a region a tensor stands."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes


def through(
    count: int, *, into: tuple[int, int] | None = None, offset: int = 0, region: str = "r"
) -> pb.ModelInferRequest:
    """Ask for rows that stand in shared memory, and to write the answer there."""
    request = infer_request("m", ("x", "INT64", (count, 1), b""))
    del request.raw_input_contents[:]
    place(request.inputs[0], offset, 8 * count, region)
    if into is not None:
        place(request.outputs.add(name="y"), *into, region)
    return request


def elements(shared: SharedObject, offset: int, count: int) -> list[int]:
    return [int(value) for value in np.frombuffer(shared.data, np.int64, count, offset)]


@contextmanager
def sharing(*values: int) -> Iterator[tuple[Gated, SharedObject]]:
    """Serve the gated model, with a registered region "r" of 256 bytes that begins with these values."""
    with (
        shared_object(np.array(values, np.int64).tobytes().ljust(256, b"\0")) as shared,
        gated(allow_client_shm=True) as it,
    ):
        register(it.stub, shared)
        yield it, shared


def refused(it: Gated, request: pb.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        it.stub.ModelInfer(request, timeout=PATIENCE_SECONDS)
    return error.value.code(), error.value.details()


def test_rows_come_and_go_through_memory() -> None:
    with sharing(5, 6, 7) as (it, shared):
        it.gate.open()
        response = it.stub.ModelInfer(through(3, into=(64, 100)))
        assert list(response.raw_output_contents) == [b""]
        told = response.outputs[0].parameters
        assert told["shared_memory_region"].string_param == "r"
        assert told["shared_memory_offset"].int64_param == 64
        assert told["shared_memory_byte_size"].int64_param == 24
        assert list(response.outputs[0].shape) == [3, 1]
        assert elements(shared, 64, 4) == [*expected(5, 6, 7), 0]
        assert elements(shared, 0, 3) == [5, 6, 7]


def test_inputs_through_memory_and_by_message_share_a_batch() -> None:
    with sharing(5, 6, 7) as (it, shared):
        it.occupy()
        calls = [
            it.stub.ModelInfer.future(request)
            for request in (through(2), rows(9), through(1, offset=16, into=(128, 8)))
        ]
        it.await_waiting(3)
        it.gate.open()
        responses = [call.result(PATIENCE_SECONDS) for call in calls]
        assert [answered(response) for response in responses[:2]] == [expected(5, 6), expected(9)]
        assert elements(shared, 128, 1) == expected(7)
        assert it.served.model.statistics.execution_count == 2


def test_many_requests_at_once_use_one_region() -> None:
    with sharing(*range(16)) as (it, shared):
        it.gate.open()
        calls = [
            it.stub.ModelInfer.future(through(1, offset=8 * n, into=(128 + 8 * n, 8))) for n in range(16)
        ] * 4
        for call in calls:
            call.result(PATIENCE_SECONDS)
        assert elements(shared, 128, 16) == expected(*range(16))


def test_a_stream_uses_memory_as_calls_do() -> None:
    with sharing(5, 6) as (it, shared):
        it.gate.open()
        requests = [through(1, into=(64, 8)), through(1, region="none"), through(2)]
        answers = list(it.stub.ModelStreamInfer(iter(requests), timeout=PATIENCE_SECONDS))
        errors = [answer.error_message for answer in answers if answer.error_message]
        assert errors == ["input 'x': there is no shared memory region 'none'"]
        assert elements(shared, 64, 1) == expected(5)
        raw = [list(answer.infer_response.raw_output_contents) for answer in answers]
        assert sorted(raw) == [[], [b""], [np.array(expected(5, 6), np.int64).tobytes()]]


def test_nothing_is_written_to_the_memory_of_a_caller_who_has_gone() -> None:
    with sharing(5) as (it, shared):
        call = it.stub.ModelInfer.future(through(1, into=(64, 8)))
        it.gate.arrival()
        call.cancel()
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "the server knows")
        assert it.stub.ServerLive(pb.ServerLiveRequest()).live
        it.gate.open()
        eventually(lambda: it.served.model.snapshot().execution_count == 1, "the execution is over")
        assert elements(shared, 64, 1) == [0]
        eventually(lambda: it.served.model.snapshot().cancel.count == 1, "the caller is counted")
        assert it.served.model.snapshot().success.count == 0


def test_a_region_that_is_unregistered_while_a_request_waits_still_serves_it() -> None:
    with sharing(5) as (it, shared):
        it.occupy()
        call = it.stub.ModelInfer.future(through(1, into=(64, 8)))
        it.await_waiting(1)
        it.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))
        it.gate.open()
        call.result(PATIENCE_SECONDS)
        assert elements(shared, 64, 1) == expected(5)
        assert refused(it, through(1)) == (Code.NOT_FOUND, "input 'x': there is no shared memory region 'r'")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda shared: shared.resize(8), "has shrunk"),
        (lambda shared: shared.remove(), "No such file or directory"),
        (lambda shared: shared.replace(bytes(256)), "is another one than"),
    ],
)
def test_an_output_whose_memory_is_gone_fails_its_caller_alone(change: Any, text: str) -> None:
    with sharing(5) as (it, shared):
        occupying = it.occupy()
        gone, neighbour = (it.stub.ModelInfer.future(one) for one in (through(1, into=(64, 8)), rows(9)))
        it.await_waiting(2)
        change(shared)
        it.gate.open()
        assert answered(neighbour.result(PATIENCE_SECONDS)) == expected(9)
        assert gone.code() is Code.INVALID_ARGUMENT
        assert text in gone.details()
        occupying.result(PATIENCE_SECONDS)
        statistics = it.served.model.snapshot()
        assert (statistics.success.count, statistics.fail.count) == (2, 1)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (through(2, into=(64, 15)), "output 'y': the answer takes 16 bytes, shared_memory_byte_size is 15"),
        (through(1, into=(250, 8)), "output 'y': 8 bytes from byte 250 on were asked for; .* has 256"),
        (through(1, offset=250), "input 'x': 8 bytes from byte 250 on were asked for"),
        (through(1, offset=-8), "input 'x': 8 bytes from byte -8 on were asked for"),
        (through(1, offset=2**63 - 1), "input 'x'"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_executed(request_: Any, text: str) -> None:
    with sharing(5) as (it, _):
        it.gate.open()
        code, told = refused(it, request_)
        assert code is Code.INVALID_ARGUMENT
        assert re.search(text, told)
        assert it.executed() == []


def test_owners_who_cut_their_memory_while_it_is_used_never_bring_the_server_down() -> None:
    """Each answer is the one to what stood there, or an error; others are answered throughout."""
    with sharing(5, 6) as (it, shared), connected(it.server.address) as another:
        it.gate.open()
        over = threading.Event()

        def cut() -> None:
            for size_bytes in itertools.cycle((0, 256, 8, 256, 100, 256)):
                shared.resize(size_bytes)
                if over.is_set():
                    return

        owner = threading.Thread(target=cut)
        owner.start()
        outcomes = set()
        try:
            for n in range(300):
                call = it.stub.ModelInfer.future(through(2, into=(64, 16)))
                assert answered(another.ModelInfer(rows(n), timeout=PATIENCE_SECONDS)) == expected(n)
                outcomes.add(call.code())
        finally:
            over.set()
            owner.join(PATIENCE_SECONDS)
        assert outcomes <= {Code.OK, Code.INVALID_ARGUMENT}
        assert Code.INVALID_ARGUMENT in outcomes


class Echo(ScriptedEngine):
    """Answers its inputs."""

    def run(self, arrays: Sequence[NDArray[Any]]) -> Arrays:
        return tuple(arrays)


@contextmanager
def echoing(dtype: Any, settings: ModelSettings) -> Iterator[tuple[HostedServer, InferenceServiceStub]]:
    kind = np.dtype(dtype)
    spec = ModelSpec((TensorSpec("x", kind, (3,)),), (TensorSpec("y", kind, (3,)),), 8)
    with (
        serving(Echo(spec), settings=settings) as served,
        hosted(served.service, allow_client_shm=True) as server,
        connected(server.address) as stub,
    ):
        yield server, stub


STRINGS = np.array([[b"one", b"", "drei€".encode()]], object)


def test_strings_through_memory() -> None:
    raw = to_raw(STRINGS)
    with shared_object(raw.ljust(256, b"\0")) as shared, echoing(object, ModelSettings()) as (_, stub):
        register(stub, shared)
        request = infer_request("m", ("x", "BYTES", (1, 3), b""))
        del request.raw_input_contents[:]
        place(request.inputs[0], 0, len(raw))
        place(request.outputs.add(name="y"), 128, 128)
        response = stub.ModelInfer(request)
        told = response.outputs[0].parameters["shared_memory_byte_size"].int64_param
        assert told == len(raw)
        assert from_raw(shared.data[128 : 128 + told], "BYTES", (1, 3)).tolist() == STRINGS.tolist()
        place(request.outputs[0], 128, len(raw) - 1)
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request)
        assert error.value.code() is Code.INVALID_ARGUMENT
        assert error.value.details().startswith(f"output 'y': the answer takes {len(raw)} bytes")


def test_classes_are_told_by_message_and_not_through_memory() -> None:
    scores = np.array([[0.25, 0.5, 0.125]], np.float32)
    settings = ModelSettings(labels={"y": ("ash", "elm")})
    with shared_object(scores.tobytes().ljust(256, b"\0")) as shared, echoing("<f4", settings) as (_, stub):
        register(stub, shared)
        request = infer_request("m", ("x", "FP32", (1, 3), b""))
        del request.raw_input_contents[:]
        place(request.inputs[0], 0, 12)
        request.outputs.add(name="y").parameters["classification"].int64_param = 2
        response = stub.ModelInfer(request)
        told = from_raw(response.raw_output_contents[0], response.outputs[0].datatype, (1, 2))
        assert told.tolist() == [[b"0.500000:1:elm", b"0.250000:0:ash"]]
        place(request.outputs[0], 64, 64)
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request)
        assert error.value.code() is Code.INVALID_ARGUMENT
        assert "classification and shared_memory_region came" in error.value.details()


def test_calls_about_regions() -> None:
    with sharing(5) as (it, shared):
        status = it.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
        assert status.regions["r"] == pb.SystemSharedMemoryStatusResponse.RegionStatus(
            name="r", key=shared.key, offset=0, byte_size=256
        )
        with pytest.raises(grpc.RpcError) as twice:
            register(it.stub, shared)
        assert twice.value.code() is Code.ALREADY_EXISTS
        with pytest.raises(grpc.RpcError) as unknown:
            it.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="none"))
        assert unknown.value.code() is Code.NOT_FOUND
        metadata = it.stub.ServerMetadata(pb.ServerMetadataRequest())
        assert "system_shared_memory" in metadata.extensions
        it.stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())


def test_without_the_flag_no_memory_is_touched() -> None:
    with shared_object(bytes(8)) as shared, gated() as it:
        it.gate.open()
        with pytest.raises(grpc.RpcError) as error:
            register(it.stub, shared, 8)
        assert error.value.code() is Code.UNIMPLEMENTED
        code, told = refused(it, through(1))
        assert code is Code.UNIMPLEMENTED
        assert "--allow-client-shm" in told
        metadata = it.stub.ServerMetadata(pb.ServerMetadataRequest())
        assert "system_shared_memory" not in metadata.extensions
