"""Pictures: as rows, and their preprocessing inside a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from headrace_engines.data.load import load
from headrace_engines.data.options import Data, DataOptions, Pixels
from headrace_engines.data.pictures import layout
from headrace_engines.data.preprocess import fold
from headrace_engines.errors import DataError, UnsupportedModelError
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.spec import ANY, TensorSpec

_FIRST = TensorSpec("image", np.dtype(np.float32), (3, 8, 6))
_LAST = TensorSpec("image", np.dtype(np.uint8), (8, 6, 3))


def _load(folder: Path, tensor: TensorSpec, pixels: Pixels = Pixels(), most_rows: int = 100) -> Data:  # noqa: B008 - it is frozen
    options = DataOptions(str(folder), pixels=pixels, most_rows=most_rows)
    return load(options, [tensor], lambda arrays: arrays)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of pictures 12 wide and 16 high: red on the left half, and green."""
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra `data`")
    for name, channel in (("green", 1), ("red", 0)):
        (tmp_path / name).mkdir()
        for number in range(3):
            array = np.zeros((16, 12, 3), np.uint8)
            array[:, :6, channel] = 200 + number
            image.fromarray(array).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_folders_are_classes_and_layouts_are_those_of_the_input(pictures: Path) -> None:
    first = _load(pictures, _FIRST)
    last = _load(pictures, _LAST)
    assert first.labels is not None
    assert first.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert first.rows["image"].shape == (6, 3, 8, 6)
    assert last.rows["image"].dtype == np.uint8
    np.testing.assert_allclose(first.rows["image"].transpose(0, 2, 3, 1) * 255, last.rows["image"], atol=1e-3)
    assert last.rows["image"][3, 0, 0].tolist() == [200, 0, 0]
    assert last.rows["image"][3, 0, 5].tolist() == [0, 0, 0]


def test_pixels_become_what_was_told(pictures: Path) -> None:
    plain = _load(pictures, _LAST).rows["image"].transpose(0, 3, 1, 2)
    pixels = Pixels(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.5))
    told = _load(pictures, _FIRST, pixels).rows["image"]
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (pixels.mean, pixels.std))
    np.testing.assert_allclose(told, (plain / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_the_middle_is_cut_out_of_what_was_made_smaller(pictures: Path) -> None:
    square = TensorSpec("image", np.dtype(np.uint8), (4, 4, 3))
    assert _load(pictures, square, Pixels(resize=6)).rows["image"].shape == (6, 4, 4, 3)
    with pytest.raises(DataError, match="a shorter side of 3 pixels is less"):
        _load(pictures, square, Pixels(resize=3))


def test_of_many_pictures_some_are_drawn(pictures: Path) -> None:
    drawn = _load(pictures, _LAST, most_rows=4)
    assert len(drawn.rows["image"]) == 4
    assert drawn.labels is not None
    assert len(drawn.labels) == 4


def test_pictures_that_cannot_be_used(pictures: Path) -> None:
    (pictures / "red" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3\.png: no picture that can be read"):
        _load(pictures, _FIRST)
    (pictures / "red" / "3.png").rename(pictures / "3.png")
    with pytest.raises(DataError, match=r"'3\.png' lies beside the folders of classes"):
        _load(pictures, _FIRST)


def test_numbers_for_other_channels_are_refused(pictures: Path) -> None:
    with pytest.raises(DataError, match="--mean: 2 numbers for pictures of 3 channels"):
        _load(pictures, _FIRST, Pixels(mean=(1.0, 2.0)))


@pytest.mark.parametrize("dims", [(5, 8, 8), (3, ANY, ANY), (10,), (3, 3, 8, 8)])
def test_an_input_that_takes_no_pictures(dims: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="pictures do not fit input 'image'"):
        layout(TensorSpec("image", np.dtype(np.float32), dims))


def _means(dims: list[int]) -> onnx.ModelProto:
    """A model that answers each channel's mean."""
    axes = [2, 3] if dims[0] == 3 else [1, 2]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0)],
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *dims])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _answers(model: onnx.ModelProto, path: Path, rows: NDArray[np.generic]) -> NDArray[np.generic]:
    path.write_bytes(model.SerializeToString())
    engine = OnnxRuntimeEngine(path)
    try:
        assert engine.spec.inputs[0].dims == rows.shape[1:]
        assert engine.spec.inputs[0].dtype == rows.dtype
        return engine.run([rows])[0]
    finally:
        engine.close()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dims", [[3, 8, 6], [8, 6, 3]])
@pytest.mark.parametrize(
    "pixels", [Pixels(), Pixels(1 / 127.5, (1.0,), (2.0,)), Pixels(1 / 255, (0.1, 0.2, 0.3))]
)
def test_folded_preprocessing_answers_as_preprocessing_before(
    pixels: Pixels, dims: list[int], channels_last: bool, tmp_path: Path
) -> None:
    taken = np.random.default_rng(0).integers(256, size=(5, *dims)).astype(np.uint8)
    at = 1 if dims[0] == 3 else 3
    shape = [1, 1, 1, 1]
    shape[at] = -1
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (pixels.mean, pixels.std))
    before = (taken * np.float32(pixels.scale) - mean) / std
    expected = _answers(_means(dims), tmp_path / "plain.onnx", before)
    sent = taken.transpose(0, 2, 3, 1) if channels_last and at == 1 else taken
    folded = fold(_means(dims), "image", pixels, channels_last=channels_last)
    found = _answers(folded, tmp_path / "folded.onnx", np.ascontiguousarray(sent))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_folded_into_what_takes_no_pictures() -> None:
    with pytest.raises(
        UnsupportedModelError, match="there is no input 'picture' to preprocess; there are 'image'"
    ):
        fold(_means([3, 8, 6]), "picture", Pixels(), channels_last=False)
    model = _means([3, 8, 6])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(UnsupportedModelError, match="is no picture in FP32"):
        fold(model, "image", Pixels(), channels_last=False)
