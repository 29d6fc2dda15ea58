"""Answers of the protocol to arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from grpc import StatusCode
from numpy.typing import NDArray

from headrace.errors import HeadraceError, RequestFailed
from headrace.retry import Failure
from headrace_proto import tensors
from headrace_proto.v1.inference_pb2 import (
    InferParameter,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)

Arrays = dict[str, NDArray[Any]]

ERROR_CODE_PARAMETER: Final = "error_code"
"""Where a stream's error answer carries the name of its gRPC status; other servers leave it out."""

ERROR_REASON_PARAMETER: Final = "error_reason"
"""Where it carries the server's word for what the status alone does not say."""

RETRY_AFTER_PARAMETER: Final = "retry_after_seconds"
"""Where it says when to ask an overloaded server again."""

FINAL_PARAMETER: Final = "triton_final_response"
"""Where a stream's answer says whether its request gets no other one."""


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
