from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace_engines.steps import SequenceTurn
from headrace_proto.tensors import DTYPES
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.settings import ControlInput, SequenceControl, Sequences
from headrace_server.errors import InvalidInput

FIRST = SequenceTurn(7, start=True, end=False)
LAST = SequenceTurn("é", start=False, end=True)


def controls(
    control: SequenceControl, datatype: str, *values: float, batches: bool = True
) -> SequenceControls:
    told = Sequences(controls=(ControlInput("C", control, datatype, *values),))
    return SequenceControls(told, has_batch_axis=batches)


@pytest.mark.parametrize(
    ("control", "datatype", "values", "first", "last"),
    [
        (SequenceControl.START, "INT32", (), 1, 0),
        (SequenceControl.START, "FP32", (-1, 2.5), 2.5, -1),
        (SequenceControl.END, "BOOL", (False, True), False, True),
        (SequenceControl.READY, "INT32", (3, 4), 4, 4),
        (SequenceControl.CORRID, "UINT64", (), 7, None),
        (SequenceControl.CORRID, "BYTES", (), None, "é".encode()),
    ],
)
def test_a_control_input_has_one_element(
    control: SequenceControl, datatype: str, values: tuple[float, ...], first: Any, last: Any
) -> None:
    for batches, shape in ((True, (1, 1)), (False, (1,))):
        made = controls(control, datatype, *values, batches=batches)
        for turn, expected in ((FIRST, first), (LAST, last)):
            if expected is not None:
                (array,) = made.inputs(turn).values()
                assert (array.shape, array.dtype, array.item()) == (shape, DTYPES[datatype], expected)


def test_each_control_has_its_input() -> None:
    told = (
        ControlInput("START", SequenceControl.START, "INT32"),
        ControlInput("ID", SequenceControl.CORRID, "INT64"),
    )
    inputs = SequenceControls(Sequences(controls=told), has_batch_axis=True).inputs(FIRST)
    assert {name: array.item() for name, array in inputs.items()} == {"START": 1, "ID": 7}


def test_a_model_without_sequences_has_none() -> None:
    made = SequenceControls(None, has_batch_axis=True)
    assert made.inputs(FIRST) == {}
    made.check(LAST)


@pytest.mark.parametrize(
    ("datatype", "sequence_id", "message"),
    [
        ("BYTES", 7, "parameter 'sequence_id': 7 came, text expected"),
        ("INT64", "seven", "'seven' came, a whole number expected"),
        ("INT32", 2**31, rf"{2**31} came, at most {2**31 - 1} \(INT32\) expected"),
        ("INT32", 2**31 - 1, None),
        ("UINT64", 2**64 - 1, None),
        ("BYTES", "seven", None),
    ],
)
def test_ids_that_the_model_cannot_be_told(
    datatype: str, sequence_id: int | str, message: str | None
) -> None:
    made = controls(SequenceControl.CORRID, datatype)
    turn = SequenceTurn(sequence_id, start=True, end=False)
    if message is None:
        made.check(turn)
        assert np.array(made.inputs(turn)["C"]).size == 1
    else:
        with pytest.raises(InvalidInput, match=message):
            made.check(turn)
