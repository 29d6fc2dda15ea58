"""From Keras models and TensorFlow SavedModels to ONNX, by tf2onnx.

All of them are one function of named tensors first (`keras_sources`), so that names and the batch are the
same whichever way a model was stored. tf2onnx writes operators of ONNX's own domain, folds the
transposes between TensorFlow's pictures and ONNX's, and recognises LSTM layers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray

from headrace_engines.documents import Scalar
from headrace_engines.errors import InputError, UnsupportedModelError
from headrace_engines.importers import exported, keras_sources
from headrace_engines.importers.canonical import canonise
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.keras_sources import Source
from headrace_engines.importers.reasons import brief
from headrace_engines.rows import Rows

_OPSETS: Final = range(17, 19)
"""What tf2onnx writes, of those that are asked for."""

_ROWS_AT_ONCE: Final = 64
_MOST_PARAMETERS: Final = 2**29
"""Of 32 bits, in the one message that tf2onnx makes."""


def open_source(path: Path, options: ImportOptions) -> KerasImporter:
    """Open a model that Keras or TensorFlow stored, for inference, on one thread."""
    options.check_factory("a model of Keras or TensorFlow")
    with suppress(RuntimeError):  # it was used before in this process, and keeps to what it has
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return KerasImporter(keras_sources.opened(path, options), options.opset)


class KerasImporter:
    """A model of Keras or TensorFlow that is open."""

    def __init__(self, source: Source, opset: int) -> None:
        self._source = source
        self._opset = min(max(opset, _OPSETS.start), _OPSETS.stop - 1)

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """The model's class, the frameworks' versions, and how many parameters there are."""
        facts = self._source.facts
        return {"class": facts.name, "framework": facts.framework, "parameters": facts.parameters}

    def convert(self, path: Path) -> None:
        """Write the model as ONNX; UnsupportedModelError names the operators that have no counterpart."""
        if self._source.facts.parameters > _MOST_PARAMETERS:
            raise UnsupportedModelError(
                f"{self._source.facts.parameters} parameters come to more than 2 GB, which tf2onnx does not "
                "write"
            )
        with _quiet():
            model = self._model()
        nodes = (node for graph in exported.graphs(model.graph) for node in graph.node)
        foreign = {node.op_type for node in nodes if node.domain or not onnx.defs.has(node.op_type)}
        if foreign:
            raise UnsupportedModelError(
                f"ONNX has no operator for TensorFlow's {', '.join(sorted(foreign))}: do without in the model"
            )
        exported.settle(model, self._source.outputs)
        canonise(model)
        exported.save(model, path)

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what TensorFlow answers, some rows at a time; InputError if it does not take them."""
        count = len(next(iter(rows.values())))
        parts: list[list[NDArray[Any]]] = []
        for start in range(0, count, _ROWS_AT_ONCE):
            try:
                tensors = [
                    tf.constant(rows[each.name][start : start + _ROWS_AT_ONCE], each.dtype)
                    for each in self._source.inputs
                ]
                answer = self._source.call(*tensors)
            except (tf.errors.OpError, ValueError, TypeError) as error:
                raise InputError(
                    f"{self._source.facts.name} does not take these rows: {brief(error)}"
                ) from error
            parts.append([answer[name].numpy() for name in self._source.outputs])
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def _model(self) -> onnx.ModelProto:
        try:
            model, _ = tf2onnx.convert.from_function(
                self._source.call, input_signature=self._source.inputs, opset=self._opset
            )
        except Exception as error:  # of many classes
            raise UnsupportedModelError(f"tf2onnx does not convert it: {brief(error)}") from error
        converted: onnx.ModelProto = model
        return converted


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the converter logs of its own work out of the build's words."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
