"""INT8: static quantisation by scales fixed beforehand, from rows that the model is shown.

Scales that are computed from each batch (dynamic quantisation) let one row change the answers of its
neighbours, so that is for artefacts which are served one row at a time.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from headrace_engines import disk_space
from headrace_engines.compress import graph
from headrace_engines.compress.steps import Calibration, Numbers, Quantise, QuantiseDynamically
from headrace_engines.rows import Rows

_TYPES: Final = {
    Numbers.INT8: QuantType.QInt8,
    Numbers.UINT8: QuantType.QUInt8,
}
_METHODS: Final = {
    Calibration.MIN_MAX: CalibrationMethod.MinMax,
    Calibration.PERCENTILE: CalibrationMethod.Percentile,
    Calibration.ENTROPY: CalibrationMethod.Entropy,
}


def quantise(
    model: onnx.ModelProto, how: Quantise, calibration: Rows, keep: Collection[str]
) -> onnx.ModelProto:
    """Return a prepared model with quantise and dequantise nodes; nodes in `keep` stay in FP32.

    Raises UnsupportedModelError if that leaves nothing to quantise.
    """
    graph.check_weights(model.graph, keep)
    with _files(model) as (source, result), contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            source,
            result,
            _CalibrationRows(graph.batches(calibration, model.graph)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_operators(how, model.graph),
            nodes_to_exclude=sorted(keep),
            per_channel=True,
            activation_type=_TYPES[how.activations],
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[how.calibration],
            extra_options={
                "ActivationSymmetric": how.activations is not Numbers.UINT8,
                "WeightSymmetric": True,
                "QuantizeBias": how.quantised_bias,
                "OpTypesToExcludeOutputQuantization": list(how.float_outputs),
                "CalibStridedMinMax": 1,  # a batch at a time, or all activations were kept in memory
            },
        )
        return onnx.load(result)


def quantise_dynamically(
    model: onnx.ModelProto, how: QuantiseDynamically, keep: Collection[str]
) -> onnx.ModelProto:
    """Return a prepared model with INT8 weights, whose activations get their scales from each batch."""
    graph.check_weights(model.graph, keep)
    with _files(model) as (source, result):
        quantize_dynamic(
            source,
            result,
            op_types_to_quantize=list(how.only),
            per_channel=True,
            weight_type=QuantType.QInt8,
            # It makes a MatMul of each Gemm, and names it so.
            nodes_to_exclude=sorted({*keep, *(f"{name}_MatMul" for name in keep)}),
        )
        return onnx.load(result)


def _operators(how: Quantise, graph_: onnx.GraphProto) -> list[str]:
    chosen = how.only if any(node.op_type == "Conv" for node in graph_.node) else how.dense
    known = chosen or {*QDQRegistry, *QLinearOpsRegistry}
    return sorted(set(known) - set(how.never))


@contextlib.contextmanager
def _files(model: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    """Yield the paths of a file with the model and of one for the result."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        source = Path(folder) / "prepared.onnx"
        onnx.save(model, source)
        try:
            yield source, Path(folder) / "quantised.onnx"
        except Exception as error:
            disk_space.check_after(error, source.parent, source.stat().st_size)
            raise


class _CalibrationRows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Rows in the way that the library asks for them: a batch at each call, None at a range's end."""

    def __init__(self, batches: list[dict[str, NDArray[Any]]]) -> None:
        self._batches = batches
        self._rest = iter(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._rest, None)
