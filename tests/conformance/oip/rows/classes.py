"""Classification: an output as its largest values, with their labels."""

from __future__ import annotations

from typing import Any, Final

from oip.build import Given, Value, infer, raw, tensors
from oip.case import Case, Code, ask, case, talk
from oip.rows.streams import answers

from headrace_proto.v1 import inference_pb2 as pb

_SCORES: Final = raw("x", "FP32", [[0.1, 0.5, 0.2, 0.9, 0.3]])
_TEN: Final = "0.900000:3:fir", "0.500000:1:elm", "0.300000:4:yew", "0.200000:2:ash", "0.100000:0:oak"


def _bytes(*rows: tuple[str, ...]) -> Any:
    return [[value.encode() for value in row] for row in rows]


def _classes(name: str, model: str, given: Given, count: Value, expected: Any) -> Case:
    request = infer(model, given, outputs=(("y", {"classification": count}),))
    return case(name, ask("ModelInfer", request, gives=tensors(y=("BYTES", expected))))


def _refused(name: str, count: Value, says: str, model: str = "scores", given: Given = _SCORES) -> Case:
    request = infer(model, given, outputs=(("y", {"classification": count}),))
    return case(name, ask("ModelInfer", request, Code.INVALID_ARGUMENT, says))


def _three(datatype: str, values: list[Any], *expected: str) -> Case:
    return _classes(
        f"classes of {datatype}", f"identity_{datatype}", raw("x", datatype, [values]), 3, _bytes(expected)
    )


CASES: Final[list[Case]] = [
    *(
        _classes(f"the first {count} of five classes", "scores", _SCORES, count, _bytes(_TEN[:count]))
        for count in (1, 3, 5)
    ),
    _classes("more classes than there are", "scores", _SCORES, 9, _bytes(_TEN)),
    _classes(
        "each row of a batch has classes of its own",
        "scores",
        raw("x", "FP32", [[0.1, 0.5, 0.2, 0.9, 0.3], [9, 1, 2, 3, 4]]),
        2,
        _bytes(_TEN[:2], ("9.000000:0:oak", "4.000000:4:yew")),
    ),
    _classes(
        "equal values stand in the order of their classes",
        "scores",
        raw("x", "FP32", [[1, 1, 1, 1, 1]]),
        3,
        _bytes(("1.000000:0:oak", "1.000000:1:elm", "1.000000:2:ash")),
    ),
    _classes(
        "values of any size",
        "scores",
        raw("x", "FP32", [[1e-9, 1e20, -3.5, float("inf"), 1]]),
        5,
        _bytes(
            (
                "inf:3:fir",
                "100000002004087734272.000000:1:elm",
                "1.000000:4:yew",
                "0.000000:0:oak",
                "-3.500000:2:ash",
            )
        ),
    ),
    _classes(
        "no labels", "identity_FP32", raw("x", "FP32", [[1, 3, 2]]), 2, _bytes(("3.000000:1", "2.000000:2"))
    ),
    _classes(
        "a model without a batch axis has one list of classes",
        "alone",
        raw("x", "FP32", [[1, 2, 3], [4, 5, 6]]),
        2,
        [b"6.000000:5", b"5.000000:4"],
    ),
    _three("FP64", [0.5, 2, 1], "2.000000:1", "1.000000:2", "0.500000:0"),
    _three("INT8", [-5, 100, 7], "100:1", "7:2", "-5:0"),
    _three("INT16", [3, 1, 2], "3:0", "2:2", "1:1"),
    _three("INT32", [3, 1, 2], "3:0", "2:2", "1:1"),
    _three("INT64", [2**60, -1, 2], "1152921504606846976:0", "2:2", "-1:1"),
    _three("UINT8", [255, 0, 1], "255:0", "1:2", "0:1"),
    _three("UINT16", [65535, 0, 1], "65535:0", "1:2", "0:1"),
    _three("UINT32", [2**32 - 1, 0, 1], "4294967295:0", "1:2", "0:1"),
    _three("UINT64", [2**64 - 1, 0, 1], "18446744073709551615:0", "1:2", "0:1"),
    *(
        _refused(f"classification as {value!r}".replace("\n", " "), value, "classification")
        for value in (0, -1, "2", True, 2.0, pb.InferParameter(uint64_param=2))
    ),
    _refused("classes of BOOL", 2, "BOOL", "identity_BOOL", raw("x", "BOOL", [[1, 0, 1]])),
    _refused("classes of FP16", 2, "FP16", "identity_FP16", raw("x", "FP16", [[1, 0, 1]])),
    case(
        "classes of BYTES",
        ask(
            "ModelInfer",
            infer(
                "identity_BYTES",
                raw("x", "BYTES", [[b"a", b"b", b"c"]]),
                outputs=(("y", {"classification": 2}),),
            ),
            Code.INVALID_ARGUMENT,
            "BYTES",
        ),
        only_ours="Triton 2.51 dies of it",
    ),
    case(
        "classes on a stream",
        talk(
            infer("scores", _SCORES, outputs=(("y", {"classification": 1}),)),
            gives=answers({"y": ("BYTES", _bytes(_TEN[:1]))}),
        ),
    ),
]
