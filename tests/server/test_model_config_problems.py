"""What is told of configurations that are wrong: one row a case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from given_configs import given_by, model_folder

from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config import from_json, read
from headrace_server.models.model_config_problems import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{ "max_batch_size": 8 }',
            "c:1: not protobuf's text format: Expected identifier or number, got {; this",
        ),
        # What is not what it says.
        ('name: "n"', "c:1: name: 'n' came, the folder's name 'm' is expected"),
        ("\nmax_batch_size: -1", "c:2: max_batch_size: -1 came, 0 or more expected"),
        ('platform: "pytorch_libtorch"', "platform: pytorch_libtorch is not supported; export the model to"),
        ('platform: "ensemble"', "platform: ensemble is not supported; call the models one after the other"),
        ('backend: "onnxruntme"', "backend: onnxruntme is not supported; did you mean onnxruntime?"),
        ('backend: "zzz"', "there are: onnxruntime, tensorrt, python"),
        (
            'platform: "onnxruntime_onnx" backend: "python"',
            "backend: python does not run onnxruntime_onnx; one of the two is enough",
        ),
        ('default_model_filename: "a/b.onnx"', "'a/b.onnx' is no name of a file in the version's folder"),
        # Tensors.
        ("input { dims: 1 }", "input[0].name: a name is expected"),
        (
            'input { name: "x" }\ninput { name: "x" }',
            "c:2: input[1].name: 'x' is input[0] already",
        ),
        ('input { name: "x" dims: [ 1, 0 ] }', "input[0].dims[1]: 0 came, 1 or more, or -1 for any size"),
        (
            'output { name: "y" dims: 4 reshape { shape: [ 2, 3 ] } }',
            "output[0].reshape: [4] does not have the elements of [2, 3]",
        ),
        (
            'input { name: "x" reshape { shape: 4 } }',
            "input[0].reshape: the dims that callers see are missing",
        ),
        ('input { name: "x" dims: 3 format: FORMAT_NHWC }', "FORMAT_NHWC is the layout of 3 dims"),
        (
            'output { name: "y" label_filename: "no.txt" }',
            "no.txt: no such file; one label a line is expected",
        ),
        ('output { name: "y" label_filename: "lables.txt" }', "no such file; did you mean labels.txt?"),
        ('output { name: "y" label_filename: "../m/labels.txt" }', "leads out of the model's folder"),
        ('output { name: "y" label_filename: "/etc/passwd" }', "leads out of the model's folder"),
        (
            'output { name: "y" label_filename: "latin" }',
            "latin: no UTF-8 text: invalid continuation byte in line 1",
        ),
        ('output { name: "y" label_filename: "warmup" }', "warmup: not a regular file"),
        # Scheduling.
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
            "[0]: 8 is over max_batch_size, 4",
        ),
        (
            "dynamic_batching { preferred_batch_size: [ 4, 0 ] }",
            "preferred_batch_size[1]: 0 is no batch size",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "default_priority_level: 0 came, a level from 1 to 2 is expected",
        ),
        (
            "dynamic_batching { default_priority_level: 1 }",
            "default_priority_level: there are no levels; say `priority_levels`",
        ),
        (
            "dynamic_batching { priority_levels: 1 default_priority_level: 1 "
            "priority_queue_policy { key: 2 value { } } }",
            "dynamic_batching.priority_queue_policy[2]: 2 is no level: there are 1, from 1",
        ),
        (
            "dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }",
            "is out of range; the most",
        ),
        ("instance_group { count: -2 }", "instance_group[0].count: -2 came, 1 or more expected"),
        ("instance_group { count: 99999999999 }", "99999999999 is too large: 2147483647 is the most"),
        ("instance_group { count: 300 }", "300 instances were asked for, the most is 256"),
        (
            "instance_group { kind: KIND_CPU gpus: [ 0 ] }",
            "instance_group[0].gpus: instances of KIND_CPU run on no GPU; remove it, or write KIND_GPU",
        ),
        ("instance_group { gpus: [ -1 ] }", "instance_group[0].gpus: -1 is no GPU: they are counted from 0"),
        ("instance_group { gpus: [ 1, 1 ] }", "instance_group[0].gpus: [1, 1] names a GPU twice"),
        ("instance_group { count: 100 gpus: [ 0, 1, 2 ] }", "300 instances were asked for, the most is 256"),
        (
            "instance_group { kind: KIND_GPU } instance_group { kind: KIND_CPU }",
            "instance_group[1].kind: another group is of KIND_GPU, and a model runs either on GPUs or on",
        ),
        ('metric_tags { key: "a-b" value: "x" }', "metric_tags: 'a-b' came"),
        # Versions.
        ("version_policy { latest { num_versions: 0 } }", "num_versions: 0 came, 1 or more expected"),
        ("version_policy { specific { } }", "version_policy.specific: no version is named"),
        (
            "version_policy { specific { versions: [ 1, 3 ] } }",
            "version_policy.specific.versions[1]: there is no version 3; there are: 1, 2, 7",
        ),
        # Sequences.
        (
            "sequence_batching { direct { minimum_slot_utilization: 2 } }",
            "minimum_slot_utilization: 2.0 came, 0 to 1 is expected",
        ),
        (
            'sequence_batching { control_input { name: "S" control { kind: CONTROL_SEQUENCE_START } } }',
            "two values are expected in one of int32_false_true, fp32_false_true, bool_false_true",
        ),
        (
            'sequence_batching { control_input { name: "S" control { kind: CONTROL_SEQUENCE_CORRID } } }',
            "data_type: the type of the sequence's id is expected",
        ),
        (
            'sequence_batching { control_input { name: "S" } }',
            "control_input[0].control: one control is expected, 0 came",
        ),
        (
            'input { name: "S" } sequence_batching { control_input { name: "S" '
            "control { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } } }",
            "control_input[0].name: 'S' is among the inputs, which callers fill",
        ),
        ("sequence_batching { oldest { } }", "sequence_batching.oldest: is not supported; use the strategy"),
        # Samples.
        ('model_warmup { batch_size: 0 inputs { key: "x" value { } } }', "batch_size: 0 came, 1 or more"),
        ("model_warmup { }", "model_warmup[0]: the sample has no inputs"),
        (
            'input { name: "abc" } model_warmup { inputs { key: "abd" value { data_type: TYPE_FP32 '
            "zero_data: true } } }",
            "there is no input 'abd'; did you mean abc?",
        ),
        (
            'model_warmup { inputs { key: "x" '
            'value { data_type: TYPE_FP32 dims: 4 input_data_file: "row" } } }',
            "input_data_file: row has 12 bytes, 16 expected for [4]",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 input_data_file: "rows" } } }',
            "rows: no such file; did you mean row?",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 input_data_file: "none" } } }',
            "none: no such file; it is looked for in warmup/ in the model's folder",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 1 } } }',
            "no data; say zero_data: true, random_data: true or input_data_file",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 zero_data: true '
            "dims: [ 1000000, 1000 ] } } }",
            "are over 1073741824 bytes",
        ),
        # What is not honoured.
        ("response_cache { enable: true }", "c:1: response_cache: is not supported; answers are not cached"),
        ("optimization { graph { level: 1 } }", "optimization.graph: is not supported"),
        (
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }',
            "gpu_execution_accelerator[0]: is not supported; TensorRT, or ONNX Runtime with CUDA, runs",
        ),
        ("instance_group {\n profile: [ '0' ] }", "c:2: instance_group[0].profile: is not supported"),
        ("optimization { cuda { graph_spec { } } }", "optimization.cuda.graph_spec[0]: is not supported"),
        ("optimization { cuda { busy_wait_events: true } }", "cuda.busy_wait_events: is not supported"),
        ('input { name: "x" allow_ragged_batch: true }', "input[0].allow_ragged_batch: is not supported"),
        ('ensemble_scheduling { step { model_name: "a" } }', "ensemble_scheduling: is not supported"),
        ('cc_model_filenames { key: "7.5" value: "m" }', "cc_model_filenames: is not supported"),
        ('runtime: "x"', "runtime: is not supported"),
        (
            'backend: "onnxruntime" parameters { key: "session.x" value { string_value: "1" } }',
            'parameters["session.x"]: this option of ONNX Runtime is not supported; '
            "remove it; only intra_op_thread_count can be set",
        ),
        (
            'backend: "onnxruntime" parameters { key: "execution_mode" value { string_value: "1" } }',
            "parameters[\"execution_mode\"]: '1' came, 0 is what is done here; remove it",
        ),
        (
            f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{"9" * 5000}" }} }}',
            "came, 0 (a thread for each core) to 1024 expected",
        ),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "two" } }',
            "'two' came, 0 (a thread for each core) to 1024 expected",
        ),
        (
            'backend: "python" parameters { key: "EXECUTION_ENV_PATH" value { string_value: "e" } }',
            "install what the model needs beside the server",
        ),
    ],
)
def test_what_is_wrong_is_told_with_line_and_field(folder: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        given_by(folder, text)
    told = str(caught.value).replace("config.pbtxt", "c")
    assert expected in told


def test_all_problems_are_told_at_once_in_the_order_of_their_lines(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        given_by(
            folder,
            'max_batch: 1\nname: "n"\nresponse_cache { enable: true }\nmax_batch_size: x\n'
            "input {\n  dims: 0\n}\n",
        )
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [
        (1, "max_batch"),
        (2, "name"),
        (3, "response_cache"),
        (4, "max_batch_size"),
        (5, "input[0].name"),
        (6, "input[0].dims[0]"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff", "config.pbtxt: no UTF-8 text: invalid start byte in line 1"),
        (b'name: "m"\n\xff', "config.pbtxt: no UTF-8 text: invalid start byte in line 2"),
        (b"#" * (5 << 20), "config.pbtxt: larger than 4194304 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_told(folder: Path, content: bytes, expected: str) -> None:
    (folder / "config.pbtxt").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        read(folder, "m")


def test_what_is_no_file_is_told(folder: Path) -> None:
    (folder / "config.pbtxt").mkdir()
    with pytest.raises(ConfigError, match=r"config.pbtxt: not a regular file"):
        read(folder, "m")


def test_a_callers_json_is_checked_alike(folder: Path) -> None:
    given = from_json('{"max_batch_size": 0, "instanceGroup": [{"count": 2}]}', folder, "m")
    assert given.declaration.max_batch_size == 0
    assert given.settings.instances == 2
    with pytest.raises(ConfigError) as caught:
        from_json('{"name": "n", "output": [{"name": "y", "label_filename": "../secret"}]}', folder, "m")
    told = str(caught.value)
    assert "config override: name: 'n' came" in told
    assert "config override: output[0].label_filename: '../secret' leads out of the model's folder" in told


UNKNOWN_FIELDS = [f"input_{number}" for number in range(20_000)]


@pytest.mark.parametrize(
    "reading",
    [
        lambda folder: from_json(json.dumps(dict.fromkeys(UNKNOWN_FIELDS, 1)), folder, "m"),
        lambda folder: read(folder, "m"),
        lambda folder: from_json(json.dumps({"instance_group": [{"count": -1}] * 1000}), folder, "m"),
    ],
    ids=["json", "text", "values"],
)
def test_after_many_problems_the_rest_is_not_looked_at(
    folder: Path, reading: Callable[[Path], object]
) -> None:
    (folder / "config.pbtxt").write_text("".join(f"{name}: 1\n" for name in UNKNOWN_FIELDS))
    with pytest.raises(ConfigError, match="after 100 problems the rest was not looked at") as caught:
        reading(folder)
    assert len(caught.value.problems) == 101


def test_a_callers_json_has_a_size_that_is_read_in_seconds(folder: Path) -> None:
    with pytest.raises(ConfigError, match="1048577 characters came, at most 1048576 are read"):
        from_json("{}".ljust(1048577), folder, "m")
    assert from_json("{}".ljust(1048576), folder, "m").message == ModelConfig()


def test_names_given_twice_are_looked_for_in_one_pass(folder: Path) -> None:
    """Looking for each among all others, fifty thousand took a minute."""
    names = [f'"key{number}": 1' for number in range(50_000)]
    with pytest.raises(ConfigError, match=r"given twice: key0, key1, \S+ \S+ \S+ \S+ \S+ \S+ \S+ \S+$"):
        from_json("{" + ", ".join(names + names[:20]) + "}", folder, "m")
