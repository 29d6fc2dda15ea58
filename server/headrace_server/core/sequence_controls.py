"""The inputs that tell a model of its sequences: the server fills them, and callers do not send them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.steps import SequenceTurn
from headrace_proto.tensors import DTYPES
from headrace_server.core.settings import ControlInput, SequenceControl, Sequences
from headrace_server.errors import InvalidInput


class SequenceControls:
    """The control inputs of one model; made once, when it is loaded."""

    def __init__(self, sequences: Sequences | None, *, has_batch_axis: bool) -> None:
        self._controls = sequences.controls if sequences is not None else ()
        self._shape = (1, 1) if has_batch_axis else (1,)

    def check(self, turn: SequenceTurn) -> None:
        """Raise InvalidInput if the sequence's id is not what the model is told ids in."""
        for control in self._controls:
            if control.control is SequenceControl.CORRID:
                _check_id(turn.id, control)

    def inputs(self, turn: SequenceTurn) -> dict[str, NDArray[Any]]:
        """Return the control inputs of one request, by name, as one element of one row each."""
        return {control.name: self._filled(control, turn) for control in self._controls}

    def _filled(self, control: ControlInput, turn: SequenceTurn) -> NDArray[Any]:
        value: Any
        match control.control:
            case SequenceControl.CORRID:
                value = turn.id.encode() if isinstance(turn.id, str) else turn.id
            case SequenceControl.START:
                value = control.true_value if turn.start else control.false_value
            case SequenceControl.END:
                value = control.true_value if turn.end else control.false_value
            case SequenceControl.READY:
                value = control.true_value
        array = np.full(self._shape, value, DTYPES[control.datatype])
        array.flags.writeable = False
        return array


def _check_id(came: int | str, control: ControlInput) -> None:
    if control.datatype == "BYTES":
        if not isinstance(came, str):
            raise InvalidInput(f"parameter 'sequence_id': {came} came, text expected")
        return
    limits = np.iinfo(DTYPES[control.datatype])
    if isinstance(came, str):
        raise InvalidInput(f"parameter 'sequence_id': {came!r} came, a whole number expected")
    if not limits.min <= came <= limits.max:
        raise InvalidInput(
            f"parameter 'sequence_id': {came} came, at most {limits.max} ({control.datatype}) expected"
        )
