"""A request's parameters: their types, and what they mean."""

from __future__ import annotations

import json
from typing import Any, Final

from oip import differences
from oip.build import Parameters, Value, infer, raw, tensors
from oip.case import Case, Code, ask, case

from headrace_proto.v1 import inference_pb2 as pb

_X: Final = raw("x", "FP32", [[1]])
_ANSWER: Final = tensors(y=("FP32", [[2]]))


def _unsigned(value: int) -> pb.InferParameter:
    return pb.InferParameter(uint64_param=value)


def _label(key: str, value: Value) -> str:
    if isinstance(value, pb.InferParameter):
        return f"{key} as " + (str(value).strip() or "nothing")
    return f"{key} as {type(value).__name__} {value!r}"


def _accepted(key: str, value: Value, model: str = "told") -> Case:
    request = infer(model, _X, parameters={key: value})
    return case(f"{_label(key, value)} is accepted by {model}", ask("ModelInfer", request, gives=_ANSWER))


def _refused(key: str, value: Value, code: Code = Code.INVALID_ARGUMENT, **more: Any) -> Case:
    request = infer("told", _X, parameters={key: value})
    return case(f"{_label(key, value)} is refused", ask("ModelInfer", request, code, key, **more))


def _said(name: str, given: Parameters, expected: dict[str, Any]) -> Case:
    said = json.dumps(expected, sort_keys=True).encode()
    return case(
        name,
        ask(
            "ModelInfer",
            infer("echo_parameters", _X, parameters=given),
            gives=tensors(said=("BYTES", [[said]])),
        ),
    )


_EMPTY_FINAL: Final = "triton_enable_empty_final_response"

CASES: Final[list[Case]] = [
    *(_accepted("mine", value) for value in (1, -(2**63), "a", "", True, 2.5)),
    _accepted("headers", "a"),
    _accepted("binary_data_output", True),
    _refused("mine", _unsigned(7)),
    _refused("mine", pb.InferParameter()),
    *(_accepted("priority", value) for value in (0, 1, 9, _unsigned(2))),
    *(_accepted("priority", value, "levels") for value in (0, 1, 3, 9, _unsigned(2), _unsigned(2**64 - 1))),
    *(_refused("priority", value) for value in (-1, "1", True, 1.0)),
    *(_accepted("timeout", value) for value in (0, 60_000_000, 2**63 - 1)),
    *(_refused("timeout", value) for value in ("5", True, 5.0, _unsigned(5))),
    _refused("timeout", -1, differs=differences.NEGATIVE_TIMEOUT),
    _accepted(_EMPTY_FINAL, True),
    _accepted(_EMPTY_FINAL, False),
    *(_refused(_EMPTY_FINAL, value) for value in (1, "true")),
    _refused("triton_mine", 1),
    _refused("triton_final_response", True),
    *(_accepted("sequence_id", value) for value in (0, "")),
    *(_refused("sequence_id", value) for value in (True, 1.5, _unsigned(5))),
    *(_refused("sequence_start", value) for value in (1, "true")),
    *(_refused("sequence_end", value) for value in (0, "x")),
    *(
        _refused("sequence_id", value, Code.UNIMPLEMENTED, differs=differences.STATELESS_SEQUENCE)
        for value in (5, "abc")
    ),
    _said(
        "a program gets the parameters that are nobody else's",
        {"a": 1, "b": "ü", "c": True, "d": 2.5},
        {"a": 1, "b": "ü", "c": True, "d": 2.5},
    ),
    _said(
        "a program gets no parameters of the protocol",
        {"a": 1, "priority": 1, "timeout": 5_000_000},
        {"a": 1},
    ),
    _said("a program gets no parameters where none came", {}, {}),
]
