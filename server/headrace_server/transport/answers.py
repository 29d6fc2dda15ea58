"""The Open Inference Protocol's answers: output rows, or an error, to bytes.

An answer is put together from a template (everything that depends on the model and on the outputs'
shapes alone, serialised once by protobuf), the caller's id, and the rows. Protobuf allows a message's
fields in any order, so that this is plain concatenation.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace_proto import tensors
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.request import ModelFacts, Work
from headrace_server.errors import InvalidInput
from headrace_server.transport.classification import TooManyClasses, top_classes
from headrace_server.transport.rendering import Classes
from headrace_server.transport.shared_region import Slice
from headrace_server.transport.status import Status
from headrace_server.transport.varint import varint

_ID_TAG: Final = b"\x1a"
_ID_MARKS: Final = (b"", *[_ID_TAG + varint(length) for length in range(1, 128)])
"""What stands before an id, by its length; an empty one is left out."""
_RAW_OUTPUT_TAG: Final = b"\x32"
_STREAM_ANSWER_TAG: Final = b"\x12"
_MAX_TEMPLATES: Final = 4096
_MOST_BYTES: Final = 2**31 - 1 - (1 << 20)
"""What fits a message beside its names and shapes."""


class _Template(NamedTuple):
    """What answers have in common whose outputs have the same shapes."""

    head: bytes
    """All that stands before the id."""
    marks: tuple[bytes | None, ...]
    """What stands before the data of each output; None where its length is not known from its shape."""


class Encoder:
    """Makes ModelInferResponses. Threads that execute use it, and a template made twice does no harm."""

    def __init__(self) -> None:
        self._templates: dict[tuple[Any, ...], _Template] = {}

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        """Return the answer's bytes, with these outputs of the work's model.

        Outputs that stand in shared memory are written there first. Raises InvalidInput where they cannot be.
        """
        if work.rendering is not None and work.rendering.outputs:
            return _rendered(work, outputs)
        facts = work.model.facts
        if len(outputs) == 1:
            key: tuple[Any, ...] = (facts.serial, work.wanted, outputs[0].shape)
        else:
            key = (facts.serial, work.wanted, *[array.shape for array in outputs])
        template, marks = self._templates.get(key) or self._template(key, facts, work.wanted, outputs)
        request_id = work.id.encode()
        length = len(request_id)
        id_mark = _ID_MARKS[length] if length < len(_ID_MARKS) else _ID_TAG + varint(length)
        parts = [template, id_mark, request_id]
        for mark, array in zip(marks, outputs):  # noqa: B905  # the template has a mark for each of them
            if mark is not None:
                parts += (mark, array.tobytes())
            else:
                raw = tensors.encode_bytes(array)
                parts += (_RAW_OUTPUT_TAG, varint(len(raw)), raw)
        return b"".join(parts)

    def _template(
        self, key: tuple[Any, ...], facts: ModelFacts, wanted: Sequence[int], outputs: Sequence[NDArray[Any]]
    ) -> _Template:
        size_bytes = sum(array.nbytes for array in outputs)
        if size_bytes > _MOST_BYTES:
            raise InvalidInput(
                f"the answer takes {size_bytes} bytes, gRPC carries at most {_MOST_BYTES}: ask for fewer rows"
            )
        response = pb.ModelInferResponse(model_name=facts.name, model_version=facts.version)
        marks: list[bytes | None] = []
        for position, array in zip(wanted, outputs, strict=True):
            spec = facts.spec.outputs[position]
            response.outputs.add(name=spec.name, datatype=tensors.datatype_of(spec.dtype), shape=array.shape)
            marks.append(None if spec.dtype.hasobject else _RAW_OUTPUT_TAG + varint(array.nbytes))
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        template = self._templates[key] = _Template(response.SerializeToString(), tuple(marks))
        return template


def _raw(array: NDArray[Any]) -> bytes:
    return array.tobytes() if array.dtype != object else tensors.encode_bytes(array)


def _rendered(work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
    """Return the answer's bytes where an output is told as classes or goes to shared memory."""
    facts = work.model.facts
    response = pb.ModelInferResponse(model_name=facts.name, model_version=facts.version, id=work.id)
    for position, array in zip(work.wanted, outputs, strict=True):
        spec = facts.spec.outputs[position]
        asked = work.rendering.outputs.get(spec.name)
        shown = _classified(facts, spec.name, array, asked) if isinstance(asked, Classes) else array
        output = response.outputs.add(
            name=spec.name, datatype=tensors.datatype_of(shown.dtype), shape=shown.shape
        )
        if isinstance(asked, Slice):
            _share(array, asked, output.parameters)
            response.raw_output_contents.append(b"")
        else:
            response.raw_output_contents.append(_raw(shown))
    if not facts.settings.is_decoupled:
        work.rendering = None  # it holds on to regions, which may be forgotten once the answer has come
    return response.SerializeToString()


def _classified(facts: ModelFacts, name: str, array: NDArray[Any], asked: Classes) -> NDArray[Any]:
    labels = facts.settings.labels.get(name, ())
    try:
        return top_classes(array, asked.count, labels, has_batch_axis=facts.spec.has_batch_axis)
    except TooManyClasses as error:
        raise InvalidInput(f"output {name!r}: {error}") from None


def _share(array: NDArray[Any], asked: Slice, parameters: MutableMapping[str, pb.InferParameter]) -> None:
    """Write an output into shared memory, and say in its parameters where it stands."""
    if array.dtype == object:
        data = memoryview(tensors.encode_bytes(array))
    else:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    asked.write(data)
    parameters["shared_memory_region"].string_param = asked.region.name
    parameters["shared_memory_offset"].int64_param = asked.offset
    parameters["shared_memory_byte_size"].int64_param = len(data)


def stream_answer(response: bytes, *, is_final: bool = True) -> bytes:
    """Return the bytes of a ModelStreamInferResponse that carries this ModelInferResponse.

    It tells in the parameter `triton_final_response` whether the request will get no other one.
    """
    flag = _FINAL if is_final else _NOT_FINAL
    return b"".join((_STREAM_ANSWER_TAG, varint(len(response) + len(flag)), response, flag))


def stream_end(work: Work) -> bytes:
    """Return the bytes of a ModelStreamInferResponse without outputs: the request gets no other response."""
    facts = work.model.facts
    response = pb.ModelInferResponse(model_name=facts.name, model_version=facts.version, id=work.id)
    return stream_answer(response.SerializeToString())


def stream_error(status: Status, request_id: str) -> bytes:
    """Return the bytes of a ModelStreamInferResponse that ends one request of a stream with an error.

    The protocol has a text only. What the status of a unary call would say beside it goes into the
    response's parameters: `error_code` (the code's name), `error_reason`, `retry_after_seconds`.
    """
    parameters = {
        "error_code": pb.InferParameter(string_param=status.code.name),
        "triton_final_response": pb.InferParameter(bool_param=True),
    }
    if status.reason:
        parameters["error_reason"] = pb.InferParameter(string_param=status.reason)
    if status.retry_after_seconds is not None:
        parameters["retry_after_seconds"] = pb.InferParameter(double_param=status.retry_after_seconds)
    response = pb.ModelInferResponse(id=request_id, parameters=parameters)
    return pb.ModelStreamInferResponse(error_message=status.text, infer_response=response).SerializeToString()


def _final_response(*, is_final: bool) -> bytes:
    """Return the bytes of a ModelInferResponse that has this one parameter: they may follow any other's."""
    parameter = pb.InferParameter(bool_param=is_final)
    return pb.ModelInferResponse(parameters={"triton_final_response": parameter}).SerializeToString()


_FINAL: Final = _final_response(is_final=True)
_NOT_FINAL: Final = _final_response(is_final=False)
