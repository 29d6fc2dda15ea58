"""What an inference gives: ids, versions, and the outputs that were asked for."""

from __future__ import annotations

from typing import Any, Final

import grpc
import numpy as np
from oip import differences
from oip.build import infer, raw, tensors
from oip.case import Case, Code, Earlier, ask, case
from oip.wire import Outcome

from headrace_proto.v1 import inference_pb2 as pb

_X: Final = raw("x", "FP32", [[1, 2, 3]])
_Y: Final = tensors(y=("FP32", [[1, 2, 3]]))
_ONES: Final = np.ones((1, 16), np.int32)
_PAIR: Final = (raw("INPUT0", "INT32", _ONES * 3), raw("INPUT1", "INT32", _ONES))


def _asked(name: str, outputs: tuple[str, ...], **expected: Any) -> Case:
    return case(name, ask("ModelInfer", infer("simple", *_PAIR, outputs=outputs), gives=tensors(**expected)))


def _both(outcome: Outcome, _earlier: Earlier) -> None:
    assert {one.name for one in outcome.answer.outputs} == {"OUTPUT0", "OUTPUT1"}
    assert len(outcome.answer.raw_output_contents) == 2


def _id(request_id: str) -> Case:
    label = f"{len(request_id)} characters" if len(request_id) > 20 else repr(request_id)
    return case(
        f"the id {label} comes back",
        ask("ModelInfer", infer("identity_FP32", _X, id=request_id), gives=_has_id(request_id)),
    )


def _bare(outcome: Outcome, _earlier: Earlier) -> None:
    assert not outcome.answer.parameters


def _has_id(request_id: str) -> Any:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        assert outcome.answer.id == request_id

    return check


CASES: Final[list[Case]] = [
    *map(_id, ("", "7", "a b", "Grüße, 世界", "x" * 10_000)),
    case(
        "an answer to a call has no parameters",
        ask("ModelInfer", infer("told", raw("x", "FP32", [[1]])), gives=_bare),
    ),
    case(
        "a string of 8 MiB",
        ask(
            "ModelInfer",
            infer("identity_BYTES", raw("x", "BYTES", [[b"x" * (8 << 20), b"", b"a"]])),
            gives=tensors(y=("BYTES", [[b"x" * (8 << 20), b"", b"a"]])),
        ),
    ),
    *(
        case(
            f"a message of 80 MiB{label}",
            ask(
                "ModelInfer",
                infer("identity_BYTES", raw("x", "BYTES", [[b"x" * (80 << 20), b"", b"a"]])),
                Code.RESOURCE_EXHAUSTED,
                "larger than max",
                differs=differences.MESSAGE_TOO_LARGE,
                compression=compression,
            ),
            ask("ModelInfer", infer("identity_FP32", _X), gives=_Y),
        )
        for label, compression in (("", None), (" that is compressed", grpc.Compression.Gzip))
    ),
    case(
        "an answer names the model and the version that gave it",
        ask(
            "ModelInfer",
            infer("chosen_versions", raw("x", "FP32", [[1]]), version="1"),
            gives=pb.ModelInferResponse(model_name="chosen_versions", model_version="1"),
        ),
    ),
    case(
        "an answer names the version where none was asked for",
        ask(
            "ModelInfer",
            infer("latest_two", raw("x", "FP32", [[1]])),
            gives=pb.ModelInferResponse(model_name="latest_two", model_version="3"),
        ),
    ),
    _asked(
        "all outputs, where none is named", (), OUTPUT0=("INT32", _ONES * 4), OUTPUT1=("INT32", _ONES * 2)
    ),
    _asked("the first output", ("OUTPUT0",), OUTPUT0=("INT32", _ONES * 4)),
    _asked("the second output", ("OUTPUT1",), OUTPUT1=("INT32", _ONES * 2)),
    _asked(
        "an output that is named twice is answered once", ("OUTPUT1", "OUTPUT1"), OUTPUT1=("INT32", _ONES * 2)
    ),
    case(
        "both outputs in another order",
        ask("ModelInfer", infer("simple", *_PAIR, outputs=("OUTPUT1", "OUTPUT0")), gives=_both),
    ),
    case(
        "an output that nobody knows",
        ask(
            "ModelInfer",
            infer("simple", *_PAIR, outputs=("OUTPUT0", "z")),
            Code.INVALID_ARGUMENT,
            "no output 'z'; it has 'OUTPUT0', 'OUTPUT1'",
        ),
    ),
    case(
        "an output without a name",
        ask("ModelInfer", infer("identity_FP32", _X, outputs=("",)), Code.INVALID_ARGUMENT, "output"),
    ),
    case(
        "parameters of inputs and outputs that nobody knows are passed over",
        ask(
            "ModelInfer",
            infer(
                "identity_FP32",
                raw("x", "FP32", [[1, 2, 3]], parameters={"mine": 1, "binary_data_size": 12}),
                outputs=(("y", {"mine": "a", "binary_data": True}),),
            ),
            gives=_Y,
        ),
    ),
    *(
        case(
            f"a request that is compressed: {compression.name}",
            ask("ModelInfer", infer("identity_FP32", _X), gives=_Y, compression=compression),
        )
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate)
    ),
    case(
        "metadata that nobody knows is passed over",
        ask(
            "ModelInfer",
            infer("identity_FP32", _X),
            gives=_Y,
            metadata=(("x-mine", "1"), ("authorization", "none")),
        ),
    ),
]
