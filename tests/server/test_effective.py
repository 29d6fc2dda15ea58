"""The configuration in force: what was said and what was derived; and that it can be read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.core.model import Limits
from headrace_server.models.effective import effective
from headrace_server.models.model_config import GivenConfig, from_json, read
from headrace_server.models.model_config_problems import ConfigError
from headrace_server.models.settlement import load_declared, settle

LIMITS = Limits(max_queue_size=77)


@pytest.fixture
def folder(models, tmp_path: Path) -> Path:
    (tmp_path / "mlp" / "1").mkdir(parents=True)
    shutil.copy(models.mlp(), tmp_path / "mlp" / "1" / "model.onnx")
    (tmp_path / "mlp" / "labels.txt").write_text("a\nb\nc\n")
    return tmp_path / "mlp"


def in_force(folder: Path, given: GivenConfig) -> config_pb.ModelConfig:
    loaded = load_declared(folder / "1", given, max_batch_size=8)
    try:
        settled = settle(given, loaded.engine)
        message = effective(settled, "mlp", loaded.engine.spec, loaded.engine.platform, LIMITS, loaded.places)
    finally:
        loaded.close()
    return config_pb.ModelConfig.FromString(message)


DERIVED = """
name: "mlp" platform: "onnxruntime_onnx" backend: "onnxruntime" default_model_filename: "model.onnx"
max_batch_size: 8 version_policy { latest { num_versions: 1 } }
input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 3 }
instance_group { name: "mlp_0" kind: KIND_CPU count: 1 }
dynamic_batching { default_queue_policy { allow_timeout_override: true max_queue_size: 77 } }
"""


def test_everything_is_derived_where_nothing_was_said(folder: Path) -> None:
    assert in_force(folder, GivenConfig()) == text_format.Parse(DERIVED, config_pb.ModelConfig())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size: 3", "max_batch_size: 3"),
        ("instance_group { count: 2 } instance_group { }", "instance_group { count: 3 kind: KIND_CPU }"),
        ("version_policy { all { } }", "version_policy { all { } }"),
        (
            'output { name: "y" label_filename: "labels.txt" }',
            'output { name: "y" label_filename: "labels.txt" data_type: TYPE_FP32 dims: 3 }',
        ),
        (
            'input { name: "x" dims: [ 2, 2 ] reshape { shape: 4 } }',
            'input { name: "x" dims: [ 2, 2 ] reshape { shape: 4 } data_type: TYPE_FP32 }',
        ),
        (
            "dynamic_batching { preferred_batch_size: [ 4, 2 ] priority_levels: 2 default_priority_level: 1 "
            "default_queue_policy { max_queue_size: 5 } }",
            "dynamic_batching { preferred_batch_size: [ 2, 4 ] priority_levels: 2 default_priority_level: 1 "
            "default_queue_policy { max_queue_size: 5 allow_timeout_override: false } }",
        ),
        (
            'parameters { key: "colour" value { string_value: "red" } }',
            'parameters { key: "colour" value { string_value: "red" } }',
        ),
    ],
)
def test_what_was_said_is_told(folder: Path, text: str, expected: str) -> None:
    (folder / "config.pbtxt").write_text(text)
    found = in_force(folder, read(folder, "mlp"))
    for field, value in text_format.Parse(expected, config_pb.ModelConfig()).ListFields():
        told = getattr(found, field.name)
        if field.is_repeated and field.name == "instance_group":
            assert (told[0].count, told[0].kind) == (value[0].count, value[0].kind)
        else:
            assert told == value


def test_a_model_without_a_batch_axis_has_no_batching(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("max_batch_size: 0")
    found = in_force(folder, read(folder, "mlp"))
    assert (found.max_batch_size, list(found.input[0].dims)) == (0, [-1, 4])
    assert not found.HasField("dynamic_batching")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_batch_size: 0",
        "max_batch_size: 3 instance_group { count: 2 }",
        'input { name: "x" dims: [ 2, 2 ] reshape { shape: 4 } } '
        'output { name: "y" label_filename: "labels.txt" }',
        "dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 9 preserve_ordering: true"
        " }",
        'model_warmup { name: "w" inputs { key: "x" '
        "value { data_type: TYPE_FP32 dims: 4 random_data: true } } }",
        "version_policy { specific { versions: 1 } }",
    ],
)
def test_what_is_told_can_be_read_back_and_tells_the_same(folder: Path, text: str) -> None:
    (folder / "config.pbtxt").write_text(text)
    first = in_force(folder, read(folder, "mlp"))
    (folder / "config.pbtxt").write_text(text_format.MessageToString(first))
    assert in_force(folder, read(folder, "mlp")) == first
    for names in (True, False):
        document = json_format.MessageToJson(
            first, preserving_proto_field_name=names, always_print_fields_with_no_presence=True
        )
        assert in_force(folder, from_json(document, folder, "mlp")) == first


PARTS = (
    "max_batch_size: 4", "max_batch_size: 0", "max_batch_size: 1", 'input { name: "x" }',
    'input { name: "x" dims: [ 2, 2 ] reshape { shape: 4 } }', 'input { name: "x" dims: [ -1, 4 ] }',
    'output { name: "y" label_filename: "labels.txt" }', "dynamic_batching { }",
    "dynamic_batching { preferred_batch_size: [ 4, 2 ] max_queue_delay_microseconds: 5 }",
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 "
    "priority_queue_policy { key: 1 value { max_queue_size: 3 } } }",
    "dynamic_batching { default_queue_policy { timeout_action: DELAY } preserve_ordering: true }",
    "instance_group { count: 2 }", 'instance_group { } instance_group { count: 3 name: "z" }',
    "version_policy { all { } }", "version_policy { latest { } }", 'metric_tags { key: "a" value: "b" }',
    'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }',
    'parameters { key: "intra_op_thread_count" value { string_value: "2" } }',
    "response_cache { enable: false }", 'backend: "onnxruntime"', 'name: "mlp"',
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(PARTS), max_size=6, unique=True))
def test_whatever_is_told_can_be_read_back_and_tells_the_same(folder: Path, parts: list[str]) -> None:
    (folder / "config.pbtxt").write_text("\n".join(parts))
    try:
        first = in_force(folder, read(folder, "mlp"))
    except ConfigError:
        return  # two of the parts, or one and the model, exclude each other
    (folder / "config.pbtxt").write_text(text_format.MessageToString(first))
    assert in_force(folder, read(folder, "mlp")) == first
