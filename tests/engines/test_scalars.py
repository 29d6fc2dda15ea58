from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import Dims, Models

from headrace_engines.errors import ModelFileError
from headrace_engines.runtime.scalars import scalars

SHAPES = st.sampled_from([None, [], ["N", 3], [2], [None]])


@settings(max_examples=40, deadline=None)
@given(st.lists(SHAPES, max_size=4), st.lists(SHAPES, max_size=3))
def test_scalars_are_told_from_what_has_no_shape(
    models: Models, inputs: list[Dims], outputs: list[Dims]
) -> None:
    taken = {f"in{i}": (TensorProto.FLOAT, dims) for i, dims in enumerate(inputs)}
    given = {f"out{i}": (TensorProto.INT64, dims) for i, dims in enumerate(outputs)}
    nodes = [helper.make_node("Relu", ["a"], ["b"], alpha=1.5)]
    path = models.save(nodes, taken, given, {"a": np.ones((64, 64), np.float32)})
    assert scalars(path) == {name for name, (_, dims) in {**taken, **given}.items() if dims == []}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with suppress(ModelFileError):
        scalars(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^absent\.onnx: cannot be read: no such file"):
        scalars(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"\x3a\x05", b"\x80", b"\xff" * 11, b"\x07"])
def test_what_is_no_model_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"^bad\.onnx: not an ONNX model: "):
        scalars(tmp_path / "bad.onnx")
