"""The models that the cases are put to, as a table that one repository for any server is written from.

Each is the simplest one that has the trait in question, so that every answer can be told by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from oip import graphs
from oip.case import Server
from onnx import ModelProto

from headrace_proto.tensors import DTYPES

BATCH: Final = 8
"""Most rows of a request, for the models that have a batch axis."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output; `more` is what else its entry of the configuration says."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    more: str = ""

    def __str__(self) -> str:
        kind = "STRING" if self.datatype == "BYTES" else self.datatype
        return f'{{ name: "{self.name}" data_type: TYPE_{kind} dims: {list(self.dims)} {self.more} }}'


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model of the repository.

    `graph` makes its ONNX file from the number of the version; without one it is a program, and then
    `program` names its twin in programs/headrace. `twin` is the file in programs/triton that does the
    same in Triton's Python backend.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    twin: str
    graph: Callable[[int], ModelProto] | None = None
    program: str = ""
    batch: int = BATCH
    versions: tuple[int, ...] = (1,)
    settings: str = ""
    labels: tuple[str, ...] = ()
    at_start: bool = True
    """Whether it is loaded when the server starts; the others wait for somebody to ask."""


def _x(datatype: str, *dims: int, more: str = "") -> tuple[Tensor, ...]:
    return (Tensor("x", datatype, dims, more),)


def _y(datatype: str, *dims: int, more: str = "") -> tuple[Tensor, ...]:
    return (Tensor("y", datatype, dims, more),)


def _identity(datatype: str) -> ModelFolder:
    return ModelFolder(
        f"identity_{datatype}",
        _x(datatype, 3),
        _y(datatype, 3),
        "identity",
        graph=graphs.identity(datatype, 3),
    )


def _adder(
    name: str, *, versions: tuple[int, ...] = (1,), settings: str = "", at_start: bool = True
) -> ModelFolder:
    """One that adds the number of its version, so that an answer tells which one gave it."""
    return ModelFolder(
        name, _x("FP32", 1), _y("FP32", 1), "adder", graph=graphs.adder, versions=versions, settings=settings,
        at_start=at_start,
    )  # fmt: skip


_PAIR = (Tensor("INPUT0", "INT32", (16,)), Tensor("INPUT1", "INT32", (16,)))
_CONTROLS = """
    control_input [
      { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
      { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }] },
      { name: "END" control [{ kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }] },
      { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
    ]"""

CLOSED: Final = frozenset({"simple"})
"""Those of a server that allows nothing which it need not."""

CLASSES: Final = ("oak", "elm", "ash", "fir", "yew")

SHAPED: Final = tuple(
    ModelFolder(
        f"shaped_{datatype}",
        _x(datatype, -1, -1),
        _y(datatype, -1, -1),
        "identity",
        graph=graphs.identity(datatype, None, None),
    )
    for datatype in DTYPES
)
"""One for each datatype that takes rows of any two dimensions."""

MODELS: Final[tuple[ModelFolder, ...]] = (
    *map(_identity, DTYPES),
    ModelFolder(
        "simple",
        _PAIR,
        (Tensor("OUTPUT0", "INT32", (16,)), Tensor("OUTPUT1", "INT32", (16,))),
        "simple",
        graph=graphs.simple,
        settings="dynamic_batching { }",
    ),
    ModelFolder(
        "alone",
        _x("FP32", 2, 3),
        _y("FP32", 2, 3),
        "identity",
        graph=graphs.identity("FP32", 2, 3, batch=False),
        batch=0,
    ),
    ModelFolder("variable", _x("FP32", -1), _y("FP32", -1), "identity", graph=graphs.identity("FP32", None)),
    ModelFolder(
        "reshaped",
        _x("FP32", 4, more="reshape { shape: [2, 2] }"),
        _y("FP32", 4, more="reshape { shape: [2, 2] }"),
        "identity",
        graph=graphs.identity("FP32", 2, 2),
    ),
    ModelFolder(
        "scores",
        _x("FP32", 5),
        _y("FP32", 5, more='label_filename: "classes.txt"'),
        "identity",
        graph=graphs.identity("FP32", 5),
        labels=CLASSES,
    ),
    ModelFolder(
        "lookup",
        _x("INT64", 1),
        _y("INT64", 1),
        "lookup",
        graph=graphs.lookup,
        settings="dynamic_batching { }",
    ),
    _adder("every_version", versions=(1, 2, 3), settings="version_policy { all { } }"),
    _adder("latest_version", versions=(1, 2, 3)),
    _adder("latest_two", versions=(1, 2, 3), settings="version_policy { latest { num_versions: 2 } }"),
    _adder(
        "chosen_versions", versions=(1, 2, 3), settings="version_policy { specific { versions: [1, 3] } }"
    ),
    _adder(
        "levels",
        settings="dynamic_batching { priority_levels: 3 default_priority_level: 2 "
        "max_queue_delay_microseconds: 500 preferred_batch_size: [4, 8] }",
    ),
    _adder("ordered", settings="dynamic_batching { preserve_ordering: true }"),
    _adder(
        "warmed",
        settings='model_warmup [{ name: "zero" batch_size: 1 inputs { key: "x" value { '
        "data_type: TYPE_FP32 dims: [1] zero_data: true } } }]",
    ),
    _adder("told", settings='parameters { key: "colour" value { string_value: "green" } }'),
    _adder("spare", versions=(1, 2), at_start=False),
    _adder("another_spare", at_start=False),
    _adder("never_asked", at_start=False),
    ModelFolder("broken", _x("FP32", 1), _y("FP32", 1), "broken", graph=None, at_start=False),
    ModelFolder(
        "slow",
        _x("INT32", 1),
        _y("INT32", 1),
        "slow",
        program="slow",
        settings="dynamic_batching { default_queue_policy { max_queue_size: 2 } }",
    ),
    ModelFolder("sleeper", _x("INT32", 1), _y("INT32", 1), "slow", program="slow"),
    ModelFolder(
        "impatient",
        _x("INT32", 1),
        _y("INT32", 1),
        "slow",
        program="slow",
        settings="dynamic_batching { default_queue_policy { "
        "default_timeout_microseconds: 50000 allow_timeout_override: true timeout_action: REJECT } }",
    ),
    ModelFolder("fragile", _x("INT32", 1), _y("INT32", 1), "fragile", program="fragile"),
    ModelFolder("blob", _x("BYTES", 1), _y("BYTES", 1), "identity", program="identity"),
    ModelFolder(
        "optional",
        (Tensor("x", "FP32", (1,)), Tensor("bonus", "FP32", (1,), "optional: true")),
        _y("FP32", 1),
        "optional",
        program="optional",
    ),
    ModelFolder(
        "echo_parameters",
        _x("FP32", 1),
        (Tensor("said", "BYTES", (1,)),),
        "echo_parameters",
        program="echo_parameters",
    ),
    ModelFolder(
        "repeat",
        _x("INT32", -1),
        _y("INT32", 1),
        "repeat",
        program="repeat",
        batch=0,
        settings="model_transaction_policy { decoupled: true }",
    ),
    ModelFolder(
        "running_sum",
        _x("INT32", 1),
        (*_y("INT32", 1), Tensor("id", "UINT64", (1,))),
        "running_sum",
        program="running_sum",
        settings="sequence_batching { max_sequence_idle_microseconds: 60000000 direct { }" + _CONTROLS + " }",
    ),
)


def models_of(server: Server) -> tuple[ModelFolder, ...]:
    """Return what this server serves."""
    match server:
        case Server.OPEN:
            return MODELS
        case Server.CLOSED:
            return tuple(model for model in MODELS if model.name in CLOSED)
        case Server.FUZZED:
            return MODELS + SHAPED
