"""The messages are those of the Open Inference Protocol with Triton's extensions, field by field."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from headrace_proto import names
from headrace_proto.v1 import inference_pb2, inference_pb2_grpc, model_config_pb2

TYPES = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    8: "bool",
    9: "string",
    12: "bytes",
    13: "uint32",
}
REPEATED = 3

MESSAGES = {
    "ModelInferRequest": """
        string model_name = 1; string model_version = 2; string id = 3;
        repeated ParametersEntry parameters = 4; repeated InferInputTensor inputs = 5;
        repeated InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7""",
    "ModelInferRequest.ParametersEntry": "string key = 1; InferParameter value = 2",
    "ModelInferRequest.InferInputTensor": """
        string name = 1; string datatype = 2; repeated int64 shape = 3;
        repeated ParametersEntry parameters = 4; InferTensorContents contents = 5""",
    "ModelInferRequest.InferRequestedOutputTensor": """
        string name = 1; repeated ParametersEntry parameters = 2""",
    "ModelInferResponse": """
        string model_name = 1; string model_version = 2; string id = 3;
        repeated ParametersEntry parameters = 4; repeated InferOutputTensor outputs = 5;
        repeated bytes raw_output_contents = 6""",
    "ModelInferResponse.InferOutputTensor": """
        string name = 1; string datatype = 2; repeated int64 shape = 3;
        repeated ParametersEntry parameters = 4; InferTensorContents contents = 5""",
    "ModelStreamInferResponse": "string error_message = 1; ModelInferResponse infer_response = 2",
    "InferParameter": """
        bool bool_param = 1; int64 int64_param = 2; string string_param = 3; double double_param = 4;
        uint64 uint64_param = 5""",
    "InferTensorContents": """
        repeated bool bool_contents = 1; repeated int32 int_contents = 2;
        repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4;
        repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6;
        repeated double fp64_contents = 7; repeated bytes bytes_contents = 8""",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": """
        string name = 1; repeated string versions = 2; string platform = 3;
        repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5""",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "ModelConfigResponse": "ModelConfig config = 1",
    "ModelStatistics": """
        string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4;
        uint64 execution_count = 5; InferStatistics inference_stats = 6;
        repeated InferBatchStatistics batch_stats = 7; repeated MemoryUsage memory_usage = 8;
        repeated ResponseStatsEntry response_stats = 9""",
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
    "StatisticDuration": "uint64 count = 1; uint64 ns = 2",
    "InferStatistics": """
        StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3;
        StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5;
        StatisticDuration compute_output = 6; StatisticDuration cache_hit = 7;
        StatisticDuration cache_miss = 8""",
    "InferBatchStatistics": """
        uint64 batch_size = 1; StatisticDuration compute_input = 2; StatisticDuration compute_infer = 3;
        StatisticDuration compute_output = 4""",
    "RepositoryIndexRequest": "string repository_name = 1; bool ready = 2",
    "RepositoryIndexResponse": "repeated ModelIndex models = 1",
    "RepositoryIndexResponse.ModelIndex": """
        string name = 1; string version = 2; string state = 3; string reason = 4""",
    "ModelConfig": """
        string name = 1; string platform = 2; ModelVersionPolicy version_policy = 3;
        int32 max_batch_size = 4; repeated ModelInput input = 5; repeated ModelOutput output = 6;
        repeated ModelInstanceGroup instance_group = 7; string default_model_filename = 8;
        repeated CcModelFilenamesEntry cc_model_filenames = 9; repeated MetricTagsEntry metric_tags = 10;
        ModelDynamicBatching dynamic_batching = 11; ModelOptimizationPolicy optimization = 12;
        ModelSequenceBatching sequence_batching = 13; repeated ParametersEntry parameters = 14;
        ModelEnsembling ensemble_scheduling = 15; repeated ModelWarmup model_warmup = 16;
        string backend = 17; ModelOperations model_operations = 18;
        ModelTransactionPolicy model_transaction_policy = 19; repeated BatchInput batch_input = 20;
        repeated BatchOutput batch_output = 21; ModelRepositoryAgents model_repository_agents = 23;
        ModelResponseCache response_cache = 24; string runtime = 25; ModelMetrics model_metrics = 26""",
    "ModelInput": """
        string name = 1; DataType data_type = 2; Format format = 3; repeated int64 dims = 4;
        ModelTensorReshape reshape = 5; bool is_shape_tensor = 6; bool allow_ragged_batch = 7;
        bool optional = 8; bool is_non_linear_format_io = 9""",
    "ModelDynamicBatching": """
        repeated int32 preferred_batch_size = 1; uint64 max_queue_delay_microseconds = 2;
        bool preserve_ordering = 3; uint64 priority_levels = 4; uint64 default_priority_level = 5;
        ModelQueuePolicy default_queue_policy = 6;
        repeated PriorityQueuePolicyEntry priority_queue_policy = 7""",
    "ModelQueuePolicy": """
        TimeoutAction timeout_action = 1; uint64 default_timeout_microseconds = 2;
        bool allow_timeout_override = 3; uint32 max_queue_size = 4""",
}

RPCS = """
    ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer ModelStreamInfer ModelConfig
    ModelStatistics RepositoryIndex RepositoryModelLoad RepositoryModelUnload SystemSharedMemoryStatus
    SystemSharedMemoryRegister SystemSharedMemoryUnregister CudaSharedMemoryStatus CudaSharedMemoryRegister
    CudaSharedMemoryUnregister TraceSetting LogSettings
"""


def file_of(module):
    proto = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(proto)
    return proto


def fields_of(message):
    """Fields in the order of their numbers, as the .proto writes them, types by their last name."""
    return [
        f"{'repeated ' * (field.label == REPEATED)}"
        f"{TYPES.get(field.type) or field.type_name.rsplit('.', 1)[-1]} {field.name} = {field.number}"
        for field in sorted(message.field, key=lambda field: field.number)
    ]


def walk(messages, prefix=""):
    """Every message and nested message with its full name inside the package."""
    for message in messages:
        yield prefix + message.name, message
        yield from walk(message.nested_type, f"{prefix}{message.name}.")


def messages_of(module):
    return dict(walk(file_of(module).message_type))


def shape_of(message, package):
    """All that decides what a field means: its name, number, type in full, label, oneof."""
    return {
        field.name: (
            field.number,
            field.type,
            field.type_name.removeprefix(f".{package}."),
            field.label,
            message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "",
        )
        for field in message.field
    }


def enums_of(module):
    proto = file_of(module)
    nested = [(name, enum) for name, message in walk(proto.message_type) for enum in message.enum_type]
    top = [("", enum) for enum in proto.enum_type]
    return {
        (scope, enum.name): {value.name: value.number for value in enum.value} for scope, enum in top + nested
    }


def calls_of(service):
    return {
        call.name: (
            call.input_type.rsplit(".", 1)[-1],
            call.output_type.rsplit(".", 1)[-1],
            call.client_streaming,
            call.server_streaming,
        )
        for call in service.method
    }


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_the_protocols_fields(name):
    ours = messages_of(inference_pb2) | messages_of(model_config_pb2)
    assert fields_of(ours[name]) == [" ".join(field.split()) for field in MESSAGES[name].split(";")]


def test_the_datatypes_of_a_model_configuration_have_the_protocols_numbers():
    words = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
    expected = {f"TYPE_{word}": number for number, word in enumerate(words.split())}
    assert dict(model_config_pb2.DataType.items()) == expected


def test_the_service_declares_every_call():
    (service,) = file_of(inference_pb2).service
    calls = calls_of(service)
    assert list(calls) == RPCS.split()
    assert calls.pop("ModelStreamInfer") == ("ModelInferRequest", "ModelStreamInferResponse", True, True)
    assert calls == {name: (f"{name}Request", f"{name}Response", False, False) for name in calls}


def test_the_service_has_the_name_that_both_ends_use():
    (service,) = inference_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == names.INFERENCE_SERVICE
    assert hasattr(inference_pb2_grpc, f"{service.name}Stub")


@pytest.mark.parametrize(
    ("ours", "theirs"), [(inference_pb2, "service_pb2"), (model_config_pb2, "model_config_pb2")]
)
def test_every_message_and_enum_is_as_in_tritons_client(ours, theirs):
    grpc = pytest.importorskip(
        "tritonclient.grpc", reason="tritonclient is not installed: nothing to compare with"
    )
    module = getattr(grpc, theirs)
    expected = {name: shape_of(message, "inference") for name, message in messages_of(module).items()}
    actual = {name: shape_of(message, "headrace.v1") for name, message in messages_of(ours).items()}
    assert actual == expected
    assert enums_of(ours) == enums_of(module)


def test_every_call_is_as_in_tritons_client():
    grpc = pytest.importorskip(
        "tritonclient.grpc", reason="tritonclient is not installed: nothing to compare with"
    )
    (ours,) = file_of(inference_pb2).service
    (theirs,) = file_of(grpc.service_pb2).service
    assert f"inference.{theirs.name}" == names.TRITON_SERVICE
    assert calls_of(ours) == calls_of(theirs)
