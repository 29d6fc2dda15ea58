"""The first executions of an engine, before any caller waits for one: they cost many times the later ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.engine import Engine
from headrace_engines.errors import DeviceError, EngineError, EngineSpoilt, ExecutionError, MemoryExhausted
from headrace_engines.samples import Floats, Recipe, accepted_recipe
from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_engines.steps import Call, SequenceTurn, StepEngine
from headrace_proto.tensors import datatype_of, from_raw
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.settings import Sequences
from headrace_server.models.model_config_warmup import Filling, Warmup, WarmupInput

_logger = logging.getLogger(__name__)

_RANDOM_BOUND = 10
"""Random integers of samples lie below it, so that most models take them for indices."""


def warm_up(
    engine: Engine | StepEngine, warmups: Sequence[Warmup] = (), sequences: Sequences | None = None
) -> None:
    """Execute the samples, and each of the engine's batch sizes once in every slot, on made-up rows.

    A model that takes no made-up rows says so in the log. A program gets the samples alone, since its
    executions may have effects; where it has `sequences`, each sample is one. Raises EngineError
    naming a sample that fails, or where memory does not suffice, EngineSpoilt if the engine has to be renewed
    first, DeviceError if it is lost.
    """
    if not isinstance(engine, StepEngine):
        _execute_made_up_rows(engine)
    for sample in warmups:
        try:
            arrays = _arrays(sample, engine.spec)
            for _ in range(sample.count):
                _execute(engine, sample, arrays, sequences)
        except (DeviceError, EngineSpoilt):
            raise
        except (EngineError, OSError, ValueError) as error:
            raise EngineError(f"warm-up sample {sample.name!r} failed: {error}") from error


def _execute_made_up_rows(engine: Engine) -> None:
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
        # Where the sizes are the model's own, those of callers will fare no better.
        if isinstance(error, MemoryExhausted) and all(tensor.is_fixed for tensor in spec.inputs):
            most = max(1, spec.max_batch_size)
            raise EngineError(f"warm-up with batches of up to {most} rows failed: {error}") from error
        _logger.warning("the model takes no made-up rows, and is served without a warm-up: %s", error)


def _arrays(sample: Warmup, spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """Return the sample's inputs by name, each of its rows the same."""
    arrays = {}
    for tensor in sample.inputs:
        row = _row(tensor)
        arrays[tensor.name] = np.repeat(row[np.newaxis], sample.rows, axis=0) if spec.has_batch_axis else row
    return arrays


def _row(tensor: WarmupInput) -> NDArray[Any]:
    if tensor.file is not None:
        return from_raw(tensor.file.read_bytes(), datatype_of(tensor.dtype), tensor.dims)
    if tensor.filling is Filling.ZEROS:
        fill: Any = b"" if tensor.dtype == np.dtype(object) else 0
        return np.full(tensor.dims, fill, tensor.dtype)
    recipe = Recipe(Floats.NORMAL, _RANDOM_BOUND, any_size=1)
    spec = TensorSpec(tensor.name, tensor.dtype, tensor.dims)
    drawn = recipe.rows([spec], None, np.random.default_rng(0))[0]
    if tensor.dtype == np.dtype(object):
        encoded = [text.encode() for text in drawn.ravel()]  # strings of callers are bytes
        return np.array(encoded, object).reshape(drawn.shape)
    return drawn


def _execute(
    engine: Engine | StepEngine,
    sample: Warmup,
    arrays: Mapping[str, NDArray[Any]],
    sequences: Sequences | None,
) -> None:
    if not isinstance(engine, StepEngine):
        engine.run([arrays.get(tensor.name) for tensor in engine.spec.inputs])
        return
    turn = None
    if sequences is not None:
        turn = SequenceTurn(1, start=True, end=True)
        controls = SequenceControls(sequences, has_batch_axis=engine.spec.has_batch_axis)
        arrays = {**arrays, **controls.inputs(turn)}
    try:
        outcomes = list(engine.execute([Call(sample.name, sample.rows, arrays, sequence=turn)]))
    except DeviceError:
        raise
    except Exception as error:  # whatever a program raises fails its own version
        raise ExecutionError(f"{type(error).__name__}: {error}") from error
    for outcome in outcomes:
        if isinstance(outcome.outputs, ExecutionError):
            raise outcome.outputs
