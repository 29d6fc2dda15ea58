"""Arrays to protocol messages and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from grpc import StatusCode
from numpy.typing import NDArray

from headrace.errors import HeadraceError, InvalidInput, RequestFailed
from headrace.retry import Failure
from headrace_proto import tensors
from headrace_proto.v1.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)

Arrays = dict[str, NDArray[Any]]

Outputs = Sequence[str] | Mapping[str, int]
"""The names of the outputs that are wanted; as a mapping, with how many of its best classes each is to
be given as, 0 for the tensor itself."""

Parameters = Mapping[str, bool | int | float | str]
"""What a request says beside its tensors, to the server or to the model."""

ERROR_CODE_PARAMETER: Final = "error_code"
"""Where a stream's error answer carries the name of its gRPC status; other servers leave it out."""

ERROR_REASON_PARAMETER: Final = "error_reason"
"""Where it carries the server's word for what the status alone does not say."""

RETRY_AFTER_PARAMETER: Final = "retry_after_seconds"
"""Where it says when to ask an overloaded server again."""

CLASSES_PARAMETER: Final = "classification"
"""By which an output is asked for as its best classes."""

FINAL_PARAMETER: Final = "triton_final_response"
"""Where a stream's answer says whether its request gets no other one."""

TELL_END_PARAMETER: Final = "triton_enable_empty_final_response"
"""By which a stream's request asks for an answer without outputs where no other could say so."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output: the protocol's datatype ("FP32", …) and its shape, -1 where any size goes."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server says about one model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


def encode_request(
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    version: str = "",
    outputs: Outputs | None = None,
    parameters: Parameters | None = None,
    request_id: str = "",
) -> ModelInferRequest:
    """Return the request for one prediction; InvalidInput, naming the tensor, for what cannot be sent."""
    if not isinstance(model, str):
        raise InvalidInput(f"model: {type(model).__name__} came, its name expected")
    if isinstance(outputs, str):
        raise InvalidInput(f"outputs: {outputs!r} came, a sequence of names expected, such as [{outputs!r}]")
    if not isinstance(inputs, Mapping):
        raise InvalidInput(f"inputs: {type(inputs).__name__} came, a mapping of names to arrays expected")
    if not inputs:
        raise InvalidInput("inputs: none came, at least one expected")
    request = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, array in inputs.items():
        _add_input(request, name, array)
    for name in outputs or ():
        wanted = request.outputs.add(name=name)
        if isinstance(outputs, Mapping) and outputs[name]:
            _add_parameter(wanted.parameters, CLASSES_PARAMETER, outputs[name])
    for name, value in (parameters or {}).items():
        _add_parameter(request.parameters, name, value)
    return request


def _add_parameter(
    parameters: MutableMapping[str, InferParameter], name: str, value: bool | float | str
) -> None:
    if not isinstance(name, str):
        raise InvalidInput(f"parameter {name!r}: its name is {type(name).__name__}, str expected")
    try:
        match value:
            case bool():
                parameters[name].bool_param = value
            case int() if value >= 1 << 63:
                parameters[name].uint64_param = value
            case int():
                parameters[name].int64_param = value
            case float():
                parameters[name].double_param = value
            case str():
                parameters[name].string_param = value
            case _:
                raise InvalidInput(
                    f"parameter {name!r}: {type(value).__name__} came, bool, int, float or str expected"
                )
    except ValueError as error:  # a number of more than 64 bits, or half a character
        raise InvalidInput(f"parameter {name!r}: {error}") from error


def _add_input(request: ModelInferRequest, name: str, array: NDArray[Any]) -> None:
    if not isinstance(name, str):
        raise InvalidInput(f"input {name!r}: its name is {type(name).__name__}, str expected")
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"input {name!r}: {type(array).__name__} came, numpy.ndarray expected")
    try:
        datatype = tensors.datatype_of(array.dtype)
        raw = tensors.to_raw(array)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"input {name!r}: {error}") from error
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(raw)


def decode_response(response: ModelInferResponse) -> Arrays:
    """Return the outputs by name, as read-only views of the answer where that is possible.

    An answer that contradicts itself is a RequestFailed with the code DATA_LOSS.
    """
    raws = response.raw_output_contents
    raw_index = 0
    arrays: Arrays = {}
    for output in response.outputs:
        try:
            if output.HasField("contents"):
                values = tensors.from_contents(output.contents, output.datatype)
                arrays[output.name] = values.reshape(output.shape)
            elif raw_index < len(raws):
                arrays[output.name] = tensors.from_raw(raws[raw_index], output.datatype, output.shape)
                raw_index += 1
            else:
                raise ValueError("it has no contents")  # noqa: TRY301 - named like the other faults
        except ValueError as error:
            raise RequestFailed(
                f"the server's answer cannot be read: output {output.name!r}: {error}",
                code=StatusCode.DATA_LOSS,
            ) from error
    return arrays


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """One of the answers to a stream's request.

    `result` are the outputs, or how the server failed, or why the answer cannot be read; None where it
    says nothing but that there is no further one, which is what `is_last` tells.
    """

    result: Arrays | Failure | HeadraceError | None
    is_last: bool = True


def decode_stream_answer(response: ModelStreamInferResponse) -> StreamAnswer:
    """Return what one answer of a stream says; servers that do not tell which is the last give one each."""
    answer = response.infer_response
    told = answer.parameters.get(FINAL_PARAMETER)
    is_last = told is None or told.bool_param
    if response.error_message:
        return StreamAnswer(_stream_failure(response.error_message, answer.parameters), is_last)
    if told is not None and is_last and not answer.outputs:
        return StreamAnswer(None)
    try:
        return StreamAnswer(decode_response(answer), is_last)
    except RequestFailed as error:
        return StreamAnswer(error, is_last)


def _stream_failure(message: str, parameters: Mapping[str, InferParameter]) -> Failure:
    none = InferParameter()
    code = parameters.get(ERROR_CODE_PARAMETER, none).string_param
    advice = parameters.get(RETRY_AFTER_PARAMETER, none)
    seconds = advice.double_param if advice.HasField("double_param") else math.nan
    return Failure(
        _CODES.get(code, StatusCode.UNKNOWN),
        message,
        seconds if 0 <= seconds < math.inf else None,
        reason=parameters.get(ERROR_REASON_PARAMETER, none).string_param,
    )


_CODES = {code.name: code for code in StatusCode}


def decode_metadata(response: ModelMetadataResponse) -> ModelMetadata:
    """Return the server's description of a model."""
    return ModelMetadata(
        name=response.name,
        versions=tuple(response.versions),
        platform=response.platform,
        inputs=tuple(TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in response.inputs),
        outputs=tuple(TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in response.outputs),
    )
