"""The Open Inference Protocol's messages: bytes to a Request, output rows to an answer's bytes.

An answer is put together from a template (everything that depends on the model and on the outputs'
shapes alone, serialised once by protobuf), the caller's id, and the rows. Protobuf allows a message's
fields in any order, so that this is plain concatenation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from headrace_proto import tensors
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.request import InputTensor, ModelFacts, Parameter, Request, Work
from headrace_server.errors import InvalidInput, NotSupported
from headrace_server.transport.status import Status

_ID_TAG: Final = b"\x1a"
_RAW_OUTPUT_TAG: Final = b"\x32"
_STREAM_ANSWER_TAG: Final = b"\x12"
_MAX_TEMPLATES: Final = 4096
_LARGE_BYTES: Final = 1 << 20
_MOST_DIMENSIONS: Final = 64
"""NumPy's own limit."""

_parse = pb.ModelInferRequest.FromString


def decode(message: bytes) -> Request:
    """Return the request in a ModelInferRequest. Raises InvalidInput, NotSupported."""
    return to_request(parse(message))


def is_large(message: bytes) -> bool:
    """Whether decoding takes so long that others should not wait for it."""
    return len(message) > _LARGE_BYTES


def parse(message: bytes) -> pb.ModelInferRequest:
    """Return the message that these bytes are. Raises InvalidInput."""
    try:
        return _parse(message)
    except DecodeError:
        raise InvalidInput("the message is no ModelInferRequest: its bytes cannot be parsed") from None


def to_request(message: pb.ModelInferRequest) -> Request:
    """Return what the message asks for. Raises InvalidInput, NotSupported."""
    outputs = [_output_name(output) for output in message.outputs] if message.outputs else ()
    parameters = _parameters(message.parameters) if message.parameters else {}
    return Request(
        message.model_name, message.model_version, message.id, _inputs(message), outputs, parameters
    )


def _inputs(message: pb.ModelInferRequest) -> list[InputTensor]:
    inputs = []
    raw = message.raw_input_contents
    used = 0
    for tensor in message.inputs:
        name = tensor.name
        if tensor.parameters and any(key.startswith("shared_memory") for key in tensor.parameters):
            raise NotSupported(f"input {name!r}: shared memory is not supported")
        if len(tensor.shape) > _MOST_DIMENSIONS:
            raise InvalidInput(
                f"input {name!r}: {len(tensor.shape)} dimensions came, at most {_MOST_DIMENSIONS} expected"
            )
        data: bytes | NDArray[Any]
        if tensor.HasField("contents"):
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
                f"input {name!r} has no data: {len(raw)} raw_input_contents came for "
                f"{len(message.inputs)} inputs"
            )
        inputs.append(InputTensor(name, tensor.datatype, tuple(tensor.shape), data))
    return inputs


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> bytes | NDArray[Any]:
    try:
        array = tensors.from_contents(tensor.contents, tensor.datatype)
    except ValueError as error:
        raise InvalidInput(f"input {tensor.name!r}: {error}") from None
    return array if tensor.datatype == "BYTES" else array.tobytes()


def _output_name(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> str:
    for key in output.parameters:
        if key == "classification":
            raise NotSupported(f"output {output.name!r}: classification is not supported")
        if key.startswith("shared_memory"):
            raise NotSupported(f"output {output.name!r}: shared memory is not supported")
    return output.name


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    values: dict[str, Parameter] = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(f"parameter {key!r} has no value")
        values[key] = getattr(parameter, choice)
    return values


class Encoder:
    """Makes answers. Only the engine threads use it, and a template made twice does no harm."""

    def __init__(self) -> None:
        self._templates: dict[tuple[Any, ...], bytes] = {}

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        """Return the bytes of a ModelInferResponse with these outputs of the work's model."""
        facts = work.model.facts
        key = (facts.serial, work.wanted, *[array.shape for array in outputs])
        template = self._templates.get(key)
        if template is None:
            template = self._template(key, facts, work.wanted, outputs)
        parts = [template]
        if work.id:
            request_id = work.id.encode()
            parts += (_ID_TAG, _varint(len(request_id)), request_id)
        for array in outputs:
            raw = array.tobytes() if array.dtype != object else tensors.encode_bytes(array)
            parts += (_RAW_OUTPUT_TAG, _varint(len(raw)), raw)
        return b"".join(parts)

    def _template(
        self, key: tuple[Any, ...], facts: ModelFacts, wanted: Sequence[int], outputs: Sequence[NDArray[Any]]
    ) -> bytes:
        response = pb.ModelInferResponse(model_name=facts.name, model_version=facts.version)
        for position, array in zip(wanted, outputs, strict=True):
            spec = facts.spec.outputs[position]
            response.outputs.add(name=spec.name, datatype=tensors.datatype_of(spec.dtype), shape=array.shape)
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        template = self._templates[key] = response.SerializeToString()
        return template


def stream_answer(response: bytes) -> bytes:
    """Return the bytes of a ModelStreamInferResponse that carries this ModelInferResponse."""
    return b"".join((_STREAM_ANSWER_TAG, _varint(len(response)), response))


def stream_error(status: Status, request_id: str) -> bytes:
    """Return the bytes of a ModelStreamInferResponse that ends one request of a stream with an error.

    The protocol has a text only. What the status of a unary call would say beside it goes into the
    response's parameters: `error_code` (the code's name), `error_reason`, `retry_after_seconds`.
    """
    parameters = {"error_code": pb.InferParameter(string_param=status.code.name)}
    if status.reason:
        parameters["error_reason"] = pb.InferParameter(string_param=status.reason)
    if status.retry_after_seconds is not None:
        parameters["retry_after_seconds"] = pb.InferParameter(double_param=status.retry_after_seconds)
    response = pb.ModelInferResponse(id=request_id, parameters=parameters)
    return pb.ModelStreamInferResponse(error_message=status.text, infer_response=response).SerializeToString()


_SMALL_VARINTS: Final = tuple(bytes((n,)) for n in range(128))


def _varint(value: int) -> bytes:
    if value < 128:
        return _SMALL_VARINTS[value]
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
