"""The calls into an execution context, whose refusals are a value and a line for the logger."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from headrace_engines.errors import ExecutionError, MemoryExhausted, UnsupportedModelError
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.runtime.lifetimes import let_go
from headrace_engines.runtime.tensorrt.logger import collected, is_of_memory
from headrace_engines.runtime.tensorrt.plan import LoadedPlan
from headrace_engines.runtime.tensorrt.tensors import OPEN, PlanTensors, Shape


def set_shapes(
    tensors: PlanTensors, context: Any, shapes: Mapping[str, Shape], stream: int
) -> dict[str, Shape]:
    """Have the context execute inputs of these shapes next; return the outputs' shapes by name.

    A change of profile is put into the stream. Raises ExecutionError where no profile takes them,
    UnsupportedModelError naming an output whose size depends on what the inputs hold.
    """
    profile = tensors.profile_of(shapes)
    if profile is None:
        raise ExecutionError(_too_large(tensors, shapes))
    with _told("TensorRT does not take these shapes"):
        if context.active_optimization_profile != profile.index:
            _check(context.set_optimization_profile_async(profile.index, stream))
        for name, shape in shapes.items():
            _check(context.set_input_shape(name, shape))
        _check(not context.infer_shapes())
    found = {tensor.name: tuple(context.get_tensor_shape(tensor.name)) for tensor in tensors.outputs}
    for name, shape in found.items():
        if OPEN in shape:
            raise UnsupportedModelError(
                f"output {name!r} has a size that depends on what the inputs hold: served on the CPU alone"
            )
    return found


@contextlib.contextmanager
def shapes_of_outputs(
    loaded: LoadedPlan, gpu: Gpu, generation: int
) -> Iterator[Callable[[Mapping[str, Shape]], dict[str, Shape]]]:
    """Give a function that tells the outputs' shapes for those of inputs; raises as `set_shapes` does."""
    holdings = Holdings(gpu)
    with gpu.load(generation) as driver:
        stream = holdings.stream(driver)
        contexts = [loaded.context(driver)]
        try:
            yield lambda shapes: set_shapes(loaded.tensors, contexts[0], shapes, stream.handle)
        except BaseException as error:
            let_go(error)
            raise
        finally:
            contexts.clear()  # here, where the GPU's context is
            holdings.close(driver)


def set_addresses(context: Any, addresses: Mapping[str, int]) -> None:
    """Have the context read inputs and write outputs there. Raises ExecutionError."""
    with _told("TensorRT does not take these addresses"):
        for name, address in addresses.items():
            _check(context.set_tensor_address(name, address))


def enqueue(context: Any, stream: int) -> None:
    """Put one execution into the stream of this handle. Raises ExecutionError in the library's words."""
    with _told("TensorRT does not execute"):
        _check(context.execute_async_v3(stream))


class _Refused(Exception):
    """The library has returned that it does not."""


def _check(is_done: bool) -> None:
    if not is_done:
        raise _Refused


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn a refusal, or what the bindings raise, into an ExecutionError with what the library said."""
    with collected() as said:
        try:
            yield
        except (_Refused, RuntimeError) as error:
            reason = (said[-1] if said else str(error)) or "it did not say why"
            kind = MemoryExhausted if is_of_memory(said) else ExecutionError
            raise kind(f"{what}: {' '.join(reason.split())}") from error


def _too_large(tensors: PlanTensors, shapes: Mapping[str, Shape]) -> str:
    largest = max(tensors.profiles, key=lambda profile: profile.elements)
    told = [
        f"input {name!r} is {list(shape)}, and the plan takes {list(largest.shapes[name][0])} to "
        f"{list(largest.shapes[name][2])}"
        for name, shape in shapes.items()
        if not largest.takes({name: shape})
    ]
    return "; ".join(told) or "no profile of the plan takes inputs of these shapes together"
