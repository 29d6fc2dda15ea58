"""The protocol as a client of any language sees it: generated stubs against a real server."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hosted_server import infer_request
from refusals import refusal

from headrace_engines.runtime.reference import ReferenceEngine
from headrace_proto.names import INFERENCE_SERVICE, SERVICES, TRITON_SERVICE
from headrace_proto.tensors import DTYPES, from_raw, to_raw
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

Code = grpc.StatusCode
ROW = np.arange(4, dtype=np.float32).tobytes()
GOOD = infer_request("mlp", ("x", "FP32", (1, 4), ROW))
SERVED = {
    "ServerLive": pb.ServerLiveRequest(),
    "ServerReady": pb.ServerReadyRequest(),
    "ModelReady": pb.ModelReadyRequest(name="mlp"),
    "ServerMetadata": pb.ServerMetadataRequest(),
    "ModelMetadata": pb.ModelMetadataRequest(name="mlp"),
    "ModelInfer": GOOD,
    "ModelConfig": pb.ModelConfigRequest(name="mlp"),
    "ModelStatistics": pb.ModelStatisticsRequest(name="mlp"),
    "RepositoryIndex": pb.RepositoryIndexRequest(),
}


def call(channel: grpc.Channel, service: str, name: str, request: Any) -> Any:
    answer = type(request).__name__.replace("Request", "Response")
    procedure = channel.unary_unary(
        f"/{service}/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=getattr(pb, answer).FromString,
    )
    return procedure(request, timeout=10)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", SERVED)
def test_every_served_procedure_answers_under_both_names(
    channel: grpc.Channel, service: str, name: str
) -> None:
    answer = call(channel, service, name, SERVED[name])
    if name == "ModelStatistics":
        return
    assert answer == call(channel, INFERENCE_SERVICE, name, SERVED[name])
    assert answer.ByteSize() > 0


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_not_allowed_is_named(channel: grpc.Channel, service: str) -> None:
    code, text = refusal(
        lambda **_: call(channel, service, "CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest())
    )
    assert code is Code.UNIMPLEMENTED
    assert "--allow-client-shm" in text


def test_an_unknown_procedure_is_unimplemented(channel: grpc.Channel) -> None:
    code, _ = refusal(lambda **_: call(channel, TRITON_SERVICE, "Nonsense", pb.ServerLiveRequest()))
    assert code is Code.UNIMPLEMENTED


def test_garbage_is_an_invalid_argument(channel: grpc.Channel) -> None:
    for name in ("ModelInfer", "ModelMetadata"):
        procedure = channel.unary_unary(f"/{INFERENCE_SERVICE}/{name}")
        code, text = refusal(procedure, b"\xff\xff\xff")
        assert code is Code.INVALID_ARGUMENT
        assert f"{name}Request" in text


def test_the_server_is_live_ready_and_tells_its_name(stub: InferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    metadata = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "headrace"
    assert "binary_tensor_data" in metadata.extensions
    assert len(set(metadata.extensions)) == len(metadata.extensions)


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("mlp", "", True),
        ("mlp", "3", True),
        ("broken", "", False),
        ("broken", "1", False),
        ("mlq", "", False),
    ],
)
def test_which_models_are_ready(stub: InferenceServiceStub, name: str, version: str, ready: bool) -> None:
    assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready is ready


@pytest.mark.parametrize(
    ("name", "version", "code", "text"),
    [
        ("mlq", "", Code.NOT_FOUND, "there is no model 'mlq'; did you mean 'mlp'?"),
        ("mlp", "4", Code.NOT_FOUND, "model 'mlp' has no version '4'; '3' is served"),
        ("mlp", "1x", Code.INVALID_ARGUMENT, "model version '1x' came, a whole number from 1 expected"),
        ("mlp", "-1", Code.INVALID_ARGUMENT, "model version '-1' came"),
        ("", "", Code.NOT_FOUND, "the request names no model"),
    ],
)
def test_models_and_versions_that_are_not_there(
    stub: InferenceServiceStub, name: str, version: str, code: grpc.StatusCode, text: str
) -> None:
    for procedure, request in (
        (stub.ModelInfer, infer_request(name, ("x", "FP32", (1, 4), ROW), version=version)),
        (stub.ModelMetadata, pb.ModelMetadataRequest(name=name, version=version)),
        (stub.ModelConfig, pb.ModelConfigRequest(name=name, version=version)),
    ):
        got, told = refusal(procedure, request)
        assert (got, told.startswith(text)) == (code, True), told


def test_a_model_that_failed_to_load_is_unavailable_and_says_why(stub: InferenceServiceStub) -> None:
    code, text = refusal(stub.ModelInfer, infer_request("broken", ("x", "FP32", (1, 4), ROW)))
    assert code is Code.UNAVAILABLE
    assert text.startswith("model 'broken' is not served: ")
    assert "model.onnx" in text


def test_metadata_tells_names_datatypes_and_shapes(stub: InferenceServiceStub) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="embedding"))
    tensor = pb.ModelMetadataResponse.TensorMetadata
    assert metadata == pb.ModelMetadataResponse(
        name="embedding",
        versions=["1"],
        platform="onnxruntime_onnx",
        inputs=[
            tensor(name="x", datatype="FP32", shape=[-1, 3]),
            tensor(name="word", datatype="INT64", shape=[-1]),
        ],
        outputs=[
            tensor(name="score", datatype="FP32", shape=[-1, 3]),
            tensor(name="label", datatype="INT64", shape=[-1]),
        ],
    )
    assert list(stub.ModelMetadata(pb.ModelMetadataRequest(name="alone")).inputs[0].shape) == [2, 3]
    assert list(stub.ModelMetadata(pb.ModelMetadataRequest(name="ragged")).inputs[0].shape) == [-1, -1]


def test_the_configuration_tells_batching_and_types(stub: InferenceServiceStub) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="embedding")).config
    assert (config.name, config.max_batch_size, config.backend) == ("embedding", 8, "onnxruntime")
    assert [(one.name, list(one.dims)) for one in config.input] == [("x", [3]), ("word", [])]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 4096
    strings = stub.ModelConfig(pb.ModelConfigRequest(name="identity_BYTES")).config
    assert (
        strings.input[0].data_type
        == strings.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name["TYPE_STRING"].number
    )
    alone = stub.ModelConfig(pb.ModelConfigRequest(name="alone")).config
    assert alone.max_batch_size == 0
    assert not alone.HasField("dynamic_batching")


def test_the_index_tells_what_serves_and_what_does_not(stub: InferenceServiceStub) -> None:
    index = {one.name: one for one in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    assert (index["mlp"].version, index["mlp"].state, index["mlp"].reason) == ("3", "READY", "")
    assert index["broken"].state == "UNAVAILABLE"
    assert "model.onnx" in index["broken"].reason
    ready = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert {one.name for one in ready} == set(index) - {"broken"}


def test_statistics_count_requests_rows_and_failures(stub: InferenceServiceStub) -> None:
    def statistics() -> pb.ModelStatistics:
        (one,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="identity_INT8")).model_stats
        return one

    before = statistics()
    for rows in (1, 2, 2):
        stub.ModelInfer(infer_request("identity_INT8", ("x", "INT8", (rows, 3), bytes(3 * rows))))
    after = statistics()
    assert after.inference_count - before.inference_count == 5
    assert after.execution_count - before.execution_count == 3
    assert after.inference_stats.queue.count - before.inference_stats.queue.count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert {one.batch_size for one in after.batch_stats} >= {1, 2}
    assert len(stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats) > 10


def test_an_answer_is_the_models(stub: InferenceServiceStub, conformant: Any) -> None:
    engine = ReferenceEngine(conformant.folder / "mlp" / "3" / "model.onnx")
    rows = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    request = infer_request("mlp", ("x", "FP32", (3, 4), rows.tobytes()), id="seven", version="3")
    answer = stub.ModelInfer(request)
    assert (answer.model_name, answer.model_version, answer.id) == ("mlp", "3", "seven")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [("y", "FP32", [3, 3])]
    expected = engine.run([rows])[0]
    np.testing.assert_allclose(from_raw(answer.raw_output_contents[0], "FP32", (3, 3)), expected, rtol=1e-4)


def samples(datatype: str) -> np.ndarray[Any, Any]:
    if datatype == "BYTES":
        array = np.empty((2, 3), object)
        array[:] = [[b"", b"a", "€".encode()], [b"b" * 300, b"\0", b"c"]]
        return array
    return np.array([[0, 1, 1], [1, 0, 1]]).astype(DTYPES[datatype])


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_contents_of_every_datatype(stub: InferenceServiceStub, datatype: str) -> None:
    rows = samples(datatype)
    answer = stub.ModelInfer(infer_request(f"identity_{datatype}", ("x", datatype, (2, 3), to_raw(rows))))
    assert answer.outputs[0].datatype == datatype
    assert list(answer.outputs[0].shape) == [2, 3]
    assert answer.raw_output_contents[0] == to_raw(rows)


CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_of_every_datatype_that_has_them(stub: InferenceServiceStub, datatype: str) -> None:
    rows = samples(datatype)
    request = pb.ModelInferRequest(model_name=f"identity_{datatype}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2, 3])
    getattr(tensor.contents, CONTENTS[datatype]).extend(rows.ravel().tolist())
    assert stub.ModelInfer(request).raw_output_contents[0] == to_raw(rows)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_contents(stub: InferenceServiceStub, datatype: str) -> None:
    request = pb.ModelInferRequest(model_name=f"identity_{datatype}")
    request.inputs.add(name="x", datatype=datatype, shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    code, text = refusal(stub.ModelInfer, request)
    assert code is Code.INVALID_ARGUMENT
    assert f"{datatype} is raw only" in text


def test_several_inputs_and_chosen_outputs(stub: InferenceServiceStub) -> None:
    x = ("x", "FP32", (2, 3), bytes(24))
    word = ("word", "INT64", (2,), np.array([0, 6]).tobytes())
    both = stub.ModelInfer(infer_request("embedding", word, x))
    assert [one.name for one in both.outputs] == ["score", "label"]
    one = stub.ModelInfer(infer_request("embedding", x, word, outputs=("label",)))
    assert [one.name for one in one.outputs] == ["label"]
    assert one.raw_output_contents == [np.array([2, 2]).tobytes()]
    turned = stub.ModelInfer(infer_request("embedding", x, word, outputs=("label", "score", "label")))
    assert [one.name for one in turned.outputs] == ["label", "score"]
    assert list(turned.raw_output_contents) == [both.raw_output_contents[1], both.raw_output_contents[0]]


def test_variable_dimensions(stub: InferenceServiceStub) -> None:
    for length in (1, 5, 3):
        row = np.arange(length, dtype=np.float32).tobytes()
        answer = stub.ModelInfer(infer_request("ragged", ("x", "FP32", (1, length), row)))
        assert list(answer.outputs[0].shape) == [1, length]
        assert answer.raw_output_contents == [row]


def test_a_model_without_a_batch_axis(stub: InferenceServiceStub) -> None:
    data = np.arange(6, dtype=np.float32).tobytes()
    answer = stub.ModelInfer(infer_request("alone", ("x", "FP32", (2, 3), data)))
    assert list(answer.outputs[0].shape) == [2, 3]
    assert answer.raw_output_contents == [data]


@pytest.mark.parametrize("microseconds", [60_000_000, 2**63 - 1])
def test_a_timeout_that_is_not_reached_changes_nothing(stub: InferenceServiceStub, microseconds: int) -> None:
    patient = infer_request("mlp", ("x", "FP32", (1, 4), ROW), timeout=microseconds)
    assert stub.ModelInfer(patient) == stub.ModelInfer(GOOD)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("", "SERVING"),
        (INFERENCE_SERVICE, "SERVING"),
        (TRITON_SERVICE, "SERVING"),
        ("model:mlp", "SERVING"),
        ("model:mlp:3", "SERVING"),
        ("model:broken", "NOT_SERVING"),
        ("model:broken:1", "NOT_SERVING"),
    ],
)
def test_health_tells_about_the_server_and_each_model(channel: grpc.Channel, name: str, state: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=name))
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == state
    watch = health.Watch(health_pb2.HealthCheckRequest(service=name))
    assert next(watch).status == answer.status
    watch.cancel()


def test_health_knows_no_other_names(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("model:none", "model:mlp:4"):
        code, _ = refusal(health.Check, health_pb2.HealthCheckRequest(service=name))
        assert code is Code.NOT_FOUND


def test_reflection_lists_both_services_and_resolves_their_messages(channel: grpc.Channel) -> None:
    ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    symbol = reflection_pb2.ServerReflectionRequest
    listed, file = ask(
        iter([symbol(list_services=""), symbol(file_containing_symbol="inference.ModelInferRequest")])
    )
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health"}
    described = descriptor_pb2.FileDescriptorProto.FromString(
        file.file_descriptor_response.file_descriptor_proto[0]
    )
    assert described.package == "inference"
    assert "ModelInferRequest" in {message.name for message in described.message_type}
