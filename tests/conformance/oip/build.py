"""Requests and the parts of answers, in few words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from oip.case import Check, Earlier
from oip.wire import Outcome

from headrace_proto.tensors import DTYPES, to_raw
from headrace_proto.v1 import inference_pb2 as pb

Value = bool | int | float | str | pb.InferParameter
Parameters = Mapping[str, Value]
NONE: Parameters = MappingProxyType({})

TYPED_FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """An input as a request has it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None = None
    typed: pb.InferTensorContents | None = None
    parameters: Parameters = field(default_factory=lambda: NONE)


def array(datatype: str, values: Any) -> np.ndarray[Any, Any]:
    """Return the values as an array of the datatype; strings become bytes objects."""
    if datatype == "BYTES":
        return np.array(values, object)
    return np.array(values, DTYPES[datatype])


def data(datatype: str, values: Any) -> bytes:
    """Return the raw contents of these values."""
    return to_raw(array(datatype, values))


def raw(name: str, datatype: str, values: Any, *, parameters: Parameters = NONE) -> Given:
    """Give an input in raw contents."""
    rows = array(datatype, values)
    return Given(name, datatype, rows.shape, to_raw(rows), None, parameters)


def typed(name: str, datatype: str, values: Any) -> Given:
    """Give an input in typed contents."""
    rows = array(datatype, values)
    contents = pb.InferTensorContents(**{TYPED_FIELDS[datatype]: rows.ravel().tolist()})
    return Given(name, datatype, rows.shape, None, contents)


def infer(
    model: str,
    *inputs: Given,
    outputs: tuple[str | tuple[str, Parameters], ...] = (),
    id: str = "",  # noqa: A002  # the field's name in the protocol
    version: str = "",
    parameters: Parameters = NONE,
) -> pb.ModelInferRequest:
    """Make a request for an inference."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    _set(request.parameters, parameters)
    for given in inputs:
        tensor = request.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
        _set(tensor.parameters, given.parameters)
        if given.typed is not None:
            tensor.contents.CopyFrom(given.typed)
        if given.raw is not None:
            request.raw_input_contents.append(given.raw)
    for output in outputs:
        name, chosen = output if isinstance(output, tuple) else (output, NONE)
        _set(request.outputs.add(name=name).parameters, chosen)
    return request


def parameter(value: Value) -> pb.InferParameter:
    """Wrap a parameter's value; a message chooses the field by itself."""
    if isinstance(value, pb.InferParameter):
        return value
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=value)


def tensors(**expected: tuple[str, Any]) -> Check:
    """Expect just these outputs of an answer, in this order, bit for bit, each as (datatype, values)."""

    def check(outcome: Outcome, _earlier: Earlier) -> None:
        same_tensors(outcome.answer, expected)

    return check


def same_tensors(answer: pb.ModelInferResponse, expected: Mapping[str, tuple[str, Any]]) -> None:
    """Check the outputs of an answer, which stand in raw contents alone."""
    assert [one.name for one in answer.outputs] == list(expected)
    assert len(answer.raw_output_contents) == len(expected)
    for output, came, (datatype, values) in zip(
        answer.outputs, answer.raw_output_contents, expected.values(), strict=True
    ):
        rows = array(datatype, values)
        assert (output.datatype, tuple(output.shape)) == (datatype, rows.shape)
        assert came == to_raw(rows), f"{output.name}: {came!r} came, {to_raw(rows)!r} expected"
        assert not output.HasField("contents")


def _set(target: Any, parameters: Parameters) -> None:
    for key, value in parameters.items():
        target[key].CopyFrom(parameter(value))
