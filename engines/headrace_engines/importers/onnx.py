"""ONNX as it comes: in one file, with its weights in files beside it, or in a folder of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

from headrace_engines.documents import Scalar
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers import exported, model_file, opsets, typical
from headrace_engines.importers.batch_axis import real_inputs
from headrace_engines.importers.exported import BATCH_AXIS
from headrace_engines.importers.importer import OPSET, ImportOptions, standard_path, typical_path
from headrace_engines.importers.onnx_layout import file_of
from headrace_engines.importers.reasons import first_line
from headrace_engines.importers.standard import is_native, standardise
from headrace_engines.importers.standard.graph import ML_DOMAIN
from headrace_engines.printable import printable
from headrace_engines.rows import Rows

_LOG_FATAL: Final = 4


class OnnxImporter:
    """A model that is ONNX already; ONNX Runtime answers for it as it came."""

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self._path = path
        self._session: onnxruntime.InferenceSession | None = None
        self._model = model_file.read(path)
        self._tell_shapes(options.input_shapes)

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """Who wrote it, in which opset, and how large it is."""
        graph = self._model.graph
        return {
            "producer": printable(f"{self._model.producer_name} {self._model.producer_version}".strip()),
            "opset": opsets.opset(self._model),
            "ir_version": self._model.ir_version,
            "operators": len(graph.node),
            "parameters": sum(int(np.prod(tensor.dims)) for tensor in graph.initializer),
        }

    def convert(self, path: Path) -> None:
        """Write the same model, what is of classical machine learning in ONNX's own operators."""
        model = self._model
        if any(node.domain == ML_DOMAIN for node in model.graph.node):
            model = standardise(model, for_cpu=True).model
        exported.save(model, path)
        if any(map(is_native, model.graph.node)):
            exported.save(standardise(model).model, standard_path(path))
        near = typical.rows(self._model)
        if near is not None:
            np.save(typical_path(path), near)

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the file as it came answers, to as many rows at a time as it is fixed at."""
        session = self._session or self._open()
        self._session = session
        first = session.get_inputs()[0].shape[0]
        count = len(next(iter(rows.values())))
        size = first if isinstance(first, int) else count
        parts = [
            session.run(
                None, {name: _filled(array[start : start + size], size) for name, array in rows.items()}
            )
            for start in range(0, count, size)
        ]
        return tuple(
            np.concatenate([_matrix(answer) for answer in answers])[:count]
            for answers in zip(*parts, strict=True)
        )

    def _open(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL
        try:
            return onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except native.NotImplemented as error:
            raise UnsupportedModelError(
                f"ONNX Runtime does not run the model as it came, in opset {opsets.opset(self._model)}, so "
                f"that nothing can be compared with its answers ({first_line(error).rpartition(' : ')[2]}): "
                f"export it with opset {OPSET}"
            ) from error

    def _tell_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Fix the sizes that the file leaves open where others were given for one row."""
        inputs = {value.name: value for value in real_inputs(self._model.graph)}
        for name, dims in shapes.items():
            if name not in inputs:
                known = ", ".join(map(repr, map(printable, inputs)))
                raise UnsupportedModelError(
                    f"the model has no input {printable(name)!r}: its inputs are {known}"
                )
            kind = inputs[name].type.tensor_type
            told = [dim.dim_value for dim in kind.shape.dim[1:]]
            if kind.HasField("shape") and not _fits(dims, told):
                shown = [size or "?" for size in told]
                raise UnsupportedModelError(
                    f"a row of the input {printable(name)!r} is {shown}, and {list(dims)} was given"
                )
            first = [dim.dim_value or dim.dim_param or None for dim in kind.shape.dim[:1]] or [BATCH_AXIS]
            inputs[name].CopyFrom(helper.make_tensor_value_info(name, kind.elem_type, [*first, *dims]))


def open_source(path: Path, options: ImportOptions) -> OnnxImporter:
    """Read the file, or the one in a folder."""
    options.check_factory("a file of ONNX")
    return OnnxImporter(file_of(path), options)


def _fits(dims: Sequence[int], told: Sequence[int]) -> bool:
    return len(dims) == len(told) and all(size in (dim, 0) for dim, size in zip(dims, told, strict=True))


def _filled(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the rows and, where fewer came than the model takes, the last one again."""
    return rows if len(rows) == size else rows[np.minimum(np.arange(size), len(rows) - 1)]


def _matrix(answer: Any) -> NDArray[Any]:
    """Return an answer as rows; ZipMap's are dictionaries, whose order is that of the classes."""
    if isinstance(answer, list):
        return np.array([list(row.values()) for row in answer])
    return np.asarray(answer)
