"""Typed contents of the protocol's tensors, which are converted number by number."""

import itertools
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace_proto import tensors
from headrace_proto.v1.inference_pb2 import InferTensorContents

KNOWN = "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES"
TYPED = [name for name in tensors.DTYPES if name not in ("BYTES", "FP16", "BF16")]
FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@pytest.mark.parametrize("datatype", TYPED)
@given(data=st.data())
@settings(max_examples=30)
def test_typed_contents_give_back_the_same_values(datatype, data):
    array = data.draw(hnp.arrays(tensors.DTYPES[datatype], st.integers(0, 6)))
    back = tensors.from_contents(InferTensorContents(**{FIELDS[datatype]: array.tolist()}), datatype)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def longest_share(convert):
    """Return how much of the processor's time was spent without a turn for another thread."""
    clock = time.pthread_getcpuclockid(threading.get_ident())
    is_over = threading.Event()
    at = [time.clock_gettime(clock)]

    def take_turns():
        while not is_over.is_set():
            at.append(time.clock_gettime(clock))
            time.sleep(0)

    other = threading.Thread(target=take_turns)
    other.start()
    try:
        convert()
    finally:
        is_over.set()
        other.join()
    at.append(time.clock_gettime(clock))
    return max(after - before for before, after in itertools.pairwise(at)) / (at[-1] - at[0])


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "INT8"])
def test_others_have_their_turns_while_many_typed_values_are_converted(datatype):
    contents = InferTensorContents(**{FIELDS[datatype]: [1] * 1_000_000})
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        assert any(
            longest_share(lambda: tensors.from_contents(contents, datatype)) < 1 / 4 for _ in range(50)
        )
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.parametrize(("datatype", "text"), [("INT8", "INT8 element 70000 is 128"), ("INT32", None)])
def test_many_typed_values_are_all_looked_at(datatype, text):
    values = list(range(-5, 123)) * 547
    values[70_000] = 128
    contents = InferTensorContents(int_contents=values)
    if text is None:
        assert tensors.from_contents(contents, datatype).tolist() == values
    else:
        with pytest.raises(ValueError, match=text):
            tensors.from_contents(contents, datatype)


def test_another_number_of_values_than_is_expected_is_not_converted():
    contents = InferTensorContents(uint_contents=[256, 1, 1])
    with pytest.raises(ValueError, match=r"^3 values came in uint_contents, the shape has 2$"):
        tensors.from_contents(contents, "UINT8", 2)
    assert tensors.from_contents(contents, "UINT16", 3).tolist() == [256, 1, 1]


def test_typed_strings_are_bytes_objects():
    back = tensors.from_contents(InferTensorContents(bytes_contents=[b"a\0", b""]), "BYTES")
    assert (back.dtype, back.shape, back.tolist()) == (np.dtype(object), (2,), [b"a\0", b""])


@pytest.mark.parametrize("datatype", FIELDS)
def test_contents_that_hold_nothing_are_an_empty_array(datatype):
    back = tensors.from_contents(InferTensorContents(), datatype)
    assert (back.dtype, back.shape) == (tensors.DTYPES[datatype], (0,))


@pytest.mark.parametrize(
    ("contents", "datatype", "text"),
    [
        ({}, "FP16", "FP16 is raw only: it has no typed contents, send it in raw_input_contents"),
        (
            {"fp32_contents": [1]},
            "BF16",
            "BF16 is raw only: it has no typed contents, send it in raw_input_contents",
        ),
        ({}, "FP8", f"unknown datatype 'FP8'; known are {KNOWN}"),
        ({"fp64_contents": [1]}, "FP32", "contents of FP32 belong in fp32_contents, got fp64_contents"),
        ({"int_contents": [1]}, "UINT8", "contents of UINT8 belong in uint_contents, got int_contents"),
        ({"int_contents": [1]}, "INT64", "contents of INT64 belong in int64_contents, got int_contents"),
        (
            {"bool_contents": [True], "bytes_contents": [b"x"]},
            "BOOL",
            "contents of BOOL belong in bool_contents, got bytes_contents",
        ),
        ({"int_contents": [0, 128]}, "INT8", "INT8 element 1 is 128, expected -128 to 127"),
        ({"int_contents": [-129]}, "INT8", "INT8 element 0 is -129, expected -128 to 127"),
        ({"int_contents": [-(2**31)]}, "INT16", "INT16 element 0 is -2147483648, expected -32768 to 32767"),
        ({"uint_contents": [256]}, "UINT8", "UINT8 element 0 is 256, expected 0 to 255"),
        ({"uint_contents": [2**32 - 1]}, "UINT16", "UINT16 element 0 is 4294967295, expected 0 to 65535"),
    ],
)
def test_from_contents_says_what_came_and_what_was_expected(contents, datatype, text):
    with pytest.raises(ValueError, match=r"\w") as caught:
        tensors.from_contents(InferTensorContents(**contents), datatype)
    assert str(caught.value) == text
