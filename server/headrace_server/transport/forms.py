"""Recognises messages that differ from an earlier one in their id and data alone, without building them.

Clients send the same few kinds of request again and again, and reading one through protobuf, field by field,
takes as long as all that comes after it. Here its bytes are compared with those of one that was read before,
and only the id and the data are taken out. That is for messages which are written as protobuf writes them:

    model, version | id | all but the data; tag and length of the first data | the data | tag, length | …

All but the id and the data has to be equal byte for byte, so that protobuf would find the same in it.
Parameters are a map, which protobuf writes in another order in each process: they are learned as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.request import Form, InputTensor, Parameter, Parameters, Request
from headrace_server.transport.varint import varint

_VERSION_TAG: Final = 0x12
_ID_TAG: Final = 0x1A
_RAW_INPUT_TAG: Final = b"\x3a"
_MOST_SHORT: Final = 127
"""The longest text whose length takes one byte."""
_LARGE_BYTES: Final = 1 << 14
"""Data from here on is not copied out of its message."""
_MOST_SIGHTINGS: Final = 1024
"""Then everything is forgotten, and what still comes is learned anew."""
_MOST_ALIKE: Final = 4
"""Forms of one model and one length."""
_MOST_FORM_BYTES: Final = 1024
"""Beside the data; so all forms take a few megabytes at the most."""

_NO_PARAMETERS: Final[Parameters] = MappingProxyType({})
_new: Final = tuple.__new__
"""Makes a named tuple in half the time that its own class takes."""


class _Part(NamedTuple):
    """An input, and where its data stands."""

    mark: bytes
    """What comes before the data, and after the data of the input before."""
    size_bytes: int
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Known(NamedTuple):
    form: Form
    model: str
    version: str
    parts: tuple[_Part, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter]


class Forms:
    """The forms that were learned. Any thread may call it: what two learn at once does no harm."""

    def __init__(self) -> None:
        self._by_head: dict[bytes, dict[int, tuple[_Known, ...]]] = {}
        """By the bytes of model and version, then by how many bytes follow the id."""
        self._sightings: dict[tuple[str, str, int], int] = {}
        """How often messages came that were not recognised, by model, version and about their length."""

    def recall(self, message: bytes) -> Request | None:
        """Return the request in a message of a form that was learned, else None."""
        try:
            at = message[1] + 2
            if message[at] == _VERSION_TAG:
                at += message[at + 1] + 2
            by_size = self._by_head.get(message[:at])
            if by_size is None:
                return None
            begin = at
            if message[at] == _ID_TAG:
                begin += 2
                at = begin + message[at + 1]
            candidates = by_size.get(len(message) - at)
            if candidates is None or at - begin > _MOST_SHORT:
                return None
            request_id = message[begin:at].decode()
        except (IndexError, UnicodeDecodeError):
            return None
        for form, model, version, parts, outputs, parameters in candidates:
            inputs: list[InputTensor] = []
            end = at
            for mark, size_bytes, name, datatype, shape in parts:
                if not message.startswith(mark, end):
                    break
                begin = end + len(mark)
                end = begin + size_bytes
                data = message[begin:end] if size_bytes < _LARGE_BYTES else memoryview(message)[begin:end]
                inputs.append(_new(InputTensor, (name, datatype, shape, data)))
            else:
                own = parameters.copy() if parameters else _NO_PARAMETERS
                return _new(Request, (model, version, request_id, inputs, outputs, own, None, form))
        return None

    def learn(self, message: bytes, built: pb.ModelInferRequest, request: Request) -> None:
        """Take note of the form of a message, given as what protobuf built of it, and what was read there.

        What was built is changed. Learning takes longer than reading: what comes once is let pass, and of
        what goes on coming and is still not recognised, ever fewer messages are looked at.
        """
        is_short = max(len(request.model), len(request.version)) <= _MOST_SHORT
        if not is_short or request.rendering is not None:
            return
        sighting = (request.model, request.version, len(message) - len(request.id))
        if len(self._sightings) >= _MOST_SIGHTINGS:
            self._sightings = {}
            self._by_head = {}
        times = self._sightings[sighting] = self._sightings.get(sighting, 0) + 1
        if times > 1 and not times & (times - 1):
            self._look_at(message, built, request)

    def _look_at(self, message: bytes, built: pb.ModelInferRequest, request: Request) -> None:
        inputs = request.inputs
        if not inputs or len(built.raw_input_contents) != len(inputs) or any(map(_is_looked_through, inputs)):
            return
        head = pb.ModelInferRequest(model_name=request.model, model_version=request.version)
        head_bytes = head.SerializeToString()
        id_bytes = pb.ModelInferRequest(id=request.id).SerializeToString()
        parts = _parts(message, len(head_bytes) + len(id_bytes), built, inputs)
        form_bytes = len(head_bytes) + sum(len(part.mark) for part in parts)
        if form_bytes > _MOST_FORM_BYTES or not _consists_of(message, (head_bytes, id_bytes), parts):
            return
        known = _Known(
            Form(), request.model, request.version, parts, tuple(request.outputs), dict(request.parameters)
        )
        by_size = self._by_head.setdefault(head_bytes, {})
        size_bytes = len(message) - len(head_bytes) - len(id_bytes)
        by_size[size_bytes] = (known, *by_size.get(size_bytes, ())[: _MOST_ALIKE - 1])


def _is_looked_through(tensor: InputTensor) -> bool:
    """Whether all of the data is looked at before it is accepted, so that a large tensor is not quick."""
    return tensor.datatype == "BYTES" or (tensor.datatype == "BOOL" and len(tensor.data) >= _LARGE_BYTES)


def _consists_of(message: bytes, beginning: Sequence[bytes], parts: Sequence[_Part]) -> bool:
    """Whether the message is these bytes, then each part's mark and as many bytes as its data has."""
    at = 0
    for expected in beginning:
        if not message.startswith(expected, at):
            return False
        at += len(expected)
    for part in parts:
        if not message.startswith(part.mark, at):
            return False
        at += len(part.mark) + part.size_bytes
    return at == len(message)


def _is(built: pb.ModelInferRequest, message: bytes) -> bool:
    try:
        return pb.ModelInferRequest.FromString(message) == built
    except DecodeError:
        return False


def _parts(
    message: bytes, at: int, built: pb.ModelInferRequest, inputs: Sequence[InputTensor]
) -> tuple[_Part, ...]:
    """Return the inputs of a message; `at` is where its id ends."""
    for field in ("model_name", "model_version", "id", "raw_input_contents"):
        built.ClearField(field)
    before = built.SerializeToString()
    came = message[at : at + len(before)]
    if came != before and _is(built, came):  # parameters may stand in any order, also here
        before = came
    parts = []
    for tensor in inputs:
        size_bytes = len(tensor.data)
        mark = b"".join((before, _RAW_INPUT_TAG, varint(size_bytes)))
        parts.append(_Part(mark, size_bytes, tensor.name, tensor.datatype, tensor.shape))
        before = b""
    return tuple(parts)
