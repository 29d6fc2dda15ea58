"""What passes through the core: a request as a codec read it, what admission made of it, and the work that
it becomes."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from numpy.typing import NDArray

from headrace_engines.spec import ModelSpec
from headrace_engines.steps import SequenceTurn
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings
from headrace_server.core.window import Window
from headrace_server.errors import InferenceError

NO_DEADLINE: Final = math.inf

_LEEWAY_SHARE: Final = 0.01
"""By so much gRPC rounds a timeout up when it tells the server of it."""
_LEEWAY_SECONDS: Final = 0.01
"""So long a call may be on its way, while the caller's clock runs already."""

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
Contents = bytes | memoryview | NDArray[Any]
"""Of a tensor: raw contents, which may be a part of a larger message, or strings one by one.

Where the model takes them, raw contents of numbers may be `DeviceRows` as well: they have a length, and the
engine's worker alone looks at them.
"""
Data = tuple[Contents | None, ...]
"""Contents of the inputs in the model's order; None for an optional one that did not come."""
Shapes = tuple[tuple[int, ...] | None, ...] | None
"""Whole shapes of the inputs where the model is not staged; only equal ones share a batch."""


class InputTensor(NamedTuple):
    """One input as it came: `data` is raw contents, or for typed BYTES a 1-D array of bytes objects."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Contents


class Form:
    """What requests share that differ in their ids and in the bytes of their data alone.

    It says nothing itself. A codec that finds the same model, outputs, parameters, names, datatypes, shapes
    and sizes of data in another request gives it the same form, so that these need not be checked again.
    """

    __slots__ = ()


class Request(NamedTuple):
    """One inference request, not yet checked against a model. No `outputs` asks for all of them.

    `rendering` is the codec's own note on how the outputs are to be written; it comes back with the work.
    Its method `check`, given the work, raises InvalidInput where they cannot be.
    """

    model: str
    version: str
    id: str
    inputs: Sequence[InputTensor]
    outputs: Sequence[str] = ()
    parameters: Parameters = MappingProxyType({})
    rendering: Any = None
    form: Form | None = None
    """Only of a request whose data is raw contents."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a request waits: see `Priorities` for the level and the times, which are microseconds or 0."""

    priority: int = 0
    """Its level: 1 is the most urgent; 0 where the model has no levels."""
    timeout_us: int = 0
    overdue_us: int = 0
    sequence: SequenceTurn | None = None


class Admitted(NamedTuple):
    """The part of a checked request that its execution needs; inputs stand in the model's order."""

    rows: int
    data: Data
    shapes: Shapes
    size_bytes: int
    """What waits with the request: its data, and what strings cost beside their characters."""
    wanted: tuple[int, ...]
    """Positions of the outputs that the caller asked for."""
    terms: Terms


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What callers are told of a loaded model. `serial` tells one loading of it from the next."""

    name: str
    version: str
    spec: ModelSpec
    platform: str
    serial: int
    answer_row_bytes: int
    """Bytes that one row adds to an answer, as far as the model's outputs are of a fixed size."""
    settings: ModelSettings = DEFAULT_SETTINGS
    config: bytes = b""
    """The configuration in force as the protocol's message, made by whoever loaded the model."""
    takes_device_rows: bool = False
    """Whether all its engines are on GPUs, and take rows that stand there."""


class Holder(Protocol):
    """The model that a piece of work belongs to, as far as the work's sink needs to know it."""

    @property
    def facts(self) -> ModelFacts:
        """The model's name, version, tensors."""

    def submit(self, work: Work, *, hold: bool = False) -> None:
        """Accept the work, or raise an InferenceError."""

    def release(self) -> None:
        """Let the engine have what was submitted to be held."""

    def cancel(self, work: Work) -> None:
        """End the work unheard if it still waits, else mark it as abandoned: its caller has gone."""

    def expire(self, work: Work) -> None:
        """Answer the work with DeadlineMissed if it still waits."""


class State(enum.Enum):
    """Where a piece of work stands. Only the model's lock holder changes it, and only forwards."""

    QUEUED = enum.auto()
    TAKEN = enum.auto()
    ENDED = enum.auto()


QUEUED: Final = State.QUEUED
"""The states by themselves: an enum takes longer to find its member than a request can spare, four times."""
TAKEN: Final = State.TAKEN
ENDED: Final = State.ENDED


class Work:
    """An accepted request: what its model's queue holds, and what its sink gets back."""

    __slots__ = (
        "abandoned", "data", "deadline", "id", "is_overdue", "left_late", "model", "overdue_at",
        "parameters", "priority", "queued_ns", "rendering", "reply", "rows", "sequence", "shapes", "sink",
        "size_bytes", "state", "wanted", "window",
    )  # fmt: skip

    def __init__(
        self,
        model: Holder,
        request: Request,
        admitted: Admitted,
        deadline: float,
        sink: Sink,
        reply: Any,
        queued_ns: int,
    ) -> None:
        """`deadline` is on the monotonic clock in seconds, `queued_ns` that clock in nanoseconds."""
        _, _, self.id, _, _, self.parameters, self.rendering, _ = request
        self.rows, self.data, self.shapes, self.size_bytes, self.wanted, terms = admitted
        self.model = model
        self.priority = terms.priority
        self.sequence = terms.sequence
        self.deadline = deadline
        """It is never executed after that."""
        self.overdue_at = queued_ns * 1e-9 + terms.overdue_us * 1e-6 if terms.overdue_us else NO_DEADLINE
        """On the deadline's clock: it is then executed after everything of its level that is not overdue."""
        self.is_overdue = False
        self.sink = sink
        self.reply = reply
        """The sink's own note of whom to answer."""
        self.queued_ns = queued_ns
        self.abandoned = False
        """Whether the caller has gone after the work was taken."""
        self.left_late = False
        """Whether the caller has gone because the deadline passed."""
        self.window: Window | None = None
        """Bounds the responses on their way; only while a model that gives several executes the work."""
        self.state = QUEUED

    def is_late(self, now: float) -> bool:
        """Whether a caller who leaves at this moment, in seconds, leaves because the deadline passed.

        A caller's own clock ends the call as well, and somewhat earlier than ours would.
        """
        if self.deadline == NO_DEADLINE:
            return False
        allowed_seconds = self.deadline - self.queued_ns * 1e-9
        leeway_seconds = _LEEWAY_SHARE * allowed_seconds + _LEEWAY_SECONDS
        return now >= self.deadline - min(leeway_seconds, allowed_seconds / 2)


class Sink(Protocol):
    """Where answers go: a transport, with the codec of its protocol."""

    def encode(self, work: Work, outputs: Sequence[NDArray[Any]]) -> bytes:
        """Return the answer's bytes. `outputs` are this caller's rows of the outputs that it wanted, in that
        order: views that do not outlive the call."""

    def admit(self, work: Work, answer: bytes) -> None:
        """Make room for an encoded answer that `deliver` will get, or raise Overloaded. Must not block."""

    def deliver_part(self, work: Work, answer: bytes) -> None:
        """Take one response of several, or raise Overloaded where there is no room for it.

        The last thing that the work gets goes through `deliver`.

        Once the response has been written to the wire, or was dropped because the caller has gone, the
        sink calls `work.window.written(len(answer))`: the engine's thread waits while too much is on
        its way. Called from the thread that executes; must not block.
        """

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        """Take the answers of a batch. Called from the thread that executes, once a batch; must not block."""
