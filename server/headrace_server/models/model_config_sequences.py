"""A configuration's sequence batching: how long sequences live, and what tells the model of them."""

from __future__ import annotations

import math
from typing import Final

from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.core.settings import ControlInput, SequenceControl, Sequences
from headrace_server.models.model_config_problems import Findings
from headrace_server.models.model_config_scheduling import check_microseconds

_Control = config_pb.ModelSequenceBatching.Control
_PATH: Final = "sequence_batching"
_CONTROLS: Final = {
    _Control.CONTROL_SEQUENCE_START: SequenceControl.START,
    _Control.CONTROL_SEQUENCE_READY: SequenceControl.READY,
    _Control.CONTROL_SEQUENCE_END: SequenceControl.END,
    _Control.CONTROL_SEQUENCE_CORRID: SequenceControl.CORRID,
}
_VALUES: Final = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}
_ID_TYPES: Final = {
    config_pb.TYPE_UINT64: "UINT64", config_pb.TYPE_INT64: "INT64", config_pb.TYPE_UINT32: "UINT32",
    config_pb.TYPE_INT32: "INT32", config_pb.TYPE_STRING: "BYTES",
}  # fmt: skip


def sequences(config: config_pb.ModelConfig, findings: Findings) -> Sequences | None:
    """Return how sequences are served; None for a model that has none."""
    if not config.HasField("sequence_batching"):
        return None
    given = config.sequence_batching
    idle, delay = given.max_sequence_idle_microseconds, given.direct.max_queue_delay_microseconds
    check_microseconds(f"{_PATH}.max_sequence_idle_microseconds", idle, findings)
    check_microseconds(f"{_PATH}.direct.max_queue_delay_microseconds", delay, findings)
    utilization = given.direct.minimum_slot_utilization
    if not 0 <= utilization <= 1 or math.isnan(utilization):
        findings.report(f"{_PATH}.direct.minimum_slot_utilization", f"{utilization} came, 0 to 1 is expected")
    controls = _controls(config, findings)
    return Sequences(idle or Sequences().max_idle_us, delay, utilization, controls)


def _controls(config: config_pb.ModelConfig, findings: Findings) -> tuple[ControlInput, ...]:
    taken = {tensor.name: "among the inputs, which callers fill" for tensor in config.input}
    controls: list[ControlInput] = []
    for position, given in enumerate(config.sequence_batching.control_input):
        path = f"{_PATH}.control_input[{position}]"
        findings.check_name(f"{path}.name", given.name, taken)
        taken.setdefault(given.name, "a control input already")
        if len(given.control) != 1:
            findings.report(f"{path}.control", f"one control is expected, {len(given.control)} came")
            continue
        control = _control(given.name, given.control[0], f"{path}.control[0]", findings)
        if control.control in [other.control for other in controls]:
            findings.report(f"{path}.control[0].kind", f"{control.control.name} has an input already")
        controls.append(control)
    return tuple(controls)


def _control(name: str, given: _Control, path: str, findings: Findings) -> ControlInput:
    kind = _CONTROLS[given.kind]
    filled = [field for field in _VALUES if len(getattr(given, field))]
    if kind is SequenceControl.CORRID:
        if filled:
            findings.report(f"{path}.{filled[0]}", "the sequence's id has no two values", "say `data_type`")
        if given.data_type not in _ID_TYPES:
            expected = "TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 or TYPE_STRING"
            findings.report(f"{path}.data_type", f"the type of the sequence's id is expected: {expected}")
        return ControlInput(name, kind, _ID_TYPES.get(given.data_type, "UINT64"))
    if given.data_type:
        findings.report(f"{path}.data_type", "the two values tell the type", "remove it")
    if len(filled) != 1 or len(getattr(given, filled[0])) != 2:
        findings.report(path, f"two values are expected in one of {', '.join(_VALUES)}", "such as [ 0, 1 ]")
        return ControlInput(name, kind, "INT32")
    false_value, true_value = getattr(given, filled[0])
    return ControlInput(name, kind, _VALUES[filled[0]], false_value, true_value)
