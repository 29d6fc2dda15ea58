"""Configurations in the forms that Triton's repositories hold: honoured, or refused with a way out.

The forms are those of its examples and tests, with names and sizes of our own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from given_configs import given_by, model_folder
from google.protobuf import text_format

from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config import from_json
from headrace_server.models.model_config_problems import ConfigError

TWO_TENSORS = """
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 16 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 16 ] } ]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path)


HONOURED = {
    "an image model that is fixed to one row, and seen without it": """
        name: "m"
        platform: "onnxruntime_onnx"
        max_batch_size : 0
        input [
          {
            name: "data_0"
            data_type: TYPE_FP32
            format: FORMAT_NCHW
            dims: [ 3, 32, 32 ]
            reshape { shape: [ 1, 3, 32, 32 ] }
          }
        ]
        output [
          {
            name: "scores"
            data_type: TYPE_FP32
            dims: [ 10 ]
            reshape { shape: [ 1, 10, 1, 1 ] }
            label_filename: "labels.txt"
          }
        ]
        """,
    "names with colons and slashes, sizes left open": """
        name: "m"
        backend: "onnxruntime"
        max_batch_size: 256
        input [ { name: "images:0" data_type: TYPE_FP32 dims: [ -1, -1, -1, 3 ] } ]
        output [ { name: "fusion/Sigmoid:0" data_type: TYPE_FP32 dims: [ -1, -1, -1, 1 ] },
                 { name: "fusion/concat:0" data_type: TYPE_FP32 dims: [ -1, -1, -1, 5 ] } ]
        """,
    "several blocks of one kind, and a version policy": """
        # A comment.
        name: "m"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        version_policy: { latest { num_versions: 1 }}
        input [ { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] } ]
        input [ { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] } ]
        output [ { name: "OUTPUT0" data_type: TYPE_INT8 dims: [ 16 ] } ]
        output [ { name: "OUTPUT1" data_type: TYPE_INT8 dims: [ 16 ] } ]
        """,
    "batching and instances, and nothing else": """
        max_batch_size: 4
        dynamic_batching {
           preferred_batch_size: 1
           max_queue_delay_microseconds: 2000000
        }
        instance_group {
           count: 2
           kind: KIND_CPU
        }
        """,
    "strings": """
        name: "m" platform: "onnxruntime_onnx" max_batch_size: 8
        input [ { name: "INPUT0" data_type: TYPE_STRING dims: [ 16 ] } ]
        output [ { name: "OUTPUT0" data_type: TYPE_STRING dims: [ 16 ] } ]
        """,
    "a warm-up with one number a line": """
        name: "m" backend: "onnxruntime" max_batch_size : 16
        input [ { name: "input.1" data_type: TYPE_FP32 dims: [ 1, 32, 100 ] } ]
        model_warmup {
           name: "first"
           batch_size: 16
           inputs: {
             key: "input.1"
             value: { data_type: TYPE_FP32 dims: 1 dims: 32 dims: 100 zero_data: true }
           }
        }
        """,
    "a program": """
        name: "m"
        backend: "python"
        max_batch_size: 256
        input [
        {
            name: "INPUT_0"
            data_type: TYPE_UINT8
            dims: [ -1 ]
        }
        ]
        output [ { name: "OUTPUT_0" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]
        instance_group [{ kind: KIND_CPU }]
        """,
    "a program with parameters of its own, separated by commas": """
        backend: "python"
        parameters: {
          key: "model_name",
          value: {string_value: "tiny"}
        }
        parameters: {
          key: "FORCE_CPU_ONLY_INPUT_TENSORS"
          value: { string_value: "no" }
        }
        input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
        output [ { name: "answer" data_type: TYPE_STRING dims: [ -1 ] } ]
        """,
    "a decoupled program": """
        name: "m"
        backend: "python"
        max_batch_size: 0
        model_transaction_policy {
          decoupled: True
        }
        input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
                { name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] } ]
        output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
        instance_group [{ kind: KIND_CPU }]
        """,
    "a program with inputs that may be missing, which chooses where it runs": """
        backend: "python"
        max_batch_size: 0
        input [ { name: "text" data_type: TYPE_STRING dims: [ 1, 1 ] },
                { name: "stream" data_type: TYPE_BOOL dims: [ 1, 1 ] optional: true } ]
        output [ { name: "answer" data_type: TYPE_STRING dims: [ 1, -1 ] } ]
        instance_group [ { count: 1 kind: KIND_MODEL } ]
        """,
    "sequences that stay in their place": """
        name: "m"
        platform: "python"
        max_batch_size: 8
        sequence_batching {
          control_input [
            { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
            { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] }
          ]
        }
        input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
        output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
        """,
    "options that say what is done anyway": """
        platform: "onnxruntime_onnx"
        optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }
        parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
        parameters { key: "inter_op_thread_count" value: { string_value: "1" } }
        parameters { key: "execution_mode" value: { string_value: "0" } }
        """,
    "priorities with a policy for each": """
        max_batch_size: 8
        dynamic_batching {
          priority_levels: 2
          default_priority_level: 2
          priority_queue_policy: {
            key: 1
            value: {
              timeout_action: REJECT default_timeout_microseconds: 18000
              allow_timeout_override: true max_queue_size: 10
            }
          }
        }
        """,
}  # fmt: skip


@pytest.mark.parametrize("text", HONOURED.values(), ids=HONOURED)
def test_what_can_be_done_is_taken_as_it_stands(folder: Path, text: str) -> None:
    assert given_by(folder, text).message == text_format.Parse(text, ModelConfig())


def test_what_another_server_tells_of_a_model_can_be_given_to_this_one(folder: Path) -> None:
    """All fields with their defaults, as an override that somebody copies from what a server tells."""
    text = """
        {"name": "m", "platform": "onnxruntime_onnx", "backend": "onnxruntime", "runtime": "",
         "version_policy": {"latest": {"num_versions": 1}}, "max_batch_size": 8,
         "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [4],
                    "is_shape_tensor": false, "allow_ragged_batch": false, "optional": false,
                    "is_non_linear_format_io": false}],
         "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3], "label_filename": "",
                     "is_shape_tensor": false, "is_non_linear_format_io": false}],
         "batch_input": [], "batch_output": [],
         "optimization": {"priority": "PRIORITY_DEFAULT", "input_pinned_memory": {"enable": true},
                          "output_pinned_memory": {"enable": true}, "gather_kernel_buffer_threshold": 0,
                          "eager_batching": false},
         "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 1, "gpus": [],
                             "secondary_devices": [], "profile": [], "passive": false, "host_policy": ""}],
         "default_model_filename": "model.onnx", "cc_model_filenames": {}, "metric_tags": {},
         "parameters": {}, "model_warmup": []}
        """
    given = from_json(text, folder, "m")
    assert given.declaration.max_batch_size == json.loads(text)["max_batch_size"]


EXPORT = 'export the model to ONNX and say backend: "onnxruntime"'
REFUSED = {
    "PyTorch": (
        f'name: "m"\nplatform: "pytorch_libtorch"{TWO_TENSORS}',
        [f"c:2: platform: pytorch_libtorch is not supported; {EXPORT}"],
    ),
    "TensorFlow": (
        'platform: "tensorflow_savedmodel"',
        [f"c:1: platform: tensorflow_savedmodel is not supported; {EXPORT}"],
    ),
    "a language model": (
        'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]',
        ["c:1: backend: vllm is not supported; call it from a Python model"],
    ),
    "a backend of one's own": (
        'backend: "implicit_state"',
        ["c:1: backend: implicit_state is not supported; there are: onnxruntime, tensorrt, python"],
    ),
    "the backend's name in the wrong place": (
        'platform: "onnxruntime"',
        ["c:1: platform: onnxruntime is not supported; did you mean onnxruntime_onnx?"],
    ),
    "accelerators": (
        "optimization {\n graph : {\n level : 1\n }\n execution_accelerators {\n"
        ' gpu_execution_accelerator : [ { name : "tensorrt" parameters { key: "a" value: "b" } } ]\n'
        ' cpu_execution_accelerator : [ { name : "openvino" } ]\n } }',
        [
            "c:2: optimization.graph: is not supported; ONNX Runtime optimises graphs as far as it can: "
            "remove it",
            "c:6: optimization.execution_accelerators.gpu_execution_accelerator[0]: is not "
            "supported; TensorRT, or ONNX Runtime with CUDA, runs the model on a GPU: remove it",
            "c:7: optimization.execution_accelerators.cpu_execution_accelerator[0]: is not supported; ONNX "
            "Runtime's own kernels for the CPU run the model: remove it; `headrace build` can make the "
            "model faster",
        ],
    ),
    "options of CUDA": (
        'backend: "onnxruntime" parameters { key: "gpu_mem_limit" value: { string_value: "4294967200" } }',
        [
            'c:1: parameters["gpu_mem_limit"]: this option of ONNX Runtime is not supported; remove it; only '
            "intra_op_thread_count can be set"
        ],
    ),
    "an ensemble": (
        'platform: "ensemble"\nensemble_scheduling {\n step [ { model_name: "a" model_version: -1\n'
        ' input_map { key: "x" value: "X" } output_map { key: "y" value: "Y" } } ] }',
        [
            "c:1: platform: ensemble is not supported; call the models one after the other, or put the steps "
            "into a Python model",
            "c:2: ensemble_scheduling: is not supported; call the models one after the other, or put the "
            "steps into a Python model",
        ],
    ),
    "the oldest sequence first": (
        "sequence_batching {\n max_sequence_idle_microseconds: 10000000\n oldest {\n"
        " max_candidate_sequences: 1024\n max_queue_delay_microseconds: 10000\n } }",
        ["c:3: sequence_batching.oldest: is not supported; use the strategy `direct`"],
    ),
    "steps that schedule themselves": (
        'backend: "python"\nsequence_batching {\n iterative_sequence: true\n}',
        [
            "c:3: sequence_batching.iterative_sequence: is not supported; send each step as a request of "
            "the sequence"
        ],
    ),
    "state that the server keeps": (
        'sequence_batching {\n state [ { input_name: "i" output_name: "o" dims: 1 } ] }',
        [
            "c:2: sequence_batching.state[0]: is not supported; keep the state in a Python model, "
            "between its calls"
        ],
    ),
    "ragged batches": (
        'input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }\n'
        'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }',
        [
            "c:1: input[0].allow_ragged_batch: is not supported; only requests of equal shapes "
            "share a batch: "
            "remove it",
            "c:2: batch_input[0]: is not supported; a Python model can make such an input itself",
        ],
    ),
    "a cache of answers": (
        "response_cache {\n  enable: true\n}",
        ["c:1: response_cache: is not supported; answers are not cached: say `enable: false`, or remove it"],
    ),
    "labels that are not there": (
        'output [\n { name: "y"\n label_filename: "classes.txt" } ]',
        ["c:3: output[0].label_filename: classes.txt: no such file; did you mean labels.txt?"],
    ),
    "agents": (
        'model_repository_agents { agents [ { name: "checksum" parameters { key: "MD5" value: "0" } } ] }',
        [
            "c:1: model_repository_agents: is not supported; put the model's files into the "
            "repository as they are "
            "to be served"
        ],
    ),
    "buckets of metrics": (
        'model_metrics {\n metric_control: [ { metric_identifier: { family: "a" }\n'
        " histogram_options: { buckets: [ 1, 2 ] } } ] }",
        ["c:1: model_metrics: is not supported; the buckets of histograms are fixed: remove it"],
    ),
    "an environment for a program": (
        'backend: "python"\nparameters: { key: "EXECUTION_ENV_PATH", value: {string_value: "env.tar.gz"} }',
        [
            'c:2: parameters["EXECUTION_ENV_PATH"]: is not supported; install what the model '
            'needs beside the server'
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_with_a_way_out(folder: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        given_by(folder, text)
    told = [re.sub(r"^config\.pbtxt", "c", str(problem)) for problem in caught.value.problems]
    assert told == expected
    assert all(problem.suggestion for problem in caught.value.problems)
