"""INT8 by static quantisation: scales are fixed beforehand, from rows that the model is shown.

Scales that are computed from each batch (dynamic quantisation) would let one row change the answers
of its neighbours, so they are never used here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from headrace_engines.compress.recipes import Quantisation
from headrace_engines.rows import Rows

_CALIBRATION_BATCH = 64


def quantise(model: Path, quantised: Path, how: Quantisation, calibration: Rows) -> None:
    """Write the model of the file `model` in INT8 to the file `quantised`.

    The same model, rows and versions of the libraries give the same bytes.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared)
        quantize_static(
            prepared,
            quantised,
            _CalibrationRows(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_operators(how),
            per_channel=True,
            activation_type=QuantType.QUInt8 if how.unsigned_activations else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": not how.unsigned_activations,
                "WeightSymmetric": True,
                "QuantizeBias": how.quantised_bias,
                "OpTypesToExcludeOutputQuantization": list(how.float_outputs),
            },
        )


def _operators(how: Quantisation) -> list[str]:
    known = how.only or {*QDQRegistry, *QLinearOpsRegistry}
    return sorted(set(known) - set(how.never))


class _CalibrationRows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Rows in the way that the library asks for them: a batch at each call, None at the end."""

    def __init__(self, rows: Rows) -> None:
        self._batches = _batches(rows)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


def _batches(rows: Rows) -> Iterator[dict[str, NDArray[Any]]]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, _CALIBRATION_BATCH):
        yield {name: array[start : start + _CALIBRATION_BATCH] for name, array in rows.items()}
