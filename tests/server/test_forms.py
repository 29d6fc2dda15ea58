"""Recognised messages: what is taken out of them is what protobuf would have read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.request import InputTensor, Request
from headrace_server.errors import InvalidInput
from headrace_server.transport import codec
from headrace_server.transport.forms import Forms

Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor


def message(**changes: Any) -> pb.ModelInferRequest:
    usual: dict[str, Any] = {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "inputs": [Input(name="x", datatype="FP32", shape=[1, 2])],
        "raw_input_contents": [b"12345678"],
    }
    return pb.ModelInferRequest(**(usual | changes))


TWO_INPUTS = {
    "inputs": [Input(name="a", datatype="INT8", shape=[1, 3]), Input(name="b", datatype="BOOL", shape=[1])],
    "raw_input_contents": [b"abc", b"\1"],
}
LEARNED = {
    "usual": message(),
    "no version": message(model_version=""),
    "no id": message(id=""),
    "longest id": message(id="i" * 127),
    "outputs": message(outputs=[Output(name="y"), Output(name="z")]),
    "two inputs": message(**TWO_INPUTS),
    "a parameter": message(parameters={"timeout": pb.InferParameter(int64_param=1)}),
    "data of two bytes' length": message(raw_input_contents=[bytes(300)]),
    "empty data": message(raw_input_contents=[b""]),
    "large data": message(raw_input_contents=[bytes(1 << 14)]),
    "a parameter of an input": message(
        inputs=[Input(name="x", parameters={"binary_data_size": pb.InferParameter(int64_param=8)})]
    ),
}
LET_PASS = {
    "classes": message(
        outputs=[Output(name="y", parameters={"classification": pb.InferParameter(int64_param=1)})]
    ),
    "strings": message(inputs=[Input(name="x", datatype="BYTES", shape=[1])]),
    "typed contents": message(
        inputs=[Input(name="x", datatype="FP32", contents=pb.InferTensorContents(fp32_contents=[1]))],
        raw_input_contents=[],
    ),
    "no inputs": message(inputs=[], raw_input_contents=[]),
    "more data than inputs": message(raw_input_contents=[b"1", b"2"]),
    "a long name": message(model_name="m" * 128),
    "a long version": message(model_version="1" * 128),
    "many outputs": message(outputs=[Output(name=f"output {number}") for number in range(100)]),
    "many truth values": message(
        inputs=[Input(name="x", datatype="BOOL", shape=[1, 1 << 14])], raw_input_contents=[bytes(1 << 14)]
    ),
}


def learned(*messages: bytes) -> Forms:
    forms = Forms()
    for one in messages:
        for _ in range(2):
            see(forms, one)
    return forms


def see(forms: Forms, data: bytes) -> None:
    forms.learn(data, pb.ModelInferRequest.FromString(data), codec.decode(data))


def as_protobuf_reads(data: bytes) -> Request:
    read = pb.ModelInferRequest.FromString(data)
    inputs = [
        InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), raw)
        for tensor, raw in zip(read.inputs, read.raw_input_contents, strict=True)
    ]
    outputs = tuple(output.name for output in read.outputs)
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in read.parameters.items()
    }
    return Request(read.model_name, read.model_version, read.id, inputs, outputs, parameters)


@pytest.mark.parametrize("learnt", LEARNED.values(), ids=LEARNED.keys())
@pytest.mark.parametrize("request_id", ["", "x", "é" * 50, "i" * 127])
def test_another_id_and_other_data_are_found(learnt: pb.ModelInferRequest, request_id: str) -> None:
    forms = learned(learnt.SerializeToString())
    learnt.id = request_id
    other = [bytes(reversed(raw)) for raw in learnt.raw_input_contents]
    learnt.raw_input_contents[:] = other
    data = learnt.SerializeToString()
    request = forms.recall(data)
    assert request is not None
    assert request._replace(form=None) == as_protobuf_reads(data)
    again = forms.recall(data)
    assert again is not None
    assert request.form is again.form is not None


def test_large_data_is_not_copied() -> None:
    data = message(raw_input_contents=[bytes(1 << 20)]).SerializeToString()
    request = learned(data).recall(data)
    assert request is not None
    assert np.shares_memory(np.frombuffer(request.inputs[0].data, np.uint8), np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("came", LET_PASS.values(), ids=LET_PASS.keys())
def test_what_is_not_remembered(came: pb.ModelInferRequest) -> None:
    data = came.SerializeToString()
    assert learned(data).recall(data) is None


@pytest.mark.parametrize(
    "data",
    [
        message().SerializeToString() + b"\x1a\x018",
        b"\x1a\x018" + message(id="").SerializeToString(),
        message(id="").SerializeToString()[:-10] + b"\x1a\x018" + message().SerializeToString()[-10:],
        message().SerializeToString() + b"\xf8\x07\x01",
        message(id="i" * 128).SerializeToString(),
    ],
    ids=["id at the end", "id at the beginning", "id amid", "unknown field", "long id"],
)
def test_messages_that_are_written_in_other_ways_are_left_to_protobuf(data: bytes) -> None:
    usual = message().SerializeToString()
    assert codec.decode(data)[:3] == as_protobuf_reads(data)[:3]
    forms = learned(usual, data)
    assert forms.recall(usual) is not None
    assert forms.recall(data) is None


@pytest.mark.parametrize("names", [("timeout", "origin", "page"), ("page", "origin", "timeout")])
def test_parameters_are_recognised_in_whatever_order_they_come(names: tuple[str, ...]) -> None:
    """Protobuf writes a map in an order of each process's own."""
    beginning = pb.ModelInferRequest(model_name="m", id="7").SerializeToString()
    rest = message(model_name="", id="", model_version="").SerializeToString()
    said = (pb.ModelInferRequest(parameters={name: pb.InferParameter(int64_param=1)}) for name in names)
    data = beginning + b"".join(one.SerializeToString() for one in said) + rest
    request = learned(data).recall(data)
    assert request is not None
    assert request._replace(form=None) == as_protobuf_reads(data)


def test_an_id_that_is_no_text_is_refused_as_ever() -> None:
    data = message(id="77").SerializeToString().replace(b"77", b"\xc3\x28")
    assert learned(message().SerializeToString()).recall(data) is None
    with pytest.raises(InvalidInput):
        codec.decode(data)


@settings(max_examples=200, deadline=None)
@given(
    known=st.sets(st.sampled_from(sorted(LEARNED)), min_size=1),
    sent=st.sampled_from(sorted(LEARNED)),
    at=st.integers(0, 200),
    length=st.integers(0, 4),
    instead=st.binary(max_size=6),
)
@example(known={"usual"}, sent="usual", at=0, length=0, instead=b"")
@example(known={"usual"}, sent="no id", at=6, length=0, instead=b"\x1a\x00")
@example(known={"usual"}, sent="usual", at=6, length=3, instead=b"\x1a\x80\x00")
def test_whatever_is_recognised_is_what_protobuf_reads(
    known: set[str], sent: str, at: int, length: int, instead: bytes
) -> None:
    forms = learned(*[LEARNED[name].SerializeToString() for name in sorted(known)])
    data = LEARNED[sent].SerializeToString()
    start = at % (len(data) + 1)
    data = data[:start] + instead + data[start + length :]
    request = forms.recall(data)
    try:
        expected = as_protobuf_reads(data)
    except (DecodeError, ValueError):
        assert request is None
    else:
        assert request is None or request._replace(form=None) == expected


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_no_bytes_are_too_few(data: bytes) -> None:
    forms = learned(message().SerializeToString())
    assert forms.recall(data) is None


def test_requests_do_not_share_what_may_be_changed() -> None:
    data = LEARNED["a parameter"].SerializeToString()
    forms = learned(data)
    for _ in range(2):
        request = forms.recall(data)
        assert request is not None
        assert request.parameters == {"timeout": 1}
        request.parameters["timeout"] = 2  # type: ignore[index]  # as a program may


def test_what_came_once_is_not_learned() -> None:
    forms = Forms()
    data = message().SerializeToString()
    see(forms, data)
    assert forms.recall(data) is None


def test_forms_of_one_model_and_length_are_told_apart() -> None:
    alike = [message(outputs=[Output(name=name)]).SerializeToString() for name in "abc"]
    forms = Forms()
    for _ in range(8):
        for data in alike:
            if forms.recall(data) is None:
                see(forms, data)
    found = [forms.recall(data) for data in alike]
    assert [request and request.outputs for request in found] == [("a",), ("b",), ("c",)]


def test_of_what_is_never_recognised_ever_fewer_messages_are_looked_at() -> None:
    forms = Forms()
    written_otherwise = b"\x1a\x018" + message(id="").SerializeToString()
    for _ in range(9):
        see(forms, written_otherwise)
    data = message(id="8").SerializeToString()
    assert len(data) == len(written_otherwise)
    sightings = 0
    while forms.recall(data) is None:
        see(forms, data)
        sightings += 1
    assert sightings == 16 - 9


def test_invariant_4_forms_do_not_pile_up() -> None:
    forms = Forms()
    names = [message(model_name=f"model-{number}") for number in range(600)]
    sizes = [message(raw_input_contents=[bytes(number)]) for number in range(600)]
    names_alike = [message(outputs=[Output(name=f"{number:03}")]) for number in range(600)]
    for one in (*names, *names_alike, *sizes):
        for _ in range(2):
            see(forms, one.SerializeToString())
    known = [alike for by_size in forms._by_head.values() for alike in by_size.values()]
    assert len(known) <= 1024
    assert max(map(len, known)) <= 4
    assert len(forms._sightings) <= 1024
    see(forms, message(model_name="m" * 60_000).SerializeToString())
    assert max(len(model) for model, _, _ in forms._sightings) < 128
    assert forms.recall(sizes[-1].SerializeToString()) is not None
