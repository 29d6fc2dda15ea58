"""Plans: what is said of failures, what may be chosen, and real ones where a library builds them."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.plans import nvidia
from headrace_engines.plans.builder import PlanFacts, build_plan, file_name
from headrace_engines.plans.faults import ParserComplaint, build_failure, parse_failure
from headrace_engines.plans.nvidia import ANY_ARCHITECTURE, RTX, TENSORRT, Library, needed
from headrace_engines.plans.settings import PlanSettings, batch_ranges

_builds = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the package tensorrt_rtx is not installed: pip install tensorrt_rtx",
)
_WEIGHTS = {"w": np.ones((4, 3), np.float32)}


def _model(path: Path, *nodes: onnx.NodeProto, **constants: NDArray[np.generic]) -> Path:
    """A file from x [batch, 4] to y of the nodes' making."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _build(model: Path, into: Path, settings: PlanSettings = PlanSettings()) -> tuple[PlanFacts, list[float]]:  # noqa: B008 - it is frozen
    told: list[float] = []
    facts = build_plan(
        model, into, needed(), settings, caches=into.parent, progress=lambda step, share: told.append(share)
    )
    return facts, told


@_builds
def test_a_plan_is_the_same_each_time(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.onnx", helper.make_node("MatMul", ["x", "w"], ["y"], name="mm"), **_WEIGHTS)
    facts, told = _build(model, tmp_path / "one.plan")
    _build(model, tmp_path / "two.plan")
    content = (tmp_path / "one.plan").read_bytes()
    assert content == (tmp_path / "two.plan").read_bytes()
    assert facts.size_bytes == len(content)
    assert told
    assert all(0 < share <= 1 for share in told)
    if facts.library.name == RTX:
        assert (facts.architecture, facts.profiles) == (ANY_ARCHITECTURE, ((1, 64, 64),))


def _quantised(
    zero_point: NDArray[np.generic],
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantise"),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="mm"),
    ]
    return nodes, {"s": np.array(0.1, np.float32), "z": zero_point, **_WEIGHTS}


@_builds
def test_what_tensorrt_refuses_is_told_by_node(tmp_path: Path) -> None:
    attributes = {"offset": [0.0] * 4, "scale": [1.0] * 4}
    scaler = helper.make_node("Scaler", ["x"], ["y"], name="scaler", domain="ai.onnx.ml", **attributes)
    with pytest.raises(UnsupportedModelError) as unknown:
        _build(_model(tmp_path / "ml.onnx", scaler), tmp_path / "ml.plan")
    assert str(unknown.value) == (
        "ml.onnx: TensorRT's parser refuses node 'scaler' (Scaler): TensorRT does not know this operator; "
        "replace the operator, or build for the CPU alone: --target cpu"
    )
    nodes, constants = _quantised(np.array(3, np.int8))
    with pytest.raises(UnsupportedModelError, match=r"node 'quantise' .*; quantise it symmetrically"):
        _build(_model(tmp_path / "q.onnx", *nodes, **constants), tmp_path / "q.plan")
    (tmp_path / "cut.onnx").write_bytes(b"\x08")
    with pytest.raises(UnsupportedModelError, match=r"cut\.onnx: TensorRT's parser refuses the graph: "):
        _build(tmp_path / "cut.onnx", tmp_path / "cut.plan")
    assert not list(tmp_path.glob("*.plan"))


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        (
            ParserComplaint("dq", "DequantizeLinear", (
                "Invalid Node - dq\nITensor::getDimensions: Error Code 4: API Usage Error (dq: input has "
                "type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8. In checkType at "
                "/_src/optimizer/common/nodeBase.cpp:456)\nError Code 1: Cuda Runtime (In catchCudaError at "
                "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is "
                "insufficient for CUDA runtime version))"
            )),
            "node 'dq' (DequantizeLinear): dq: input has type Int32 but must have type FP8, FP4, Int4, Int8, "
            "or UInt8; leave biases unquantised",
        ),
        (
            ParserComplaint("odd", "Odd", 'creator && "Plugin not found, are the plugin name right?"'),
            "node 'odd' (Odd): TensorRT does not know this operator; replace the operator",
        ),
        (
            ParserComplaint("q", "QuantizeLinear", (
                "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported."
            )),
            "node 'q' (QuantizeLinear): Non-zero zero point is not supported; quantise it symmetrically",
        ),
        (ParserComplaint("", "", "ModelImporter failed"), "the graph: ModelImporter failed"),
    ],
)  # fmt: skip
def test_a_complaint_is_one_line_with_what_to_try(complaint: ParserComplaint, expected: str) -> None:
    line = parse_failure([complaint])
    assert expected in line
    assert "\n" not in line
    assert "/_src" not in line
    assert parse_failure([complaint] * 3).startswith(line.partition(":")[0] + ", and 2 more")


def test_a_failure_without_words_is_told_as_such() -> None:
    assert parse_failure([]) == "TensorRT's parser refused the file and did not say why"
    assert build_failure([]) == "TensorRT could not build a plan: it did not say why"
    text = build_failure(["[E] Error Code 9: Skipping tactic: OutOfMemory", "no implementation for node x"])
    assert text.endswith("no implementation for node x; free GPU memory, or lower the largest batch size")


@given(st.lists(st.integers(1, 512), min_size=1, max_size=8, unique=True).map(sorted))
def test_profiles_cover_each_batch_once(sizes: list[int]) -> None:
    ranges = batch_ranges(tuple(sizes))
    covered = [rows for least, _, most in ranges for rows in range(least, most + 1)]
    assert covered == list(range(1, sizes[-1] + 1))
    assert [best for _, best, _ in ranges] == sizes


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"batch_sizes": ()}, "batch sizes []"),
        ({"batch_sizes": (8, 1)}, "batch sizes [8, 1]: expected ascending"),
        ({"batch_sizes": (0, 1)}, "batch size 0: expected 1 or more"),
        ({"open_sizes": (4, 2, 8)}, "sizes [4, 2, 8]: expected three ascending"),
        ({"optimization_level": 6}, "optimization level 6: expected 0 to 5"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        PlanSettings(**settings)  # type: ignore[arg-type]  # wrong on purpose


def test_a_plan_is_named_after_what_may_load_it() -> None:
    assert (
        file_name("model.fp16", Library(TENSORRT, "10.13.2.6"), "sm90") == "model.fp16.sm90-trt10.13.2.6.plan"
    )
    assert file_name("model", Library(RTX, "1.7.1.116"), "any") == "model.any-rtx1.7.1.116.plan"


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"tensorrt": "10.13.2", "tensorrt-cu13": "10.13.2"}, [Library(TENSORRT, "10.13.2")]),
        ({"tensorrt-cu12": "10.13.2"}, [Library(TENSORRT, "10.13.2")]),
        (
            {"tensorrt-cu13": "11.4.0", "tensorrt-rtx": "1.7.1"},
            [Library(TENSORRT, "11.4.0"), Library(RTX, "1.7.1")],
        ),
        ({}, []),
    ],
)
def test_a_library_is_found_by_whatever_package_brought_it(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, str], found: list[Library]
) -> None:
    def version(distribution: str) -> str:
        if distribution not in there:
            raise metadata.PackageNotFoundError(distribution)
        return there[distribution]

    monkeypatch.setattr(nvidia.metadata, "version", version)
    assert list(nvidia.all_installed()) == found
