"""What configurations that are honoured come to: one row a case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_configs import given_by, model_folder

from headrace_engines.declaration import DeclaredTensor
from headrace_engines.placement import ANYWHERE, Group, Kind, Placement
from headrace_server.core.settings import (
    ControlInput,
    ModelSettings,
    QueuePolicy,
    SequenceControl,
    Sequences,
    TimeoutAction,
)
from headrace_server.models.model_config import read
from headrace_server.models.model_config_versions import VersionPolicy

FP32 = np.dtype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path)


def test_without_a_file_nothing_was_said(folder: Path) -> None:
    given = read(folder, "m")
    assert given.settings == ModelSettings()
    assert given.declaration.max_batch_size is None
    assert given.version_policy.chosen([2, 1]) == (2,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("max_batch_size: 8", {"max_batch_size": 8}),
        ("max_batch_size: 0", {"max_batch_size": 0}),
        ('platform: "onnxruntime_onnx"', {"platform": "onnxruntime_onnx"}),
        ('backend: "onnxruntime"', {"platform": "onnxruntime_onnx"}),
        ('platform: "onnxruntime_onnx" backend: "onnxruntime"', {"platform": "onnxruntime_onnx"}),
        ('backend: "tensorrt"', {"platform": "tensorrt_plan"}),
        ('backend: "python"', {"platform": "python"}),
        ('default_model_filename: "model.onnx"', {"file": ""}),
        ('default_model_filename: "best.onnx"', {"file": "best.onnx"}),
        ('backend: "python" default_model_filename: "model.py"', {"file": "", "platform": "python"}),
        ("model_transaction_policy { decoupled: true }", {"is_decoupled": True}),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] }',
            {"inputs": (DeclaredTensor("x", FP32, (-1, 3)),)},
        ),
        ('input { name: "x" }', {"inputs": (DeclaredTensor("x", None, None),)}),
        (
            'input { name: "x" dims: [ ] optional: true format: FORMAT_NONE }',
            {"inputs": (DeclaredTensor("x", None, (), is_optional=True),)},
        ),
        (
            'input { name: "x" dims: [ 3, 2, 2 ] format: FORMAT_NCHW }',
            {"inputs": (DeclaredTensor("x", None, (3, 2, 2)),)},
        ),
        (
            'output { name: "y" data_type: TYPE_STRING dims: 1 reshape { shape: [ ] } }',
            {"outputs": (DeclaredTensor("y", np.dtype(object), (1,), ()),)},
        ),
    ],
)
def test_what_a_model_is_declared_as(folder: Path, text: str, expected: dict[str, Any]) -> None:
    declaration = given_by(folder, text).declaration
    for name, value in expected.items():
        assert getattr(declaration, name) == value
    usual = type(declaration)()
    for name in ("inputs", "outputs", "max_batch_size", "file", "platform", "is_decoupled"):
        if name not in expected:
            assert getattr(declaration, name) == getattr(usual, name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dynamic_batching { }", {}),
        (
            "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 8, 4, 8 ] preserve_ordering: true "
            "max_queue_delay_microseconds: 100 }",
            {"preferred_batch_sizes": (4, 8), "max_queue_delay_us": 100, "preserve_ordering": True},
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 default_queue_policy { } "
            "priority_queue_policy { key: 2 value { timeout_action: DELAY default_timeout_microseconds: 5 "
            "allow_timeout_override: true max_queue_size: 3 } } }",
            {
                "priority_levels": 2,
                "default_priority": 1,
                "default_policy": QueuePolicy(0, 0, False),
                "policies": {2: QueuePolicy(3, 5, True, TimeoutAction.DELAY)},
            },
        ),
        ("instance_group { count: 2 kind: KIND_CPU } instance_group { }", {"instances": 3}),
        ('backend: "python" instance_group { kind: KIND_MODEL }', {"instances": 1}),
        (
            'output { name: "y" label_filename: "labels.txt" }',
            {"labels": {"y": ("cat", "dog", "", "bird")}},
        ),
        (
            "sequence_batching { direct { max_queue_delay_microseconds: 7 minimum_slot_utilization: 0.5 } "
            'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START '
            "int32_false_true: [ 0, 5 ] } } "
            'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } } }',
            {
                "sequences": Sequences(
                    1_000_000,
                    7,
                    0.5,
                    (
                        ControlInput("START", SequenceControl.START, "INT32", 0, 5),
                        ControlInput("ID", SequenceControl.CORRID, "BYTES"),
                    ),
                )
            },
        ),
        (
            "sequence_batching { max_sequence_idle_microseconds: 9 }",
            {"sequences": Sequences(9)},
        ),
        ("model_transaction_policy { decoupled: true }", {"is_decoupled": True}),
        ('metric_tags { key: "team" value: "vision" }', {"metric_tags": {"team": "vision"}}),
        ("response_cache { enable: false }", {}),
        ("optimization { input_pinned_memory { enable: true } priority: PRIORITY_DEFAULT }", {}),
    ],
)
def test_how_a_model_is_scheduled(folder: Path, text: str, expected: dict[str, Any]) -> None:
    found = given_by(folder, text).settings
    for name, value in expected.items():
        assert getattr(found, name) == value
    usual = ModelSettings()
    for name in ModelSettings.__slots__:
        if name not in expected:
            assert getattr(found, name) == getattr(usual, name)


@pytest.mark.parametrize(
    ("text", "policy", "chosen"),
    [
        ("", VersionPolicy(1), (7,)),
        ("version_policy { latest { } }", VersionPolicy(1), (7,)),
        ("version_policy { latest { num_versions: 2 } }", VersionPolicy(2), (2, 7)),
        ("version_policy { latest { num_versions: 9 } }", VersionPolicy(9), (1, 2, 7)),
        ("version_policy: { all { } }", VersionPolicy(None), (1, 2, 7)),
        ("version_policy { specific { versions: [ 7, 1 ] } }", VersionPolicy(specific=(1, 7)), (1, 7)),
    ],
)
def test_which_versions_are_served(
    folder: Path, text: str, policy: VersionPolicy, chosen: tuple[int, ...]
) -> None:
    given = given_by(folder, text)
    assert given.version_policy.chosen([7, 2, 1]) == chosen
    if policy.latest != 1:
        assert given.version_policy == policy


def test_samples_of_warm_ups_are_read(folder: Path) -> None:
    given = given_by(
        folder,
        'model_warmup { name: "w" batch_size: 2 count: 3 '
        'inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 input_data_file: "row" } } '
        'inputs { key: "y" value { data_type: TYPE_INT8 dims: [ ] zero_data: true } } }',
    )
    (sample,) = given.warmups
    assert (sample.name, sample.rows, sample.count) == ("w", 2, 3)
    by_name = {tensor.name: tensor for tensor in sample.inputs}
    assert by_name["x"].file == folder / "warmup" / "row"
    assert by_name["y"].dims == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ANYWHERE),
        ("instance_group { count: 2 }", Placement(groups=(Group(2),))),
        (
            "instance_group { kind: KIND_CPU } instance_group { count: 2 }",
            Placement(Kind.CPU, (Group(), Group(2))),
        ),
        ('backend: "python" instance_group { kind: KIND_MODEL }', Placement(Kind.CPU)),
        (
            "instance_group { kind: KIND_GPU gpus: [ 1, 0 ] } instance_group { count: 3 }",
            Placement(Kind.GPU, (Group(1, (1, 0)), Group(3))),
        ),
    ],
)
def test_where_instances_are_to_run(folder: Path, text: str, expected: Placement) -> None:
    assert given_by(folder, text).placement == expected


@pytest.mark.parametrize(
    ("text", "graphs"),
    [
        ("", True),
        ("optimization { input_pinned_memory { enable: true } }", True),
        ("optimization { cuda { graphs: true } }", True),
        ("optimization { cuda { graphs: false } }", False),
        ("optimization { cuda { output_copy_stream: true } }", False),
    ],
)
def test_whether_batches_are_graphs_on_a_gpu(folder: Path, text: str, graphs: bool) -> None:
    assert given_by(folder, text).declaration.cuda_graphs is graphs
