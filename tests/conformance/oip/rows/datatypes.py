"""Every datatype, raw and typed, with the values at its edges."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from oip import differences
from oip.build import Given, infer, raw, tensors, typed
from oip.case import Case, Code, ask, case

from headrace_proto.tensors import DTYPES
from headrace_proto.v1 import inference_pb2 as pb

_NO_BF16: Final = "the Python backend of Triton 2.51 cannot turn BF16 into an array"
_EDGES: Final[dict[str, list[list[Any]]]] = {
    "BOOL": [[False, True, True]],
    **{
        name: [[np.iinfo(DTYPES[name]).min, np.iinfo(DTYPES[name]).max, 1]]
        for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
    },
    "FP16": [[65504, -0.0, 6e-8]],
    "FP32": [[float("inf"), float("-inf"), -0.0]],
    "FP64": [[1.7976931348623157e308, 5e-324, -0.0]],
    "BF16": [[3.3895313892515355e38, -0.0, 1e-40]],
    "BYTES": [[b"", "€ und 漢".encode(), b"a\0b" * 100]],
}
_PLAIN: Final = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
_WORDS: Final = [[b"a", b"bc", b""], [b"d" * 5000, b"\n", b"\0"]]


def _rows(datatype: str) -> Any:
    return _WORDS if datatype == "BYTES" else _PLAIN


def _round_trip(name: str, given: Given, values: Any) -> Case:
    answer = tensors(y=(given.datatype, values))
    return case(
        name,
        ask("ModelInfer", infer(f"identity_{given.datatype}", given), gives=answer),
        only_ours=_NO_BF16 if given.datatype == "BF16" else "",
    )


def _bits(datatype: str, pattern: bytes) -> Any:
    return np.frombuffer(pattern, DTYPES[datatype]).reshape(1, 3)


_TYPED: Final = [name for name in DTYPES if name not in ("FP16", "BF16")]
_NAN: Final = {
    "FP32": _bits("FP32", b"\x01\x00\x80\x7f\xff\xff\xff\xff\x00\x00\xc0\x7f"),
    "FP64": _bits("FP64", b"\1\0\0\0\0\0\xf0\x7f" + b"\xff" * 8 + b"\0\0\0\0\0\0\xf8\x7f"),
    "FP16": _bits("FP16", b"\x01\x7c\xff\xff\x00\x7e"),
}


def _contents(datatype: str, **fields: Any) -> Given:
    return Given("x", datatype, (1, 3), None, pb.InferTensorContents(**fields))


def _beyond(datatype: str, field: str, value: int) -> Case:
    request = infer(f"identity_{datatype}", _contents(datatype, **{field: [value, 1, 1]}))
    return case(
        f"typed {datatype} beyond its range",
        ask(
            "ModelInfer",
            request,
            Code.INVALID_ARGUMENT,
            f"{datatype} element 0 is {value}",
            differs=differences.NARROW_VALUE,
        ),
    )


def _refused(name: str, model: str, given: Given, says: str) -> Case:
    return case(name, ask("ModelInfer", infer(model, given), Code.INVALID_ARGUMENT, says))


CASES: Final[list[Case]] = [
    *(_round_trip(f"raw {name}", raw("x", name, _rows(name)), _rows(name)) for name in DTYPES),
    *(_round_trip(f"raw {name} at its edges", raw("x", name, rows), rows) for name, rows in _EDGES.items()),
    *(_round_trip(f"typed {name}", typed("x", name, _rows(name)), _rows(name)) for name in _TYPED),
    *(
        _round_trip(f"typed {name} at its edges", typed("x", name, _EDGES[name]), _EDGES[name])
        for name in _TYPED
    ),
    *(
        _round_trip(f"{name} keeps the bits of NaN", raw("x", name, rows), rows)
        for name, rows in _NAN.items()
    ),
    _beyond("INT8", "int_contents", 300),
    _beyond("INT16", "int_contents", 70000),
    _beyond("UINT8", "uint_contents", 300),
    _beyond("UINT16", "uint_contents", 70000),
    _refused(
        "FP16 has no typed contents", "identity_FP16", _contents("FP16", fp32_contents=[1, 2, 3]), "FP16"
    ),
    _refused(
        "BF16 has no typed contents", "identity_BF16", _contents("BF16", fp32_contents=[1, 2, 3]), "BF16"
    ),
    _refused(
        "typed contents in the field of another datatype",
        "identity_FP32",
        _contents("FP32", int_contents=[1, 2, 3]),
        "input 'x'",
    ),
    _refused(
        "typed contents in two fields",
        "identity_FP32",
        _contents("FP32", fp32_contents=[1, 2, 3], int_contents=[1, 2, 3]),
        "input 'x'",
    ),
    _refused("too few typed elements", "identity_FP32", _contents("FP32", fp32_contents=[1, 2]), "input 'x'"),
    _refused(
        "too many typed elements", "identity_INT64", _contents("INT64", int64_contents=[1] * 4), "input 'x'"
    ),
    _refused(
        "too few typed strings", "identity_BYTES", _contents("BYTES", bytes_contents=[b"a"]), "input 'x'"
    ),
    _refused("a string that is cut", "identity_BYTES", Given("x", "BYTES", (1, 3), b"\1\0\0\0"), "cut"),
    _refused(
        "a string's length that is cut", "identity_BYTES", Given("x", "BYTES", (1, 3), b"\1\0"), "input 'x'"
    ),
    _refused(
        "a string longer than 4 GiB", "identity_BYTES", Given("x", "BYTES", (1, 3), b"\xff" * 4), "input 'x'"
    ),
    _refused("too many strings", "identity_BYTES", Given("x", "BYTES", (1, 3), bytes(16)), "input 'x'"),
    _refused("too few strings", "identity_BYTES", Given("x", "BYTES", (1, 3), bytes(8)), "input 'x'"),
    case(
        "a BOOL that is neither 0 nor 1",
        ask(
            "ModelInfer",
            infer("identity_BOOL", Given("x", "BOOL", (1, 3), b"\0\1\2")),
            Code.INVALID_ARGUMENT,
            "a BOOL is a byte 0 or 1",
            differs=differences.BOOL_BYTE,
        ),
    ),
    case(
        "a string that is no text, for an ONNX model",
        ask(
            "ModelInfer",
            infer("identity_BYTES", raw("x", "BYTES", [[b"\xff", b"a", b"b"]])),
            Code.INVALID_ARGUMENT,
            "UTF-8",
            differs=differences.TEXT_BYTES,
        ),
    ),
    case(
        "a string that is no text, for a program",
        ask(
            "ModelInfer",
            infer("blob", raw("x", "BYTES", [[b"\xff\xfe\0"], [b"\x89PNG"]])),
            gives=tensors(y=("BYTES", [[b"\xff\xfe\0"], [b"\x89PNG"]])),
        ),
    ),
]
