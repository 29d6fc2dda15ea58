from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from given_configs import given_by
from onnx import TensorProto
from scripted_devices import ScriptedDevice
from scripted_engines import ScriptedEngine

from headrace_engines.declaration import Declaration
from headrace_engines.placement import ANYWHERE
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.runtime.python import PythonEngine
from headrace_server.models.model_config import GivenConfig
from headrace_server.models.model_config_problems import ConfigError
from headrace_server.models.settlement import load_declared, settle

PROGRAM = """
from headrace_engines.python_model import Response, Tensor

class Model:
    inputs = [Tensor("x", "FP32", [2])]
    outputs = [Tensor("y", "FP32", [2])]
    decoupled = True

    def execute(self, batch):
        return []
"""


def program(folder: Path) -> PythonEngine:
    path = folder / "1" / "model.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return PythonEngine(path, Declaration(), max_batch_size=4, version="1")


SAMPLE = (
    'model_warmup {{ name: "w" {} inputs {{ key: "{}" '
    "value {{ data_type: {} dims: {} zero_data: true }} }} }}"
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "dynamic_batching { preferred_batch_size: 16 }",
            "dynamic_batching.preferred_batch_size: 16 is over what the model takes, 8 rows",
        ),
        (
            'parameters { key: "level" value { string_value: "1" } }',
            "this option of ONNX Runtime is not supported",
        ),
        ("instance_group { kind: KIND_MODEL }", "only a Python model chooses for itself where it runs"),
        ("sequence_batching { }", "the model keeps nothing from one request to the next"),
        (SAMPLE.format("", "xx", "TYPE_FP32", "3"), "the model has no input 'xx'; did you mean x?"),
        (SAMPLE.format("", "xx", "TYPE_FP32", "3"), "input 'x' is missing from the sample"),
        (SAMPLE.format("", "x", "TYPE_INT8", "3"), "INT8 came, FP32 expected"),
        (SAMPLE.format("", "x", "TYPE_FP32", "4"), "dims [4] came, [3] expected"),
        (SAMPLE.format("batch_size: 9", "x", "TYPE_FP32", "3"), "9 is more rows than the model takes, 8"),
    ],
)
def test_what_does_not_fit_the_model_is_told_with_its_line(models, tmp_path, text: str, told: str) -> None:
    given = given_by(tmp_path, f"# a comment\n{text}")
    engine = OnnxRuntimeEngine(models.unary("Neg", TensorProto.FLOAT), max_batch_size=8)
    with pytest.raises(ConfigError) as caught:
        settle(given, engine)
    engine.close()
    assert told in str(caught.value)
    assert all(problem.line == 2 for problem in caught.value.problems)


def test_preferred_sizes_that_the_model_cannot_take_are_left_out(models, tmp_path) -> None:
    given = given_by(tmp_path, "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 1, 4 ] }")
    engine = OnnxRuntimeEngine(models.unary("Neg", TensorProto.FLOAT), max_batch_size=1)
    assert settle(given, engine).settings.preferred_batch_sizes == (1,)
    engine.close()


def test_the_parameters_of_a_program_are_its_own(tmp_path) -> None:
    given = given_by(
        tmp_path,
        'parameters { key: "level" value { string_value: "high" } } instance_group { kind: KIND_MODEL }',
    )
    engine = program(tmp_path)
    assert settle(given, engine).declaration.parameters == {"level": "high"}
    engine.close()


def test_a_program_says_itself_that_it_is_decoupled(tmp_path) -> None:
    engine = program(tmp_path)
    assert settle(GivenConfig(), engine).settings.is_decoupled
    engine.close()


def test_a_control_input_is_no_input_of_callers(tmp_path) -> None:
    given = given_by(
        tmp_path,
        'sequence_batching { control_input { name: "x" control { kind: CONTROL_SEQUENCE_START '
        "int32_false_true: [ 0, 1 ] } } }",
    )
    engine = program(tmp_path)
    with pytest.raises(ConfigError, match=r"'x' is an input of the model, which callers fill"):
        settle(given, engine)
    engine.close()


def test_a_program_is_on_no_gpu_of_the_servers_choice(tmp_path) -> None:
    engine = program(tmp_path)
    with pytest.raises(
        ConfigError, match=r"kind: a Python model chooses for itself where it runs; write KIND_"
    ):
        settle(given_by(tmp_path, "instance_group { kind: KIND_GPU }"), engine)
    engine.close()


def test_tensors_reach_a_gpu_through_pinned_memory(tmp_path) -> None:
    given = given_by(tmp_path, "optimization { input_pinned_memory { enable: false } }")
    with pytest.raises(ConfigError, match=r"1: optimization\.input_pinned_memory: tensors reach the GPU thr"):
        settle(given, ScriptedDevice())
    assert settle(given, ScriptedEngine()).placement == ANYWHERE


def test_what_a_machine_lacks_is_told_with_what_else_is_wrong(models, tmp_path) -> None:
    (tmp_path / "1").mkdir()
    shutil.copy(models.unary("Neg", TensorProto.FLOAT), tmp_path / "1" / "model.onnx")
    given = given_by(tmp_path, 'instance_group {\n kind: KIND_GPU }\ninput { name: "x" dims: 9 }')
    with pytest.raises(ConfigError) as caught:
        load_declared(tmp_path / "1", given, max_batch_size=8)
    first, second = map(str, caught.value.problems)
    assert first.startswith("config.pbtxt:2: instance_group[0].kind: there is no GPU to run on (")
    assert second.startswith("config.pbtxt:3: input[0]: 'x': the model has FP32 [3]")
