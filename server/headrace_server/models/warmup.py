"""The first executions of an engine, before any caller waits for one: they cost many times the later ones."""

from __future__ import annotations

import logging

import numpy as np

from headrace_engines.engine import Engine
from headrace_engines.errors import ExecutionError
from headrace_engines.samples import accepted_recipe

_logger = logging.getLogger(__name__)


def warm_up(engine: Engine) -> None:
    """Execute each of the engine's batch sizes once in every slot, on made-up rows that the model takes.

    A model that takes none says so in the log, and is served cold. Raises DeviceError if the engine
    is lost.
    """
    spec = engine.spec
    try:
        recipe = accepted_recipe(spec.inputs, 1 if spec.has_batch_axis else None, engine.run)
        if spec.is_staged:
            random = np.random.default_rng(0)
            rows = recipe.rows(spec.inputs, spec.max_batch_size, random)
            for slot in range(engine.slots):
                for buffer, array in zip(engine.inputs(slot), rows, strict=True):
                    buffer[:] = array
                for size in spec.batch_sizes:
                    engine.submit(slot, size)
                    engine.wait(slot)
    except ExecutionError as error:
        _logger.warning("the model takes no made-up rows, and is served without a warm-up: %s", error)
