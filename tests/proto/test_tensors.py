import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace_proto import tensors

KNOWN = "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES"
FIXED = [name for name in tensors.DTYPES if name != "BYTES"]

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def arrays(datatype):
    """Arrays of any shape and any bits, NaNs with payloads among them."""
    dtype = tensors.DTYPES[datatype]
    if datatype == "BOOL":
        return hnp.arrays(dtype, shapes)
    bits = np.dtype(f"u{dtype.itemsize}")
    return hnp.arrays(bits, shapes).map(lambda array: array.view(dtype))


def strings(text):
    return st.lists(text, max_size=8).map(lambda items: np.array([*items, None], object)[:-1])


def frame(*items):
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


@pytest.mark.parametrize(
    ("datatype", "dtype", "value", "raw"),
    [
        ("BOOL", np.bool_, True, "01"),
        ("UINT8", np.uint8, 0xFE, "fe"),
        ("UINT16", np.uint16, 0x0102, "0201"),
        ("UINT32", np.uint32, 0x01020304, "04030201"),
        ("UINT64", np.uint64, 0x0102030405060708, "0807060504030201"),
        ("INT8", np.int8, -2, "fe"),
        ("INT16", np.int16, -2, "feff"),
        ("INT32", np.int32, -2, "feffffff"),
        ("INT64", np.int64, -2, "feffffffffffffff"),
        ("FP16", np.float16, 1.5, "003e"),
        ("FP32", np.float32, 1.5, "0000c03f"),
        ("FP64", np.float64, 1.5, "000000000000f83f"),
        ("BF16", ml_dtypes.bfloat16, 1.5, "c03f"),
    ],
)
def test_each_datatype_has_the_protocols_bytes(datatype, dtype, value, raw):
    assert tensors.DTYPES[datatype] == np.dtype(dtype)
    assert tensors.datatype_of(np.dtype(dtype)) == datatype
    assert tensors.to_raw(np.array([value], dtype)).hex() == raw
    back = tensors.from_raw(bytes.fromhex(raw), datatype, [1])
    assert back.dtype == np.dtype(dtype)
    assert back.tolist() == [value]


def test_the_table_of_datatypes_is_whole_and_cannot_be_changed():
    assert ", ".join(tensors.DTYPES) == KNOWN
    with pytest.raises(TypeError):
        tensors.DTYPES["FP8"] = np.dtype(np.uint8)


@pytest.mark.parametrize("dtype", ["S5", "U5", object, np.dtypes.StringDType()])
def test_every_string_dtype_travels_as_bytes(dtype):
    assert tensors.datatype_of(np.dtype(dtype)) == "BYTES"


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">u2", "<f8"])
def test_byte_order_does_not_change_the_datatype(dtype):
    assert tensors.datatype_of(np.dtype(dtype)) == tensors.datatype_of(np.dtype(dtype[1:]))


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]", "V4", ml_dtypes.float8_e4m3fn, [("x", "f4")]])
def test_a_dtype_without_datatype_is_named(dtype):
    with pytest.raises(ValueError, match="has no datatype in the protocol") as caught:
        tensors.datatype_of(np.dtype(dtype))
    assert str(caught.value) == f"dtype {np.dtype(dtype)} has no datatype in the protocol; known are {KNOWN}"


@pytest.mark.parametrize("datatype", FIXED)
@given(data=st.data())
@settings(max_examples=40)
def test_raw_contents_give_back_the_same_bits(datatype, data):
    array = data.draw(arrays(datatype))
    back = tensors.from_raw(tensors.to_raw(array), datatype, array.shape)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype="f4").reshape(2, 3, 4)[:, ::-1, ::2],
        np.asfortranarray(np.arange(12, dtype="i2").reshape(3, 4)),
        np.arange(12, dtype="i4").reshape(3, 4).T,
        np.arange(5, dtype=">f8"),
        np.arange(6, dtype=">u2").reshape(2, 3).T,
        np.array(7, "u8"),
        np.array(7, ">i4"),
        np.zeros((0, 3), "f4"),
        np.zeros((2, 0), ">f4"),
        np.broadcast_to(np.float32(2), (2, 3)),
        np.arange(8).astype(ml_dtypes.bfloat16)[::2],
    ],
    ids=[
        "strided",
        "fortran",
        "transposed",
        "big",
        "big-t",
        "0-d",
        "0-d-big",
        "no-rows",
        "no-columns",
        "same",
        "bf",
    ],
)
def test_layout_and_byte_order_do_not_show_on_the_wire(array):
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.kind != "V" else array
    assert tensors.to_raw(array) == np.ascontiguousarray(little).tobytes()
    back = tensors.from_raw(tensors.to_raw(array), tensors.datatype_of(array.dtype), array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("datatype", FIXED)
def test_from_raw_copies_nothing_and_cannot_be_written(datatype):
    raw = bytes(tensors.DTYPES[datatype].itemsize * 6)
    array = tensors.from_raw(raw, datatype, [2, 3])
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 0


def test_from_raw_takes_a_part_of_a_larger_buffer_and_protects_it():
    body = bytearray(b"head" + np.arange(3, dtype="<f4").tobytes())
    array = tensors.from_raw(memoryview(body)[4:], "FP32", [3])
    assert array.tolist() == [0, 1, 2]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "text"),
    [
        (b"", "FP8", [1], f"unknown datatype 'FP8'; known are {KNOWN}"),
        (b"", "", [0], f"unknown datatype ''; known are {KNOWN}"),
        (b"", "fp32", [0], f"unknown datatype 'fp32'; known are {KNOWN}"),
        (b"", "A" * 9999, [0], f"unknown datatype '{'A' * 40}'; known are {KNOWN}"),
        (b"", "FP32", [-1], "shape [-1] has a negative dimension"),
        (bytes(4), "FP32", [-1, -1], "shape [-1, -1] has a negative dimension"),
        (b"", "FP32", [0, -1], "shape [0, -1] has a negative dimension"),
        (b"", "BYTES", [-1], "shape [-1] has a negative dimension"),
        (bytes(3), "FP32", [1], "FP32 of shape [1] takes 4 bytes, got 3"),
        (bytes(12), "FP32", [2], "FP32 of shape [2] takes 8 bytes, got 12"),
        (b"", "FP32", [], "FP32 of shape [] takes 4 bytes, got 0"),
        (bytes(1), "BF16", [0], "BF16 of shape [0] takes 0 bytes, got 1"),
        (bytes(8), "FP32", [2**32, 2**32], f"FP32 of shape [{2**32}, {2**32}] takes {2**66} bytes, got 8"),
        (
            b"",
            "INT8",
            [2**63 - 1] * 2,
            f"INT8 of shape {[2**63 - 1] * 2} takes {(2**63 - 1) ** 2} bytes, got 0",
        ),
        (b"", "FP32", [0, 2**62, 4], f"shape {[0, 2**62, 4]} has dimensions larger than any array"),
        (b"", "BYTES", [2**63, 0], f"shape {[2**63, 0]} has dimensions larger than any array"),
        (bytes(1), "INT8", [1] * 65, "shape has 65 dimensions, at most 64 are possible"),
        (b"\1\0\1\2", "BOOL", [2, 2], "BOOL element 3 is 2, expected 0 or 1"),
        (b"", "BYTES", [2**40], f"BYTES of shape [{2**40}] takes at least {2**42} bytes, got 0"),
        (frame(b"abcd"), "BYTES", [2], "BYTES of shape [2] takes 2 elements, got 1"),
        (frame(b"", b""), "BYTES", [1], "BYTES of shape [1] takes 1 elements, got 2"),
        (frame(b""), "BYTES", [0], "BYTES of shape [0] takes 0 elements, got 1"),
        (frame(b"abc")[:-1], "BYTES", [1], "BYTES element 0 is cut: its length is 3 bytes, 2 are left"),
    ],
)
def test_from_raw_says_what_came_and_what_was_expected(raw, datatype, shape, text):
    with pytest.raises(ValueError, match=r"\w") as caught:
        tensors.from_raw(raw, datatype, shape)
    assert str(caught.value) == text


@pytest.mark.parametrize("datatype", tensors.DTYPES)
@given(raw=st.binary(max_size=64), shape=st.lists(st.integers(-(2**63), 2**63), max_size=5))
@settings(max_examples=40)
def test_from_raw_of_anything_is_an_array_or_a_value_error(datatype, raw, shape):
    try:
        array = tensors.from_raw(raw, datatype, shape)
    except ValueError:
        return
    assert array.shape == tuple(shape)


@pytest.mark.parametrize(
    ("array", "raw"),
    [
        (np.array([b"ab", "é"], object), frame(b"ab", "é".encode())),
        (np.array([b"", b"a\0", b"\0"], object), frame(b"", b"a\0", b"\0")),
        (np.array([b"ab", b"c"]), frame(b"ab", b"c")),
        (np.array(["é", ""]), frame("é".encode(), b"")),
        (np.array(["é", "ab"], np.dtypes.StringDType()), frame("é".encode(), b"ab")),
        (np.array([["a", "b"], ["c", "d"]]).T, frame(b"a", b"c", b"b", b"d")),
        (np.array("alone"), frame(b"alone")),
        (np.array(b"alone", object), frame(b"alone")),
        (np.array([np.bytes_(b"x"), np.str_("y")], object), frame(b"x", b"y")),
        (np.empty((0, 2), object), b""),
    ],
)
def test_strings_are_framed_by_their_lengths(array, raw):
    assert tensors.encode_bytes(array) == raw
    assert tensors.to_raw(array) == raw


def test_an_element_that_is_no_string_is_named():
    with pytest.raises(TypeError) as caught:
        tensors.encode_bytes(np.array([b"a", 5], object))
    assert str(caught.value) == "BYTES element 1 is int, expected str or bytes"


def test_a_str_that_utf8_cannot_hold_is_a_value_error():
    with pytest.raises(ValueError, match="surrogates"):
        tensors.encode_bytes(np.array(["\ud800"], object))


@given(strings(st.binary(max_size=20)))
def test_byte_strings_come_back_the_same(array):
    back = tensors.decode_bytes(tensors.encode_bytes(array))
    assert back.dtype == object
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@given(strings(st.text(max_size=20)))
def test_text_comes_back_as_utf8(array):
    back = tensors.decode_bytes(tensors.encode_bytes(array))
    assert [item.decode() for item in back.tolist()] == array.tolist()


def test_strings_take_the_shape_and_own_their_bytes():
    back = tensors.from_raw(memoryview(frame(b"a", b"b", b"", b"d")), "BYTES", [2, 2])
    assert back.tolist() == [[b"a", b"b"], [b"", b"d"]]
    assert type(back[0, 0]) is bytes
    assert tensors.from_raw(frame(b"alone"), "BYTES", []).item() == b"alone"


@pytest.mark.parametrize("most", [0, 1, 2])
def test_decode_bytes_makes_no_more_strings_than_are_wanted(most):
    raw = tensors.encode_bytes(np.array([b"a", b"b", b"c"], object))
    with pytest.raises(ValueError, match=f"more than {most} BYTES elements came"):
        tensors.decode_bytes(raw, most)
    assert tensors.decode_bytes(raw, 3).tolist() == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\1", "BYTES element 0 is cut in its length: 1 of 4 bytes are left"),
        (b"\1\0\0\0", "BYTES element 0 is cut: its length is 1 bytes, 0 are left"),
        (frame(b"ab", b"c") + b"\0\0\0", "BYTES element 2 is cut in its length: 3 of 4 bytes are left"),
        (
            frame(b"ab") + b"\xff\xff\xff\xffxy",
            "BYTES element 1 is cut: its length is 4294967295 bytes, 2 are left",
        ),
    ],
)
def test_decode_bytes_says_at_which_element_the_buffer_is_cut(raw, text):
    with pytest.raises(ValueError, match="is cut") as caught:
        tensors.decode_bytes(raw)
    assert str(caught.value) == text


@given(st.binary(max_size=200) | st.lists(st.integers(0, 6), max_size=60).map(bytes))
def test_decode_bytes_of_garbage_is_exact_or_a_value_error(raw):
    try:
        back = tensors.decode_bytes(raw)
    except ValueError:
        return
    assert tensors.encode_bytes(back) == raw
