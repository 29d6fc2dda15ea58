"""Streams of inference: order, errors, half close, and models that answer as often as they like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from oip import differences
from oip.build import infer, raw, same_tensors, tensors
from oip.case import Case, Check, Code, Earlier, act, ask, case, talk
from oip.wire import Outcome, Wire

from headrace_proto.v1 import inference_pb2 as pb

_X: Final = raw("x", "FP32", [[1, 2, 3]])
_Y: Final = {"y": ("FP32", [[1, 2, 3]])}
_FINAL: Final = "triton_final_response"
_AS_STATUS: Final = (("triton_grpc_error", "true"),)
Expected = Mapping[str, tuple[str, Any]] | str
"""The tensors of an answer, or the id of the request that an error message belongs to."""


def answers(*expected: Expected) -> Check:
    """Expect these answers in this order, each a final one."""

    def check(outcome: Outcome, _earlier: Earlier) -> None:
        assert len(outcome.answers) == len(expected), outcome.answers
        for answer, one in zip(outcome.answers, expected, strict=True):
            if isinstance(one, str):
                assert answer.error_message
                assert answer.infer_response.id == one
            else:
                assert not answer.error_message, answer.error_message
                same_tensors(answer.infer_response, one)
                assert answer.infer_response.parameters[_FINAL].bool_param

    return check


def _by_id(**expected: Any) -> Check:
    """Expect each id's answers in their order, whatever the order between ids."""

    def check(outcome: Outcome, _earlier: Earlier) -> None:
        came = defaultdict(list)
        for answer in outcome.answers:
            came[answer.infer_response.id].append(answer)
        assert came.keys() == expected.keys(), outcome.answers
        for key, want in expected.items():
            assert [_short(one) for one in came[key]] == want, came[key]

    return check


def _short(answer: Any) -> Any:
    """Return an answer of `repeat` in one word: its value, "error", or "end" for the empty final one."""
    response = answer.infer_response
    if answer.error_message:
        return "error"
    is_final = response.parameters[_FINAL].bool_param
    if not response.outputs:
        assert is_final
        return "end"
    value = int.from_bytes(response.raw_output_contents[0], "little", signed=True)
    return value if not is_final else ("final", value)


def repeat(request_id: str, *values: int, ends: bool = False) -> pb.ModelInferRequest:
    """Ask for each of these values as an answer of its own; a negative one is an error."""
    parameters = {"triton_enable_empty_final_response": True} if ends else {}
    return infer("repeat", raw("x", "INT32", list(values)), id=request_id, parameters=parameters)


def _same(count: int) -> list[pb.ModelInferRequest]:
    return [infer("identity_FP32", _X, id=str(number)) for number in range(count)]


def _each_id_once(count: int) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        assert sorted(int(one.infer_response.id) for one in outcome.answers) == list(range(count))
        assert not any(one.error_message for one in outcome.answers)

    return check


def _in_order(count: int) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        assert [int(one.infer_response.id) for one in outcome.answers] == list(range(count))

    return check


def _says_its_model(outcome: Outcome, _earlier: Earlier) -> None:
    (answer,) = outcome.answers
    assert answer.error_message
    assert answer.infer_response.id == "e"


def _one_at_a_time(wire: Wire, _earlier: Earlier) -> Outcome:
    """Write the next request when the answer to the last one was read."""
    stream = wire.open()
    read = []
    for request in _same(5):
        stream.write(request)
        read.append(stream.read())
    outcome = stream.half_close()
    return Outcome([*read, *outcome.answers], outcome.code, outcome.text)


def _left(wire: Wire, _earlier: Earlier) -> Outcome:
    """Leave a stream in the middle, and ask again on the same connection."""
    stream = wire.open()
    for request in _same(50):
        stream.write(request)
    stream.read()
    stream.cancel()
    return wire.call("ModelInfer", infer("identity_FP32", _X))


def _good_after(outcome: Outcome, _earlier: Earlier) -> None:
    wrong, good = sorted(outcome.answers, key=lambda one: str(one.infer_response.id), reverse=True)
    assert wrong.error_message
    assert wrong.infer_response.id == "e"
    same_tensors(good.infer_response, _Y)


def _error_and_answer(outcome: Outcome, _earlier: Earlier) -> None:
    error, good = sorted(outcome.answers, key=lambda one: str(one.infer_response.id))
    assert "ModelInferRequest" in error.error_message
    same_tensors(good.infer_response, _Y)


def _two_kinds(outcome: Outcome, _earlier: Earlier) -> None:
    one, other = sorted(outcome.answers, key=lambda one: str(one.infer_response.id))
    same_tensors(one.infer_response, _Y)
    same_tensors(other.infer_response, {"y": ("INT32", [7])})


CASES: Final[list[Case]] = [
    case("a stream without a request ends well", talk(gives=answers())),
    case("one request", talk(infer("identity_FP32", _X, id="a"), gives=answers(_Y))),
    case("one request and its answer after another", act(_one_at_a_time, gives=_in_order(5))),
    case("300 requests at once", talk(*_same(300), gives=_each_id_once(300))),
    case(
        "answers keep their requests' order where the configuration says so",
        talk(
            *(infer("ordered", raw("x", "FP32", [[1]]), id=str(number)) for number in range(100)),
            gives=_in_order(100),
        ),
    ),
    case(
        "several models in one stream",
        talk(
            infer("identity_FP32", _X, id="1"),
            infer("every_version", raw("x", "FP32", [[1]]), id="2", version="1"),
            infer("every_version", raw("x", "FP32", [[1]]), id="3", version="2"),
            infer("identity_BYTES", raw("x", "BYTES", [[b"a", b"b", b"c"]]), id="0"),
            gives=_each_id_once(4),
        ),
    ),
    *(
        case(
            f"{what} is an error in the stream, and the next request is answered",
            talk(request, gives=_says_its_model),
            talk(request, infer("identity_FP32", _X, id="b"), gives=_good_after),
        )
        for what, request in {
            "no such model": infer("simpel", _X, id="e"),
            "no such version": infer("simple", _X, id="e", version="9"),
            "a shape that does not fit": infer("identity_FP32", raw("x", "FP32", [[1]]), id="e"),
            "no input": infer("identity_FP32", id="e"),
            "an output that nobody knows": infer("identity_FP32", _X, id="e", outputs=("z",)),
            "a parameter of the wrong type": infer("identity_FP32", _X, id="e", parameters={"priority": "1"}),
            "a value that the model cannot take": infer("lookup", raw("x", "INT64", [[9]]), id="e"),
        }.items()
    ),
    case(
        "bytes that are no request are an error in the stream, and the next request is answered",
        talk(
            b"\xff\xff\xff",
            infer("identity_FP32", _X, id="b"),
            gives=_error_and_answer,
            differs=differences.GARBAGE_IN_STREAM,
        ),
        talk(infer("identity_FP32", _X), gives=answers(_Y)),
    ),
    case("who leaves a stream costs nobody else anything", act(_left, gives=tensors(**_Y))),
    case(
        "errors as the call's own status",
        talk(
            infer("lookup", raw("x", "INT64", [[9]]), id="e"),
            code=Code.INTERNAL,
            metadata=_AS_STATUS,
        ),
        talk(infer("identity_FP32", _X), gives=answers(_Y)),
        only_ours="Triton 2.51 dies of it now and then",
    ),
    case(
        "a refusal as the call's own status",
        talk(
            infer("simpel", _X, id="e"),
            code=Code.NOT_FOUND,
            says="simpel",
            metadata=_AS_STATUS,
            differs=differences.STATUS_AT_ONCE,
        ),
        talk(infer("identity_FP32", _X), gives=answers(_Y)),
    ),
    case(
        "no wish for a status, in so many words",
        talk(
            infer("simpel", _X, id="e"),
            gives=_says_its_model,
            metadata=(("triton_grpc_error", "false"),),
        ),
    ),
    case(
        "without errors the wish for a status changes nothing",
        talk(infer("identity_FP32", _X), gives=answers(_Y), metadata=_AS_STATUS),
    ),
    case("two answers to one request", talk(repeat("r", 5, 6), gives=_by_id(r=[5, 6]))),
    case("no answer to a request", talk(repeat("r"), gives=_by_id())),
    case(
        "two answers, and an empty final one",
        talk(repeat("r", 5, 6, ends=True), gives=_by_id(r=[5, 6, "end"])),
    ),
    case("no answer, and an empty final one", talk(repeat("r", ends=True), gives=_by_id(r=["end"]))),
    case(
        "a hundred answers", talk(repeat("r", *range(100), ends=True), gives=_by_id(r=[*range(100), "end"]))
    ),
    case(
        "several requests with several answers each",
        talk(
            *(repeat(f"r{number}", *range(number), ends=True) for number in range(6)),
            gives=_by_id(**{f"r{number}": [*range(number), "end"] for number in range(6)}),
        ),
    ),
    case(
        "an error after an answer",
        talk(repeat("r", 1, -1, 2), repeat("s", 3), gives=_by_id(r=[1, "error"], s=[3])),
    ),
    case(
        "a request for a decoupled model beside one for another",
        talk(repeat("r", 7), infer("identity_FP32", _X, id="a"), gives=_two_kinds),
    ),
    case(
        "a decoupled model is not reached by unary calls",
        ask("ModelInfer", repeat("r", 1), Code.UNIMPLEMENTED, "decoupled"),
    ),
    case(
        "a final answer is asked for where each request has one answer anyway",
        talk(
            infer("identity_FP32", _X, parameters={"triton_enable_empty_final_response": True}),
            gives=answers(_Y),
        ),
    ),
]
