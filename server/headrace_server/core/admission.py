"""Checks a request against what its model takes, before anything waits.

What gets past here can be executed: every later step trusts names, types, shapes and sizes. Each refusal
names the tensor, what came, and what was expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_proto.tensors import datatype_of, decode_bytes
from headrace_server.core.arrays import STRING_BYTES
from headrace_server.core.request import Admitted, InputTensor, Request
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings
from headrace_server.core.terms import TermsReader
from headrace_server.errors import InvalidInput

_MOST_ELEMENTS: Final = sys.maxsize // 8


@dataclass(frozen=True, slots=True)
class _Expected:
    position: int
    spec: TensorSpec
    datatype: str
    row_bytes: int


class Admission:
    """The check for one model; made once, when the model is loaded."""

    def __init__(self, model: str, spec: ModelSpec, settings: ModelSettings = DEFAULT_SETTINGS) -> None:
        self._model = model
        self._spec = spec
        self._why_alone = settings.why_alone
        filled = {one.name for one in settings.sequences.controls} if settings.sequences else set()
        self._staged = spec.is_staged and not filled
        self._has_batch_axis = spec.has_batch_axis
        self._places = len(spec.inputs)
        self._inputs = {
            tensor.name: _Expected(
                i, tensor, datatype_of(tensor.dtype), tensor.row_bytes if tensor.is_fixed else 0
            )
            for i, tensor in enumerate(spec.inputs)
            if tensor.name not in filled
        }
        self._outputs = {tensor.name: i for i, tensor in enumerate(spec.outputs)}
        self._all_outputs = tuple(range(len(spec.outputs)))
        self._terms = TermsReader(model, settings)
        self._usual_terms = self._terms.usual

    def admit(self, request: Request) -> Admitted:
        """Return what to execute. Raises InvalidInput or NotSupported.

        Inputs that the server fills, to tell a program of its sequences, are not the caller's to send.
        """
        _, _, _, inputs, outputs, parameters, _ = request
        data: list[bytes | NDArray[Any] | None] = [None] * self._places
        size_bytes = 0
        for tensor in inputs:
            expected = self._inputs.get(tensor.name)
            if expected is None:
                raise self._unknown_input(tensor.name)
            if data[expected.position] is not None:
                raise InvalidInput(f"input {tensor.name!r} came twice")
            self._check_form(tensor, expected)
            data[expected.position] = contents = self._contents(tensor, expected)
            size_bytes += len(contents) if isinstance(contents, bytes) else _strings_bytes(contents)
        if len(inputs) != len(self._inputs):
            self._check_missing(data)
        rows = self._rows(inputs) if self._has_batch_axis else 1
        terms = self._usual_terms
        if parameters or terms is None:
            terms = self._terms.read(parameters)
        wanted = self._wanted(outputs) if outputs else self._all_outputs
        shapes = None if self._staged else self._shapes(inputs)
        return Admitted(rows, tuple(data), shapes, size_bytes, wanted, terms)

    def _check_form(self, tensor: InputTensor, expected: _Expected) -> None:
        name, datatype, shape, _ = tensor
        if datatype != expected.datatype:
            raise InvalidInput(f"input {name!r}: datatype {datatype!r} came, {expected.datatype!r} expected")
        dims = expected.spec.dims
        rest = shape[1:] if self._has_batch_axis else shape
        fits = rest == dims if self._staged else _matches(rest, dims)
        if not fits:
            raise self._wrong_shape(tensor, expected)
        if self._has_batch_axis and not 0 < (shape[0] if shape else 0) <= self._spec.max_batch_size:
            raise self._wrong_batch(tensor)

    def _contents(self, tensor: InputTensor, expected: _Expected) -> bytes | NDArray[Any]:
        """Return the tensor's data, of just the size that its shape needs."""
        _, _, shape, data = tensor
        if self._staged:
            size = shape[0] * expected.row_bytes
        else:
            size = math.prod(shape) * (1 if expected.datatype == "BYTES" else expected.spec.dtype.itemsize)
            # A tensor of no bytes says nothing about its other dimensions, and NumPy multiplies them.
            if size == 0 and math.prod(filter(None, shape)) > _MOST_ELEMENTS:
                raise InvalidInput(f"input {tensor.name!r}: shape {list(shape)} is larger than any array")
        if expected.datatype == "BYTES":
            data = _strings(tensor, size, takes_any_bytes=self._spec.takes_any_bytes)
        if len(data) != size:
            unit = "elements" if expected.datatype == "BYTES" else "bytes"
            raise InvalidInput(
                f"input {tensor.name!r}: {len(data)} {unit} came, shape {list(shape)} of "
                f"{expected.datatype} needs {size}"
            )
        if expected.datatype == "BOOL" and data and (most := np.frombuffer(data, np.uint8).max()) > 1:
            raise InvalidInput(f"input {tensor.name!r}: a BOOL is a byte 0 or 1, {most} came")
        return data

    def _rows(self, inputs: Sequence[InputTensor]) -> int:
        """Return the rows that all inputs have; a model that takes none from its callers executes one."""
        rows = inputs[0].shape[0] if inputs else 1
        for tensor in inputs[1:]:
            if tensor.shape[0] != rows:
                raise InvalidInput(
                    f"input {tensor.name!r} has {tensor.shape[0]} rows and input {inputs[0].name!r} has "
                    f"{rows}: all inputs of a request need the same number"
                )
        return rows

    def _shapes(self, inputs: Sequence[InputTensor]) -> tuple[tuple[int, ...] | None, ...]:
        came = {tensor.name: tensor.shape for tensor in inputs}
        return tuple([came.get(tensor.name) for tensor in self._spec.inputs])

    def _wanted(self, outputs: Sequence[str]) -> tuple[int, ...]:
        wanted: dict[int, None] = {}
        for name in outputs:
            position = self._outputs.get(name)
            if position is None:
                raise InvalidInput(
                    f"model {self._model!r} has no output {name!r}; it has {_names(self._outputs)}"
                )
            wanted[position] = None
        return tuple(wanted)

    def _unknown_input(self, name: str) -> InvalidInput:
        return InvalidInput(f"model {self._model!r} has no input {name!r}; it takes {_names(self._inputs)}")

    def _check_missing(self, data: Sequence[object]) -> None:
        missing = [
            name
            for name, expected in self._inputs.items()
            if data[expected.position] is None and not expected.spec.is_optional
        ]
        if missing:
            raise InvalidInput(f"model {self._model!r} needs input {_names(missing)}, which did not come")
        if self._spec.has_batch_axis and all(item is None for item in data):
            raise InvalidInput(f"model {self._model!r} needs an input that says how many rows are wanted")

    def _wrong_shape(self, tensor: InputTensor, expected: _Expected) -> InvalidInput:
        batch = ("batch",) if self._spec.has_batch_axis else ()
        dims = ", ".join([*batch, *("any" if dim == ANY else str(dim) for dim in expected.spec.dims)])
        return InvalidInput(f"input {tensor.name!r}: shape {list(tensor.shape)} came, [{dims}] expected")

    def _wrong_batch(self, tensor: InputTensor) -> InvalidInput:
        rows = tensor.shape[0] if tensor.shape else 0
        most = self._spec.max_batch_size
        taken = f"1 to {most}" if most > 1 else "one row a request"
        reason = ""
        if self._why_alone and rows > 1:
            reason = (
                f", since in a batch {self._why_alone}: send row by row; where axis 0 does not count rows, "
                "the model's configuration needs `max_batch_size: 0`"
            )
        return InvalidInput(
            f"input {tensor.name!r}: batch of {rows} rows came, model {self._model!r} takes {taken}{reason}"
        )


def _strings_bytes(strings: NDArray[Any]) -> int:
    """Bytes of memory that strings take, with what each costs beside its characters."""
    return sum(map(len, strings)) + STRING_BYTES * strings.size


def _strings(tensor: InputTensor, expected: int, *, takes_any_bytes: bool) -> NDArray[Any]:
    """Return the elements of a BYTES tensor; where text is wanted, other bytes would fail the whole batch."""
    elements: Any = tensor.data
    if isinstance(tensor.data, bytes):
        try:
            elements = decode_bytes(tensor.data, expected)
        except ValueError as error:
            raise InvalidInput(
                f"input {tensor.name!r}: {error}; shape {list(tensor.shape)} needs {expected}"
            ) from None
    for index, element in enumerate(() if takes_any_bytes else elements):
        try:
            element.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"input {tensor.name!r}: element {index} is no UTF-8 text: {error}") from None
    return elements  # type: ignore[no-any-return]  # an array of bytes objects either way


def _matches(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    return len(shape) == len(dims) and all(
        came >= 0 if dim == ANY else came == dim for came, dim in zip(shape, dims, strict=True)
    )


def _names(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(map(repr, names))
