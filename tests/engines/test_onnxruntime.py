from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from headrace_engines.errors import ExecutionError, ModelFileError, UnsupportedModelError
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.spec import ANY, ModelSpec, TensorSpec


@contextmanager
def opened(path: Path, max_batch_size: int = 64) -> Iterator[OnnxRuntimeEngine]:
    with closing(OnnxRuntimeEngine(path, max_batch_size=max_batch_size)) as engine:
        yield engine


def staged(engine: OnnxRuntimeEngine, *arrays: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Send arrays through the staging buffers."""
    rows = len(arrays[0])
    for buffer, array in zip(engine.inputs(0), arrays, strict=True):
        buffer[:rows] = array
    engine.submit(0, rows)
    return engine.wait(0)


def test_spec_of_a_batched_model(models):
    with opened(models.mlp((4, 8, 3)), 48) as engine:
        assert engine.spec == ModelSpec(
            inputs=(TensorSpec("x", np.dtype(np.float32), (4,)),),
            outputs=(TensorSpec("y", np.dtype(np.float32), (3,)),),
            max_batch_size=48,
            batch_sizes=(1, 2, 4, 8, 16, 32, 48),
        )
        assert engine.platform == "onnxruntime_onnx"
        assert engine.slots == 1


def test_every_number_of_rows_answers_as_run_does(models):
    with opened(models.mlp((4, 8, 3))) as engine:
        x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
        for rows in range(1, 65):
            (y,) = staged(engine, x[:rows])
            np.testing.assert_array_equal(y, engine.run([x[:rows]])[0])


def test_staging_buffers_stay_where_they_are(models):
    with opened(models.embedding()) as engine:
        first = engine.inputs(0)
        assert [(b.shape, b.dtype) for b in first] == [((64, 3), np.float32), ((64,), np.int64)]
        assert all(b.ctypes.data % 64 == 0 and b.flags.c_contiguous and b.flags.writeable for b in first)
        staged(engine, np.ones((5, 3), np.float32), np.ones(5, np.int64))
        assert all(before is now for before, now in zip(first, engine.inputs(0), strict=True))


def test_rows_left_from_an_earlier_batch_are_not_answered(models):
    with opened(models.unary("Neg", TensorProto.FLOAT)) as engine:
        staged(engine, np.full((64, 3), 7, np.float32))
        (y,) = staged(engine, np.ones((2, 3), np.float32))
        np.testing.assert_array_equal(y, np.full((2, 3), -1, np.float32))


@pytest.mark.parametrize("rows", [0, -1, 65, 1_000_000])
def test_rows_that_the_buffers_do_not_have_are_refused(models, rows):
    with opened(models.mlp()) as engine:
        with pytest.raises(ValueError, match=f"{rows} rows were submitted, expected 1 to 64"):
            engine.submit(0, rows)
        (y,) = staged(engine, np.zeros((64, 4), np.float32))
        assert y.shape == (64, 3)


def test_several_inputs_and_outputs_of_several_types(models):
    with opened(models.embedding()) as engine:
        score, label = staged(engine, np.zeros((3, 3), np.float32), np.array([0, 3, 6]))
        np.testing.assert_array_equal(score, [[0, 1, 2], [9, 10, 11], [18, 19, 20]])
        np.testing.assert_array_equal(label, [2, 2, 2])
        assert label.dtype == np.int64


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, helper.tensor_dtype_to_np_dtype(kind)) for kind in (
        TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
        TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
        TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16,
    )],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("fixed", [True, False])
def test_every_datatype_passes_both_ways(models, kind, dtype, fixed):
    rows = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    path = models.unary("Identity", kind) if fixed else models.compressed(kind)
    expected = rows if fixed else rows[:, ::2]
    with opened(path) as engine:
        assert engine.spec.inputs[0].dtype == engine.spec.outputs[0].dtype == dtype
        assert engine.spec.outputs[0].is_fixed is fixed
        for (answer,) in (engine.run([rows]), staged(engine, rows)):
            assert answer.dtype == dtype
            np.testing.assert_array_equal(answer, expected)


def test_staged_numbers_may_be_answered_by_strings(models):
    path = models.save(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)],
        {"x": (TensorProto.INT64, ("N", 2))},
        {"y": (TensorProto.STRING, ("N", 2))},
    )
    with opened(path) as engine:
        (y,) = staged(engine, np.array([[1, 2], [3, 4]]))
        assert y.tolist() == [["1", "2"], ["3", "4"]]


def test_bfloat16_keeps_its_values(models):
    values = np.array([[1.5, -0.0078125, 3e38]]).astype(ml_dtypes.bfloat16)
    with opened(models.unary("Identity", TensorProto.BFLOAT16)) as engine:
        np.testing.assert_array_equal(engine.run([values])[0], values)
        np.testing.assert_array_equal(engine.run([values[:, ::-1]])[0], values[:, ::-1])


def test_bfloat16_beside_another_datatype(models):
    path = models.save(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        outputs={"y": (TensorProto.BFLOAT16, ("N", 3))},
    )
    x = np.array([[1, 2, 3]], np.float32)
    with opened(path) as engine:
        for (y,) in (engine.run([x]), staged(engine, x)):
            np.testing.assert_array_equal(y, x.astype(ml_dtypes.bfloat16))


def test_strings_come_as_text_or_bytes_and_are_not_staged(models):
    with opened(models.unary("Identity", TensorProto.STRING)) as engine:
        assert engine.spec.inputs[0].dtype == np.dtype(object)
        assert not engine.spec.is_staged
        with pytest.raises(ValueError, match="no staging buffers"):
            engine.inputs(0)
        (y,) = engine.run([np.array([["grün", b"blau", ""]], dtype=object)])
        assert y.tolist() == [["grün", "blau", ""]]


def test_bytes_that_are_no_text_fail_alone(models):
    with opened(models.unary("Identity", TensorProto.STRING)) as engine:
        with pytest.raises(ExecutionError, match="utf-8"):
            engine.run([np.array([["a", b"\xff", "b"]], dtype=object)])
        assert engine.run([np.array([["a", "b", "c"]], dtype=object)])[0].tolist() == [["a", "b", "c"]]


def test_dimensions_that_each_request_chooses(models):
    with opened(models.unary("Relu", TensorProto.FLOAT, ("N", "T", 2), ("N", "T", 2))) as engine:
        assert engine.spec.inputs[0].dims == (ANY, 2)
        assert engine.spec.has_batch_axis
        assert not engine.spec.is_staged
        for shape in ((1, 5, 2), (3, 1, 2)):
            (y,) = engine.run([np.full(shape, -1, np.float32)])
            np.testing.assert_array_equal(y, np.zeros(shape, np.float32))


@pytest.mark.parametrize("dims", [(2, 3), ()], ids=["fixed", "scalar"])
def test_models_without_a_batch_axis(models, dims):
    with opened(models.unary("Neg", TensorProto.FLOAT, dims, dims)) as engine:
        assert engine.spec.max_batch_size == 0
        assert not engine.spec.is_staged
        assert engine.spec.inputs[0].dims == engine.spec.outputs[0].dims == dims
        np.testing.assert_array_equal(engine.run([np.ones(dims, np.float32)])[0], -np.ones(dims))


def test_a_fixed_output_is_no_batch(models):
    path = models.unary("ReduceSum", TensorProto.FLOAT, ("N", 3), (1, 1), keepdims=1)
    with opened(path) as engine:
        assert engine.spec == ModelSpec(
            (TensorSpec("x", np.dtype(np.float32), (ANY, 3)),),
            (TensorSpec("y", np.dtype(np.float32), (1, 1)),),
            0,
        )


def test_inputs_of_different_symbols_have_no_batch_axis(models):
    shape = {"a": (TensorProto.FLOAT, ["N", 3]), "b": (TensorProto.FLOAT, ["M", 3])}
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=0)
    with opened(models.save([node], shape, {"y": (TensorProto.FLOAT, [None, 3])})) as engine:
        assert engine.spec.max_batch_size == 0
        assert engine.run([np.ones((1, 3), np.float32)] * 2)[0].shape == (2, 3)


@pytest.mark.parametrize("out_dims", [None, (None, 2, 2), ("unk_1", 2, 2)])
def test_an_unnamed_output_is_proved_by_running(models, out_dims):
    with opened(models.reshaped((-1, 2, 2), out_dims)) as engine:
        assert engine.spec.max_batch_size == 64
        (y,) = staged(engine, np.arange(12, dtype=np.float32).reshape(3, 4))
        np.testing.assert_array_equal(y, np.arange(12, dtype=np.float32).reshape(3, 2, 2))


@pytest.mark.parametrize("out_dims", [None, (None, 2)])
def test_an_unnamed_output_that_does_not_count_rows_is_no_batch(models, out_dims):
    with opened(models.reshaped((-1, 2), out_dims)) as engine:
        assert engine.spec.max_batch_size == 0


def test_a_scalar_output_is_no_batch(models):
    with opened(models.unary("ReduceSum", TensorProto.FLOAT, ("N", 3), (), keepdims=0)) as engine:
        assert engine.spec.max_batch_size == 0


def test_a_failing_batch_leaves_the_engine_whole(models, capfd):
    with opened(models.embedding()) as engine:
        x = np.zeros((2, 3), np.float32)
        for failing in (
            lambda: staged(engine, x, np.array([1, 99])),
            lambda: engine.run([x, np.array([1, 99])]),
        ):
            with pytest.raises(ExecutionError, match=r"indices element out of data bounds, idx=99"):
                failing()
            np.testing.assert_array_equal(staged(engine, x, np.array([0, 1]))[0], [[0, 1, 2], [3, 4, 5]])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param([np.zeros((1, 5), np.float32)], id="dimension"),
        pytest.param([np.zeros((1, 4), np.float64)], id="datatype"),
        pytest.param([np.zeros(4, np.float32)], id="rank"),
        pytest.param([], id="too few"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_an_execution_error(models, arrays):
    with opened(models.mlp()) as engine, pytest.raises(ExecutionError, match=r"ONNX Runtime: \S"):
        engine.run(arrays)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        pytest.param(lambda whole: b"", "the file is empty", id="empty"),
        pytest.param(
            lambda whole: b"PK\x03\x04 something else", "Protobuf parsing failed", id="another format"
        ),
        pytest.param(lambda whole: whole[: len(whole) // 2], "Protobuf parsing failed", id="truncated"),
    ],
)
def test_damaged_files_are_named(models, tmp_path, cut, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(cut(models.mlp((64, 64, 3)).read_bytes()))
    with pytest.raises(ModelFileError, match=f"^model.onnx: .*{message}"):
        OnnxRuntimeEngine(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx: no such file"):
        OnnxRuntimeEngine(tmp_path / "absent.onnx")


def test_what_the_runtime_lacks_is_named(models):
    with pytest.raises(UnsupportedModelError, match=r"Could not find an implementation for Relu"):
        OnnxRuntimeEngine(models.unary("Relu", TensorProto.BFLOAT16))


def test_tensors_that_the_protocol_lacks_are_named(models):
    model = models.save(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)],
        {"x": (TensorProto.FLOAT, ["N", 3])},
        {"y": (TensorProto.FLOAT8E4M3FN, ["N", 3])},
    )
    with pytest.raises(UnsupportedModelError, match=r"tensor 'y' is of type tensor\(float8e4m3fn\)"):
        OnnxRuntimeEngine(model)


def test_the_largest_batch_must_hold_a_row(models):
    with pytest.raises(ValueError, match="max_batch_size is 0, expected at least 1"):
        OnnxRuntimeEngine(models.mlp(), max_batch_size=0)


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    rows=st.integers(1, 16),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_reference(models, widths, rows, seed):
    from headrace_engines.runtime.reference import ReferenceEngine

    path = models.mlp(widths, seed)
    x = np.random.default_rng(seed).standard_normal((rows, widths[0])).astype(np.float32)
    reference = ReferenceEngine(path)
    with opened(path) as engine:
        assert engine.spec == reference.spec
        (expected,) = staged(reference, x)
        (found,) = staged(engine, x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_instances_share_the_session_and_nothing_that_changes(models):
    with opened(models.mlp((4, 8, 3)), 8) as engine, closing(engine.replicate()) as twin:
        x = np.arange(32, dtype=np.float32).reshape(8, 4)
        assert twin.spec == engine.spec
        assert not np.shares_memory(engine.inputs(0)[0], twin.inputs(0)[0])
        engine.inputs(0)[0][:] = x
        engine.submit(0, 8)
        twin.inputs(0)[0][:2] = x[:2] + 1
        twin.submit(0, 2)
        (of_twin,) = twin.wait(0)
        (of_engine,) = engine.wait(0)
        np.testing.assert_array_equal(of_engine, engine.run([x])[0])
        np.testing.assert_array_equal(of_twin, engine.run([x[:2] + 1])[0])


def test_an_instance_goes_on_when_the_one_it_came_from_is_closed(models):
    engine = OnnxRuntimeEngine(models.mlp((4, 8, 3)), max_batch_size=8)
    x = np.ones((2, 4), np.float32)
    (before,) = staged(engine, x)
    before = before.copy()
    twin = engine.replicate()
    engine.close()
    np.testing.assert_array_equal(staged(twin, x)[0], before)
    twin.close()


def test_instances_execute_beside_each_other(models):
    with opened(models.mlp((4, 8, 3)), 8) as engine, closing(engine.replicate()) as twin:
        x = np.arange(32, dtype=np.float32).reshape(8, 4)
        expected = {one: one.run([x * place])[0] for place, one in enumerate((engine, twin), 1)}

        def answers(place_and_engine: tuple[int, OnnxRuntimeEngine]) -> bool:
            place, one = place_and_engine
            return all(np.array_equal(staged(one, x * place)[0], expected[one]) for _ in range(300))

        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(answers, enumerate((engine, twin), 1)))


def test_sessions_bring_no_threads_of_their_own(models):
    def threads() -> set[str]:
        return {entry.name for entry in Path("/proc/self/task").iterdir()}

    path = models.mlp((64, 64, 64))
    with opened(path), ExitStack() as stack:  # what the library starts once is there by now
        before = threads()
        for engine in [stack.enter_context(opened(path)) for _ in range(20)]:
            staged(engine, np.ones((64, 64), np.float32))
        assert threads() <= before
