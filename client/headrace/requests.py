"""Arrays to the bytes of requests.

A request is put together from a template (everything that depends on names, dtypes and shapes alone,
serialised once by protobuf), what it has of its own, and the tensors, whose bytes are copied from the
arrays into the message and nowhere else. Protobuf allows a message's fields in any order, and a client
that repeats itself needs no message objects: this is plain concatenation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from headrace.errors import InvalidInput
from headrace_proto import tensors
from headrace_proto.v1.inference_pb2 import InferParameter, ModelInferRequest

Outputs = Sequence[str] | Mapping[str, int]
"""The names of the outputs that are wanted; as a mapping, with how many of its best classes each is to
be given as, 0 for the tensor itself."""

Parameters = Mapping[str, bool | int | float | str]
"""What a request says beside its tensors, to the server or to the model."""

CLASSES_PARAMETER: Final = "classification"
"""By which an output is asked for as its best classes."""

_RAW_INPUT_TAG: Final = b"\x3a"
_MAX_TEMPLATES: Final = 1024
_BRAIN_FLOAT: Final = np.dtype(ml_dtypes.bfloat16)
_AS_THEY_ARE: Final = frozenset(tensors.DTYPES.values()) - {np.dtype(object), _BRAIN_FLOAT}
"""The dtypes whose arrays lie in memory as they travel."""


@dataclass(slots=True)
class _Template:
    """What requests of one kind have in common, and what stands before each tensor.

    `head` are the model and its version, `fields` all else but what a request has of its own. A prefix is
    None for a tensor that does not lie in memory as it travels, or is not always of one size.
    """

    head: bytes
    fields: bytes
    prefixes: tuple[bytes | None, ...]


class RequestEncoder:
    """Makes ModelInferRequests; any thread may use it, since a template made twice does no harm."""

    def __init__(self) -> None:
        self._templates: dict[tuple[Any, ...], _Template] = {}

    def encode(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        version: str = "",
        outputs: Outputs | None = None,
        own: bytes = b"",
    ) -> bytes:
        """Return a request; `own` are fields that it has of its own, serialised: its id and its parameters.

        All fields stand in the order in which protobuf writes them, by which servers recognise requests.
        InvalidInput, naming the tensor, for what cannot be sent.
        """
        if not isinstance(model, str):
            raise InvalidInput(f"model: {type(model).__name__} came, its name expected")
        if not isinstance(inputs, Mapping):
            raise InvalidInput(f"inputs: {type(inputs).__name__} came, a mapping of names to arrays expected")
        arrays: dict[str, NDArray[Any]] = {}
        kind: list[Any] = [model, version, None if outputs is None else _key_of(outputs)]
        for name, given in inputs.items():
            array = arrays[name] = given if type(given) is np.ndarray else _plain(name, given)
            kind += (name, array.dtype, array.shape)
        key = tuple(kind)
        try:
            template = self._templates.get(key)
        except TypeError:  # what cannot be hashed is no name and no number: _template says which it is
            template = None
        if template is None:
            template = _template(model, arrays, version, outputs)
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[key] = template
        parts: list[Any] = [template.head, own, template.fields]
        for prefix, (name, array) in zip(template.prefixes, arrays.items(), strict=True):
            if prefix is None or not array.flags.c_contiguous:
                raw = _raw(name, array)
                parts += (_prefix(len(raw)), raw)
            else:
                parts += (prefix, array)
        return b"".join(parts)


def _plain(name: object, array: object) -> NDArray[Any]:
    """Return an array without what a subclass adds; InvalidInput for what is no array."""
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"input {name!r}: {type(array).__name__} came, numpy.ndarray expected")
    if isinstance(array, np.ma.MaskedArray):
        raise InvalidInput(f"input {name!r}: a masked array came, which cannot be sent: fill it, by filled()")
    return np.asarray(array)


def _key_of(outputs: Outputs) -> tuple[Any, ...]:
    if isinstance(outputs, str):
        raise InvalidInput(f"outputs: {outputs!r} came, a sequence of names expected, such as [{outputs!r}]")
    if isinstance(outputs, Mapping):  # with the types, as True and 1.0 are equal to 1 and travel otherwise
        return tuple((name, type(count), count) for name, count in outputs.items())
    if not isinstance(outputs, Collection):  # an iterator would be empty for the next request
        raise InvalidInput(f"outputs: {type(outputs).__name__} came, a sequence of names expected")
    return tuple(outputs)


def _text(what: str, value: object) -> str:
    """Return a text that a message can carry; InvalidInput for anything else."""
    if not isinstance(value, str):
        raise InvalidInput(f"{what} is {type(value).__name__}, str expected")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} is no text: {error}") from error
    return value


def _raw(name: str, array: NDArray[Any]) -> bytes | memoryview:
    if array.dtype == _BRAIN_FLOAT and array.flags.c_contiguous:  # which offers no buffer of its own
        return array.reshape(-1).view(np.uint8).data
    try:
        return tensors.to_raw(array)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"input {name!r}: {error}") from error


def _prefix(size: int) -> bytes:
    return _RAW_INPUT_TAG + _varint(size)


def _varint(value: int) -> bytes:
    """Return a number as protobuf writes lengths."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _template(
    model: str, arrays: Mapping[str, NDArray[Any]], version: str, outputs: Outputs | None
) -> _Template:
    if not arrays:
        raise InvalidInput("inputs: none came, at least one expected")
    head = ModelInferRequest(model_name=_text("model", model), model_version=_text("version", version))
    request = ModelInferRequest()
    for name, array in arrays.items():
        try:
            datatype = tensors.datatype_of(array.dtype)
        except ValueError as error:
            raise InvalidInput(f"input {name!r}: {error}") from error
        request.inputs.add(
            name=_text(f"input {name!r}: its name", name), datatype=datatype, shape=array.shape
        )
    for name in outputs or ():
        wanted = request.outputs.add(name=_text(f"output {name!r}: its name", name))
        if isinstance(outputs, Mapping) and outputs[name] != 0:
            _add_parameter(wanted.parameters, CLASSES_PARAMETER, outputs[name])
    prefixes = tuple(
        _prefix(array.nbytes) if array.dtype in _AS_THEY_ARE else None for array in arrays.values()
    )
    return _Template(head.SerializeToString(), request.SerializeToString(), prefixes)


def encode_own(parameters: Parameters | None, request_id: str = "") -> bytes:
    """Return the fields of a request that say its parameters and its id; InvalidInput for wrong ones."""
    if not parameters and not request_id:
        return b""
    request = ModelInferRequest(id=_text("request_id", request_id))
    if not isinstance(parameters, Mapping | None):
        raise InvalidInput(f"parameters: {type(parameters).__name__} came, a mapping of names expected")
    for name, value in (parameters or {}).items():
        _add_parameter(request.parameters, name, value)
    return request.SerializeToString()


def _add_parameter(
    parameters: MutableMapping[str, InferParameter], name: str, value: bool | float | str
) -> None:
    _text(f"parameter {name!r}: its name", name)
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
