"""From a trained PyTorch model to ONNX.

Modules and `torch.export` programs go through `torch.export` with a dynamic batch and PyTorch's own
exporter on top of it, which keeps sequence lengths and control by shapes dynamic where they are.
TorchScript archives hold control flow that `torch.export` cannot follow, so they go through the exporter
that was made for them. Either writes operators of ONNX's own domain.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from headrace_engines.documents import Scalar
from headrace_engines.errors import InputError, UnsupportedModelError
from headrace_engines.importers import exported, torch_signature, torch_sources
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.reasons import brief
from headrace_engines.importers.torch_signature import Input, name_of
from headrace_engines.importers.torch_sources import Stored
from headrace_engines.importers.torch_tracing import (
    Arrange,
    check_batch,
    check_mode,
    has_batch,
    program_inputs,
    quiet,
    traced,
    unknown_operator,
)
from headrace_engines.rows import Rows
from headrace_engines.spec import ANY

_FIRST_OPSET: Final = 18
"""The oldest that the exporter's own operators are written in."""

_SCRIPT_OPSETS: Final = range(17, 21)
"""What the exporter of TorchScript knows of those that are asked for."""

_ROWS_AT_ONCE: Final = 64


def open_source(path: Path, options: ImportOptions) -> TorchImporter:
    """Open a model that PyTorch stored, in evaluation mode and with 32-bit weights, on one thread."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.mha.set_fastpath_enabled(False)  # it answers otherwise where a mask leaves steps out
    source = torch_sources.opened(path, options)
    if isinstance(source, ExportedProgram):
        return _program(source, options.opset)
    module = source.eval()
    if any(each.is_floating_point() and each.dtype != torch.float32 for each in module.state_dict().values()):
        module = module.float()
    inputs = torch_signature.inputs(module, options)
    arrange: Arrange = partial(torch_signature.arranged, inputs)
    outputs = _tried(module, inputs, arrange)
    if isinstance(module, torch.jit.ScriptModule):
        return _ScriptImporter(_Source(module, name_of(module), inputs, outputs, arrange), options.opset)
    program = traced(module, name_of(module), inputs, arrange)
    return _ProgramImporter(
        _Source(module, name_of(module), inputs, outputs, arrange), options.opset, program
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """A module that can be called, or what stands for one, and what it takes and gives."""

    module: torch.nn.Module
    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    arrange: Arrange

    def call(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the tensors of the answer, in the order of `outputs`."""
        arguments, keywords = self.arrange(tensors)
        answer = self.module(*arguments, **keywords)
        return [tensor for _, tensor in torch_signature.named(answer, self.name)]


class TorchImporter(ABC):
    """A PyTorch model that is open; rows and answers go by the names of its inputs and outputs."""

    def __init__(self, source: _Source, opset: int) -> None:
        self._source = source
        self._opset = opset
        self._inputs = [each.name for each in source.inputs]
        self._outputs = exported.unlike(source.outputs, self._inputs)

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """The module's class, PyTorch's version, and how many parameters there are."""
        return {
            "class": self._source.name,
            "framework": f"PyTorch {torch.__version__}",
            "parameters": sum(each.numel() for each in self._parameters()),
        }

    def convert(self, path: Path) -> None:
        """Write the model as ONNX; UnsupportedModelError names the operator that has no counterpart."""
        with quiet(), torch.no_grad():
            model = self._model()
        exported.settle(model, self._outputs)
        exported.save(model, path)

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the module answers, some rows at a time; InputError if it does not take them."""
        count = len(next(iter(rows.values())))
        parts: list[list[NDArray[Any]]] = []
        for start in range(0, count, _ROWS_AT_ONCE):
            tensors = [
                torch.tensor(rows[each.name][start : start + _ROWS_AT_ONCE]).to(each.dtype)
                for each in self._source.inputs
            ]
            try:
                with torch.inference_mode():
                    parts.append([each.numpy() for each in self._source.call(tensors)])
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                raise InputError(f"{self._source.name} does not take these rows: {brief(error)}") from error
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def _parameters(self) -> Iterator[torch.Tensor]:
        return iter(self._source.module.parameters())

    @abstractmethod
    def _model(self) -> onnx.ModelProto:
        """Return what PyTorch's exporter makes of it; UnsupportedModelError where it cannot."""


class _ProgramImporter(TorchImporter):
    def __init__(self, source: _Source, opset: int, program: ExportedProgram) -> None:
        super().__init__(source, opset)
        self._program = program
        check_batch(program, source.name, source.outputs)

    def _parameters(self) -> Iterator[torch.Tensor]:
        return iter(self._program.parameters())

    def _model(self) -> onnx.ModelProto:
        try:
            written = torch.onnx.export(
                self._program,
                dynamo=True,
                opset_version=max(_FIRST_OPSET, self._opset),
                input_names=self._inputs,
                output_names=list(self._outputs),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UnsupportedModelError(f"{self._source.name}: {unknown_operator(error)}") from error
        if written is None:
            raise UnsupportedModelError(f"{self._source.name}: PyTorch's exporter returned nothing")
        model: onnx.ModelProto = written.model_proto
        return model


class _ScriptImporter(TorchImporter):
    def _model(self) -> onnx.ModelProto:
        names = [*self._inputs, *self._outputs]
        dims = {
            each.name: [at + 1 for at, dim in enumerate(each.dims) if dim == ANY]
            for each in self._source.inputs
        }
        axes = {
            name: {0: exported.BATCH_AXIS} | {at: f"{name}_{at}" for at in dims.get(name, ())}
            for name in names
        }
        examples = tuple(each.example() for each in self._source.inputs)
        written = io.BytesIO()
        try:
            torch.onnx.export(
                torch.jit.trace(_Flat(self._source).eval(), examples, check_trace=False),
                examples,
                written,
                dynamo=False,
                opset_version=min(max(self._opset, _SCRIPT_OPSETS.start), _SCRIPT_OPSETS.stop - 1),
                input_names=self._inputs,
                output_names=list(self._outputs),
                dynamic_axes=axes,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise UnsupportedModelError(f"{self._source.name}: {unknown_operator(error)}") from error
        return onnx.load_from_string(written.getvalue())


class _Flat(torch.nn.Module):  # type: ignore[misc]  # its types are Any where it is not installed
    """A module that returns a tuple of tensors, whatever the one inside returns."""

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self.module = source.module
        self._call = source.call

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the answer's tensors."""
        return tuple(self._call(list(tensors)))


def _program(program: ExportedProgram, opset: int) -> TorchImporter:
    """Open a program, and trace it again where it was traced for one number of rows."""
    check_mode(program)
    inputs = program_inputs(program)
    arrange: Arrange = partial(pytree.tree_unflatten, treespec=program.call_spec.in_spec)
    module = program.module(check_guards=False)
    name = Stored.PROGRAM.value
    if not has_batch(program):
        try:
            program = traced(module, name, inputs, arrange)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(
                "the program was exported for one number of rows alone: export it again with dynamic_shapes="
                f"{{{inputs[0].name!r}: {{0: torch.export.Dim('batch')}}, ...}}; {error}"
            ) from error
        module = program.module(check_guards=False)
    outputs = _tried(module, inputs, arrange, name)
    return _ProgramImporter(_Source(module, name, inputs, outputs, arrange), opset, program)


def _tried(
    module: torch.nn.Module, inputs: Sequence[Input], arrange: Arrange, name: str = ""
) -> tuple[str, ...]:
    """Run two rows and return the outputs' names; the question of what a row is like is asked again here."""
    name = name or name_of(module)
    arguments, keywords = arrange([each.example() for each in inputs])
    try:
        with torch.inference_mode():
            answer = module(*arguments, **keywords)
    except Exception as error:  # a module's own code
        raise UnsupportedModelError(
            f"{name}.forward failed with {', '.join(map(str, inputs))}: {brief(error)}; where a row is not "
            f"like that, say what it is like, for example --input {inputs[0].name}:int64:7 for seven indices"
        ) from error
    return tuple(output for output, _ in torch_signature.named(answer, name))
