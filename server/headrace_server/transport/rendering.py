"""What a request asks for beside its message: inputs that stand in shared memory, outputs that go there, or
that are told as classes. Read from the parameters of its tensors; most requests have none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from headrace_engines.device_rows import DeviceRows
from headrace_engines.errors import InputError
from headrace_proto.tensors import datatype_of
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.request import ModelFacts, Request, Work
from headrace_server.errors import InvalidInput, RegionNotFound
from headrace_server.transport.classification import CLASSIFIABLE
from headrace_server.transport.regions import Regions
from headrace_server.transport.shared_region import Slice

_CLASSIFICATION: Final = "classification"
_REGION: Final = "shared_memory_region"
_OFFSET: Final = "shared_memory_offset"
_BYTE_SIZE: Final = "shared_memory_byte_size"
_SHARED_MEMORY: Final = (_REGION, _OFFSET, _BYTE_SIZE)

_READ_ON_ARRIVAL: Final = ("BYTES", "BOOL")
"""Datatypes of which the data itself is checked."""

_Parameters = Mapping[str, pb.InferParameter]


@dataclass(frozen=True, slots=True)
class Classes:
    """How many of an output's largest values are told."""

    count: int


class Rendering(NamedTuple):
    """Slices of inputs by their place in the request, and what becomes of outputs, by their names."""

    inputs: Mapping[int, Slice]
    outputs: Mapping[str, Slice | Classes]

    @property
    def input_bytes(self) -> int:
        """Bytes that are to be read from shared memory."""
        return sum(part.size_bytes for part in self.inputs.values())

    @property
    def is_on_gpu(self) -> bool:
        """Whether any input stands on a GPU."""
        return any(part.is_on_gpu for part in self.inputs.values())

    def waits_for_gpu(self, request: Request, facts: ModelFacts) -> bool:
        """Whether inputs have to come from a GPU before this model's engines can have them."""
        return any(
            part.is_on_gpu
            and not (facts.takes_device_rows and request.inputs[place].datatype not in _READ_ON_ARRIVAL)
            for place, part in self.inputs.items()
        )

    def fetch(self, request: Request) -> Request:
        """Return the request with the inputs that stand in shared memory.

        Those on a GPU are left there, if nobody has to look at them. Raises InvalidInput.
        """
        inputs = list(request.inputs)
        for place, part in self.inputs.items():
            data: Any = None if inputs[place].datatype in _READ_ON_ARRIVAL else part.device_rows
            inputs[place] = inputs[place]._replace(data=part.read() if data is None else data)
        return request._replace(inputs=inputs)

    def settle(self, work: Work) -> None:
        """Read what was left on a GPU, if the engines cannot take it from there, and let go of the inputs.

        Raises InvalidInput.
        """
        if self.is_on_gpu and not work.model.facts.takes_device_rows:
            work.data = tuple(map(_in_host_memory, work.data))
        work.rendering = self._replace(inputs={})

    def check(self, work: Work) -> None:
        """Refuse what this model's outputs cannot become, as far as that is known beforehand.

        Raises InvalidInput.
        """
        for position in work.wanted:
            spec = work.model.facts.spec.outputs[position]
            asked = self.outputs.get(spec.name)
            if isinstance(asked, Classes) and spec.dtype not in CLASSIFIABLE:
                raise InvalidInput(
                    f"output {spec.name!r} is {datatype_of(spec.dtype)}: only integers, FP32 and FP64 can be "
                    "classified"
                )
            if isinstance(asked, Slice) and spec.is_fixed and work.rows * spec.row_bytes > asked.size_bytes:
                raise asked.too_small(work.rows * spec.row_bytes)


def _in_host_memory(data: Any) -> Any:
    if not isinstance(data, DeviceRows):
        return data
    try:
        return data.read()
    except InputError as error:
        raise InvalidInput(str(error)) from None


def input_slice(tensor: pb.ModelInferRequest.InferInputTensor, regions: Regions) -> Slice | None:
    """Return where in shared memory an input stands, if it does.

    Raises InvalidInput, RegionNotFound, NotSupported.
    """
    part = _slice(f"input {tensor.name!r}", tensor.parameters, regions)
    if part is not None and tensor.HasField("contents"):
        raise InvalidInput(f"input {tensor.name!r} has contents and stands in shared memory")
    return part


def output_renderings(
    outputs: Iterable[pb.ModelInferRequest.InferRequestedOutputTensor], regions: Regions
) -> dict[str, Slice | Classes]:
    """Return what becomes of the outputs of which anything is said.

    Raises InvalidInput, RegionNotFound, NotSupported.
    """
    asked: dict[str, Slice | Classes] = {}
    for output in outputs:
        rendering = _output_rendering(f"output {output.name!r}", output.parameters, regions)
        if rendering is None:
            continue
        if asked.setdefault(output.name, rendering) != rendering:
            raise InvalidInput(f"output {output.name!r} is asked for twice, in different forms")
    slices = [part for part in asked.values() if isinstance(part, Slice)]
    for one, other in itertools.pairwise(sorted(slices, key=Slice.place)):
        if one.overlaps(other):
            raise InvalidInput(f"{one.tensor} and {other.tensor} overlap in shared memory")
    return asked


def _output_rendering(tensor: str, parameters: _Parameters, regions: Regions) -> Slice | Classes | None:
    part = _slice(tensor, parameters, regions)
    count = _value(tensor, parameters, _CLASSIFICATION, "int64_param")
    if count is None:
        return part
    if part is not None:
        raise InvalidInput(f"{tensor}: {_CLASSIFICATION} and {_REGION} came, one of the two is expected")
    if count <= 0:
        raise InvalidInput(f"{tensor}: {_CLASSIFICATION} of {count} came, 1 or more expected")
    return Classes(count)


def _slice(tensor: str, parameters: _Parameters, regions: Regions) -> Slice | None:
    if not any(name in parameters for name in _SHARED_MEMORY):
        return None
    regions.require()
    region = _value(tensor, parameters, _REGION, "string_param")
    offset = _value(tensor, parameters, _OFFSET, "int64_param")
    size_bytes = _value(tensor, parameters, _BYTE_SIZE, "int64_param")
    if region is None:
        raise InvalidInput(f"{tensor}: {_OFFSET} and {_BYTE_SIZE} need {_REGION}")
    if size_bytes is None:
        raise InvalidInput(f"{tensor}: {_REGION} needs {_BYTE_SIZE}")
    try:
        found = regions.find(region)
    except RegionNotFound as error:
        raise RegionNotFound(f"{tensor}: {error}") from None
    return found.slice(tensor, offset or 0, size_bytes)


def _value(tensor: str, parameters: _Parameters, name: str, expected: str) -> Any:
    if name not in parameters:  # asking for a key of a map of messages would add it
        return None
    came = parameters[name].WhichOneof("parameter_choice")
    if came != expected:
        raise InvalidInput(f"{tensor}: parameter {name!r} came as {came}, {expected} expected")
    return getattr(parameters[name], expected)
