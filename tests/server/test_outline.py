"""What a message's bytes are made of, before protobuf builds it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.errors import InvalidInput
from headrace_server.transport import outline

Tensor = pb.ModelInferRequest.InferInputTensor


def message(*inputs: Any, **fields: Any) -> bytes:
    return bytes(pb.ModelInferRequest(model_name="m", inputs=inputs, **fields).SerializeToString())


def field(number: int, data: bytes) -> bytes:
    """Return a field of bytes, however long."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


FLOATS = Tensor(name="x", datatype="FP32", shape=[1, 50_000])
RAW = [bytes(200_000)]


@pytest.mark.parametrize(
    ("data", "slow"),
    [
        pytest.param(b"", False, id="nothing"),
        pytest.param(b"\x0a" * (1 << 16), False, id="short, whatever it holds"),
        pytest.param(message(FLOATS, raw_input_contents=RAW), False, id="raw numbers"),
        pytest.param(message(FLOATS, raw_input_contents=[bytes(1 << 20)]), True, id="more than a mebibyte"),
        pytest.param(
            message(Tensor(name="x", datatype="BYTES", shape=[1]), raw_input_contents=RAW), True, id="strings"
        ),
        pytest.param(
            message(
                Tensor(
                    name="x", datatype="FP32", contents=pb.InferTensorContents(fp32_contents=[0.5] * 50_000)
                )
            ),
            True,
            id="typed contents",
        ),
        pytest.param(
            message(*[Tensor(name=f"x{n}", datatype="FP32", shape=[1]) for n in range(400)]) + RAW[0],
            True,
            id="many fields",
        ),
        pytest.param(message(FLOATS) + field(99, bytes(100_000)), False, id="an unknown field"),
        pytest.param(message(FLOATS) + b"\x9b\x06" * 100_000, True, id="groups in groups"),
    ],
)
def test_what_is_built_beside_the_loop(data: bytes, slow: bool) -> None:
    assert outline.is_slow(data) is slow


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(field(5, b"") * (1 << 19), "more than 262144 fields", id="empty inputs"),
        pytest.param(field(6, b"") * (1 << 19), "more than 262144 fields", id="empty outputs"),
        pytest.param(field(4, b"") * (1 << 19), "more than 262144 fields", id="empty parameters"),
        pytest.param(field(7, b"") * (1 << 19), "more than 262144 fields", id="empty raw contents"),
        pytest.param(
            field(5, field(5, field(8, b"") * (1 << 19))), "more than 262144 fields", id="typed strings"
        ),
        pytest.param(field(5, field(4, b"") * (1 << 19)), "more than 262144 fields", id="an input's own"),
        pytest.param(b"\x08\x01" * (1 << 19), "more than 262144 fields", id="unknown numbers"),
        pytest.param(b"\x9b\x06" * (1 << 19), "more than 262144 fields", id="groups in groups"),
        pytest.param(
            field(5, field(3, b"\x01" * (1 << 17))), "shape of 131072 bytes came, at most 64", id="dimensions"
        ),
    ],
)
def test_what_would_take_seconds_to_build_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        outline.check(data)


@pytest.mark.parametrize(
    "data",
    [
        message(FLOATS, raw_input_contents=[bytes(8 << 20)]),
        message(Tensor(name="s", datatype="BYTES", shape=[1 << 20]), raw_input_contents=[bytes(4 << 20)]),
        message(Tensor(name="x", contents=pb.InferTensorContents(fp32_contents=[0.5] * 1_000_000))),
        message(Tensor(name="x", contents=pb.InferTensorContents(bytes_contents=[b"word"] * 200_000))),
    ],
    ids=["numbers", "raw strings", "typed numbers", "typed strings"],
)
def test_what_an_honest_client_sends_passes(data: bytes) -> None:
    outline.check(data)


@settings(deadline=None)
@given(st.text(max_size=300), st.integers(0, 4))
def test_an_id_is_found_among_other_fields(request_id: str, inputs: int) -> None:
    tensors = [Tensor(name=str(n), datatype="FP32", shape=[1, 2]) for n in range(inputs)]
    assert outline.request_id(message(*tensors, id=request_id)) == request_id
    assert outline.request_id(field(3, b"first") + message(*tensors, id=request_id)) in (request_id, "first")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (field(3, b"7") + b"\xff\xff", "7"),
        (b"\x1a\xff\xff\xff\xff\x0f7", ""),
        (field(3, b"\xff"), "\ufffd"),
        (field(5, b"") * 1000 + field(3, b"7"), ""),
        (b"", ""),
    ],
)
def test_an_id_is_found_in_what_cannot_be_built(data: bytes, found: str) -> None:
    assert outline.request_id(data) == found


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3))
@example(b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0)
@example(b"\xff" * 40, 0)
@example(b"\x9b", 3)
def test_any_bytes_are_walked_through_to_their_end(data: bytes, nesting: int) -> None:
    for number in (5, 5, 8)[:nesting]:
        data = field(number, data)
    long = data + field(99, bytes(1 << 16))
    outline.is_slow(long)
    outline.request_id(data)
    outline.check(long)
