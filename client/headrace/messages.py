"""What answers say beside their tensors: of a model, of a stream's request, of a failure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from headrace.answers import (
    ERROR_CODE_PARAMETER,
    FINAL_PARAMETER,
    Arrays,
    Parted,
    arrays_of,
    head_of,
    length,
    part,
)
from headrace.errors import HeadraceError, RequestFailed
from headrace.retry import NO_REASON, Failure
from headrace_proto.v1.inference_pb2 import (
    InferParameter,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)

ERROR_REASON_PARAMETER: Final = "error_reason"
"""Where it carries the server's word for what the status alone does not say."""

RETRY_AFTER_PARAMETER: Final = "retry_after_seconds"
"""Where it says when to ask an overloaded server again."""

_ANSWER_TAG: Final = 0x12
"""With which a stream's answer begins that is no error."""


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


@dataclass(slots=True)
class StreamAnswer:
    """One of the answers to a stream's request.

    `result` are the outputs, or how the server failed, or why the answer cannot be read; None where it
    says nothing but that there is no further one, which is what `is_last` tells. `id` is the request's,
    "" where the server does not say it.
    """

    id: str
    result: Arrays | Failure | HeadraceError | None
    is_last: bool = True


def decode_stream_answer(message: bytes) -> StreamAnswer:
    """Return what one answer of a stream says; servers that do not tell which is the last give one each."""
    try:
        return _plain_answer(message) or _any_answer(ModelStreamInferResponse.FromString(message))
    except DecodeError as error:
        return StreamAnswer("", Failure(StatusCode.INTERNAL, f"the server's answer cannot be read: {error}"))


def _plain_answer(message: bytes) -> StreamAnswer | None:
    """Return what an answer says that is a ModelInferResponse and nothing else; None if it is not."""
    if len(message) < 2 or message[0] != _ANSWER_TAG:
        return None
    try:
        size, start = length(message, 1)
    except (IndexError, ValueError):  # protobuf says what is wrong
        return None
    return _outputs_answer(part(message, start)) if start + size == len(message) else None


def _any_answer(response: ModelStreamInferResponse) -> StreamAnswer:
    answer = response.infer_response
    if not response.error_message:
        return _outputs_answer(part(answer.SerializeToString()))
    final = answer.parameters.get(FINAL_PARAMETER)
    is_last = final is None or final.bool_param
    return StreamAnswer(answer.id, _stream_failure(response.error_message, answer.parameters), is_last)


def _outputs_answer(answer: Parted) -> StreamAnswer:
    head = head_of(answer)
    is_last = head.is_final is not False
    if head.error_code and not head.outputs:  # a failure that nobody put into words
        said = ModelInferResponse.FromString(answer.head).parameters
        return StreamAnswer(answer.id, _stream_failure(NO_REASON, said), is_last)
    if head.is_final and not head.outputs:
        return StreamAnswer(answer.id, None)
    try:
        return StreamAnswer(answer.id, arrays_of(answer, head), is_last)
    except RequestFailed as error:
        return StreamAnswer(answer.id, error, is_last)


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
