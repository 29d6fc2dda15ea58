"""The Open Inference Protocol's requests: bytes to a Request. Answers are made in `answers`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from headrace_proto import tensors
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.request import InputTensor, Parameter, Request
from headrace_server.errors import InvalidInput
from headrace_server.transport import outline
from headrace_server.transport.forms import Forms
from headrace_server.transport.outline import MOST_DIMENSIONS
from headrace_server.transport.regions import NO_REGIONS, Regions
from headrace_server.transport.rendering import Classes, Rendering, input_slice, output_renderings
from headrace_server.transport.shared_region import Slice

_MOST_PARTS: Final = 4096
"""Inputs, outputs or parameters: what takes as many is not for one request."""
_UNSIGNED: Final = "priority"
"""The one parameter that may come as a uint64, as in Triton."""

_parse = pb.ModelInferRequest.FromString
_forms: Final = Forms()


def decode(message: bytes, regions: Regions = NO_REGIONS) -> Request:
    """Return the request in a ModelInferRequest; inputs in shared memory are still to be fetched.

    Raises InvalidInput, RegionNotFound, NotSupported.
    """
    return recall(message) or build(message, regions)


def recall(message: bytes) -> Request | None:
    """Return the request, however large, if it differs from an earlier one in its id and data alone."""
    return _forms.recall(message)


def build(message: bytes, regions: Regions = NO_REGIONS) -> Request:
    """Return the request as protobuf reads it; the rest is as for `decode`."""
    outline.check(message)
    try:
        request = _parse(message)
    except DecodeError:
        raise InvalidInput("the message is no ModelInferRequest: its bytes cannot be parsed") from None
    inputs, slices = _inputs(request, regions)
    outputs, asked = _outputs(request, regions) if request.outputs else ((), None)
    parameters = _parameters(request.parameters) if request.parameters else {}
    rendering = Rendering(slices, asked or {}) if slices or asked else None
    decoded = Request(
        request.model_name, request.model_version, request.id, inputs, outputs, parameters, rendering
    )
    _forms.learn(message, request, decoded)
    return decoded


def _inputs(message: pb.ModelInferRequest, regions: Regions) -> tuple[list[InputTensor], dict[int, Slice]]:
    inputs: list[InputTensor] = []
    slices: dict[int, Slice] = {}
    came = message.inputs
    if len(came) > _MOST_PARTS:
        raise _too_many(came, "inputs")
    raw = message.raw_input_contents
    used = 0
    for tensor in came[:]:  # a list is read in a third of the time of protobuf's own sequences
        name = tensor.name
        shape = tuple(tensor.shape[:])
        if len(shape) > MOST_DIMENSIONS:
            raise InvalidInput(
                f"input {name!r}: {len(shape)} dimensions came, at most {MOST_DIMENSIONS} expected"
            )
        data: bytes | memoryview | NDArray[Any]
        if tensor.parameters and (part := input_slice(tensor, regions)) is not None:
            slices[len(inputs)] = part
            data = b""
        elif tensor.HasField("contents") and not (raw and _is_empty(tensor.contents)):
            if raw:
                raise InvalidInput(
                    f"input {name!r} has typed contents and the request has raw_input_contents: "
                    "one of the two is expected"
                )
            data = _typed(tensor)
        elif used < len(raw):
            data = raw[used]
            used += 1
        else:
            raise InvalidInput(
                f"input {name!r} has no data: {len(raw)} raw_input_contents came for {len(came)} inputs"
            )
        inputs.append(InputTensor(name, tensor.datatype, shape, data))
    return inputs, slices


def _is_empty(contents: pb.InferTensorContents) -> bool:
    """Whether they are there and hold nothing: MLServer's client sends such ones beside raw contents."""
    return not contents.ListFields()


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> memoryview | NDArray[Any]:
    try:
        array = tensors.from_contents(tensor.contents, tensor.datatype, math.prod(tensor.shape))
    except ValueError as error:
        raise InvalidInput(f"input {tensor.name!r}: {error}") from None
    return array if tensor.datatype == "BYTES" else array.view(np.uint8).data


def _outputs(
    message: pb.ModelInferRequest, regions: Regions
) -> tuple[list[str], dict[str, Slice | Classes] | None]:
    if len(message.outputs) > _MOST_PARTS:
        raise _too_many(message.outputs, "outputs")
    has_parameters = any(output.parameters for output in message.outputs)
    asked = output_renderings(message.outputs, regions) if has_parameters else None
    return [output.name for output in message.outputs], asked


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    if len(parameters) > _MOST_PARTS:
        raise _too_many(parameters, "parameters")
    values: dict[str, Parameter] = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(f"parameter {key!r} has no value; bool, int64, string or double expected")
        if choice == "uint64_param" and key != _UNSIGNED:
            raise InvalidInput(
                f"parameter {key!r} came as uint64_param; bool, int64, string or double expected"
            )
        values[key] = getattr(parameter, choice)
    return values


def _too_many(parts: Sized, what: str) -> InvalidInput:
    return InvalidInput(f"{len(parts)} {what} came, at most {_MOST_PARTS} expected")
