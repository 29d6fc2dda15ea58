from __future__ import annotations

import numpy as np
import pytest
from scripted_engines import ROWS, Answers

from headrace_engines.spec import ANY, TensorSpec
from headrace_server.core.arrays import array_of
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Admitted, Data, Request, Shapes, Terms, Work

MODEL = Model("m", "1", ROWS, "scripted", Limits())
FIXED = TensorSpec("x", np.dtype(np.int16), (3,))
RAGGED = TensorSpec("x", np.dtype(np.int16), (ANY,))
STRINGS = TensorSpec("x", np.dtype(object), (2,))


def work_with(rows: int, data: Data, shapes: Shapes) -> Work:
    admitted = Admitted(rows, data, shapes, 0, (0,), Terms())
    return Work(MODEL, Request("", "", "", ()), admitted, NO_DEADLINE, Answers(), None, 0)


@pytest.mark.parametrize(
    ("spec", "rows", "shapes", "shape"),
    [
        (FIXED, 2, None, (2, 3)),
        (RAGGED, 2, ((2, 3),), (2, 3)),
        (RAGGED, 1, ((1, 6),), (1, 6)),
        (FIXED, 1, ((6,),), (6,)),
    ],
)
def test_an_array_is_a_view_of_the_bytes_that_came(
    spec: TensorSpec, rows: int, shapes: Shapes, shape: tuple[int, ...]
) -> None:
    data = np.arange(6, dtype=np.int16).tobytes()
    array = array_of(work_with(rows, (data,), shapes), 0, spec)
    assert array.shape == shape
    assert array.reshape(-1).tolist() == list(range(6))
    assert not array.flags.writeable, "the bytes are the caller's"
    assert not array.flags.owndata


def test_strings_are_what_admission_made_of_them() -> None:
    strings = np.array([b"a", b"b", b"c", b"d"], object)
    array = array_of(work_with(2, (strings,), ((2, 2),)), 0, STRINGS)
    assert array.tolist() == [[b"a", b"b"], [b"c", b"d"]]


@pytest.mark.parametrize("offset", range(9))
def test_a_part_of_a_message_becomes_an_aligned_array(offset: int) -> None:
    message = bytes(offset) + np.arange(6, dtype=np.int16).tobytes()
    array = array_of(work_with(2, (memoryview(message)[offset:],), None), 0, FIXED)
    assert array.flags.aligned
    assert not array.flags.writeable
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
