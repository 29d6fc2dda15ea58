"""From a module to a `torch.export` program whose batch is dynamic, and why that cannot be, in a sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers import exported
from headrace_engines.importers.reasons import brief
from headrace_engines.importers.torch_signature import Input
from headrace_engines.spec import ANY

Arrange = Callable[[list[torch.Tensor]], tuple[Sequence[Any], Mapping[str, Any]]]
"""Tensors in the inputs' order as positional and keyword arguments."""

_TRAINING_ARGUMENTS: Final = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}
"""Which argument of an operator says that it trains."""


def traced(module: torch.nn.Module, name: str, inputs: Sequence[Input], arrange: Arrange) -> ExportedProgram:
    """Return the module as a program in which every input's axis 0 is one batch of any number of rows.

    Raises UnsupportedModelError where `forward` fixes that number or cannot be followed.
    """
    examples = [each.example() for each in inputs]
    batch = Dim(exported.BATCH_AXIS)
    shapes = ShapesCollection()
    for each, example in zip(inputs, examples, strict=True):
        shapes[example] = {0: batch} | {at + 1: Dim.DYNAMIC for at, dim in enumerate(each.dims) if dim == ANY}
    arguments, keywords = arrange(examples)
    try:
        with quiet():
            return torch.export.export(module, tuple(arguments), dict(keywords), dynamic_shapes=shapes)
    except Exception as error:  # of many classes, most of them the compiler's own
        raise UnsupportedModelError(f"{name}: {_why_not(error)}") from error


def check_batch(program: ExportedProgram, name: str, outputs: Sequence[str]) -> None:
    """Refuse outputs that have not a row for each row that comes."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    values = [node.meta["val"] for node in output.args[0] if isinstance(node, torch.fx.Node)]
    batch = str(_placeholders(program)[str(program.graph_signature.user_inputs[0])].shape[0])
    for called, value in zip(outputs, values, strict=True):
        if not value.ndim or str(value.shape[0]) != batch:
            dims = ", ".join("batch" if str(dim) == batch else str(dim) for dim in value.shape)
            raise UnsupportedModelError(
                f"the output {called!r} of {name} is [{dims}], without a row on its first axis for each "
                "row that comes: let forward transpose it or leave it out"
            )


def check_mode(program: ExportedProgram) -> None:
    """Refuse a program that was exported while its module was in training: its answers depend on chance."""
    for node in program.graph.nodes:
        position = _TRAINING_ARGUMENTS.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise UnsupportedModelError(
                f"the program was exported in training mode ({node.target}): call module.eval() first"
            )


def has_batch(program: ExportedProgram) -> bool:
    """Whether axis 0 of each input of a program takes any number."""
    values = _placeholders(program)
    names = map(str, program.graph_signature.user_inputs)
    return not any(isinstance(values[name].shape[0], int) for name in names)


def program_inputs(program: ExportedProgram) -> tuple[Input, ...]:
    """Return what a program takes, in its order."""
    values = _placeholders(program)
    inputs: list[Input] = []
    for name in program.graph_signature.user_inputs:
        value = values.get(name) if isinstance(name, str) else name
        if not isinstance(value, torch.Tensor) or not value.ndim:
            raise UnsupportedModelError(
                f"the program's input {name!r} is no tensor with a batch axis: export it with its value fixed"
            )
        dims = tuple(dim if isinstance(dim, int) else ANY for dim in value.shape[1:])
        inputs.append(Input(str(name), value.dtype, dims))
    return tuple(inputs)


def unknown_operator(error: BaseException) -> str:
    """Say which operator has no counterpart, found where the exporter's own chain of causes ends."""
    cause: BaseException | None = error
    while cause:
        found = re.search(r"op='([\w.:]+)'|operator '?([\w.:]+)'? ", str(cause))
        if found:
            name = found[1] or found[2]
            return f"ONNX has no operator for {name}: replace it in forward by operators that it has"
        error, cause = cause, cause.__cause__
    return f"PyTorch's exporter failed: {brief(error)}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters log of optional packages and of their own work out of the build's words."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _placeholders(program: ExportedProgram) -> dict[str, Any]:
    """Return what a program's inputs, weights among them, were traced with: tensors without contents."""
    return {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}


def _why_not(error: Exception) -> str:
    text = str(error)
    if "specialized" in text or "Constraints violated" in text:
        return (
            "forward fixes a dimension that requests choose, most likely the number of rows (write "
            f"x.shape[0] or -1 instead of a number): {brief(error)}"
        )
    if "data-dependent" in text:
        return (
            "forward decides by values of its tensors, which torch.export cannot follow: use torch.where, or "
            f"store the module with torch.jit.script(module).save(path): {brief(error)}"
        )
    return f"torch.export cannot follow forward: {brief(error)}"
