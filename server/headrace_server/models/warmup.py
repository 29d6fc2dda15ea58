"""The first executions of an engine, before any caller waits for one: they cost many times the later ones."""

from __future__ import annotations

import logging

import numpy as np

from headrace_engines.engine import Engine
from headrace_engines.errors import ExecutionError
from headrace_engines.spec import ANY

_logger = logging.getLogger(__name__)


def warm_up(engine: Engine) -> None:
    """Execute each of the engine's batch sizes once, on zeros.

    A model may refuse zeros (an index that must not be 0): it says so in the log and is served cold.
    Raises DeviceError if the engine is lost.
    """
    try:
        if engine.spec.is_staged:
            _staged(engine)
        else:
            _unstaged(engine)
    except ExecutionError as error:
        _logger.warning("the model does not take zeros, and is served without a warm-up: %s", error)


def _staged(engine: Engine) -> None:
    for slot in range(engine.slots):
        for array in engine.inputs(slot):
            array.fill(0)
        for rows in engine.spec.batch_sizes or (1, engine.spec.max_batch_size):
            engine.submit(slot, rows)
            engine.wait(slot)


def _unstaged(engine: Engine) -> None:
    batch = (1,) if engine.spec.has_batch_axis else ()
    arrays = []
    for tensor in engine.spec.inputs:
        shape = (*batch, *(1 if dim == ANY else dim for dim in tensor.dims))
        filler = b"" if tensor.dtype == object else 0
        arrays.append(np.full(shape, filler, tensor.dtype))
    engine.run(arrays)
