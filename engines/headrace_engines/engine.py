"""The one interface between a scheduler and whatever computes.

An engine with fixed input sizes owns `slots` staging buffers. Its owner fills the rows of one
(`inputs`), starts it (`submit`), and collects the rows of the answer (`wait`); where the device
allows it, several slots are in flight. Models whose rows differ in size (variable dimensions,
strings) or that have no batch axis are executed with arrays of their own instead (`run`).

An engine belongs to one thread at a time, and may pass from one to another between two batches if it
`computes_on_caller`. It copies nothing that it is not asked to copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from headrace_engines.device_rows import Placed
from headrace_engines.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """What one batch took on its device, by the device's own clock, in nanoseconds."""

    copy_in_ns: int
    compute_ns: int
    copy_out_ns: int


class DeviceSide(Protocol):
    """What an engine on a device of its own has besides."""

    @property
    def gpu(self) -> int:
        """The index of its GPU."""

    @property
    def memory_bytes(self) -> int:
        """How much of the GPU's memory this instance holds besides the weights, as far as it is known."""

    def submit(self, slot: int, rows: int, placed: Sequence[Placed]) -> None:
        """Start computing as `Engine.submit` does, with some rows copied from where they stand on this GPU.

        They come input by input, in the order of their places, and what the staging buffer has in these
        places is not used. They are held on to until the batch was waited for. Raises as `Engine.wait`
        does, and InputError where rows are not there any more.
        """

    def times(self, slot: int) -> DeviceTimes | None:
        """Return what the batch took that was last waited for in the slot; None if it was not measured."""

    def renew(self) -> None:
        """Make the engine usable after EngineSpoilt, in a fresh context: `inputs` returns other arrays then.

        Raises DeviceError if the device does not answer any more.
        """


class Engine(Protocol):
    """Something that turns rows into rows."""

    @property
    def spec(self) -> ModelSpec:
        """The model's tensors and batch sizes."""

    @property
    def platform(self) -> str:
        """What runs it, in the protocol's words: "onnxruntime_onnx", "tensorrt_plan"."""

    @property
    def slots(self) -> int:
        """Staging buffers, which is how many batches may be in flight."""

    @property
    def computes_on_caller(self) -> bool:
        """Whether the thread that calls `wait` or `run` computes, and nothing else does or is waited for."""

    @property
    def device(self) -> DeviceSide | None:
        """What the engine has besides if it runs on a device of its own; None if it does not."""

    def inputs(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the slot's staging buffers, one per input, each (max_batch_size, *dims), C-contiguous.

        The same arrays at every call, until the engine is renewed. Only for a spec that `is_staged`.
        """

    def submit(self, slot: int, rows: int) -> None:
        """Start computing the first `rows` rows of the slot; returns at once where the device allows."""

    def wait(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return the outputs of the slot, one per output, each with as many rows as were submitted.

        They are views, valid until the slot is submitted again. Raises ExecutionError if this batch
        failed, EngineSpoilt if the engine has to be renewed first, DeviceError if it is lost.
        """

    def run(self, arrays: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """Execute arrays in the order of `spec.inputs`, batch axis included where there is one.

        An optional input that did not come is None. Works for every model; the staged way is faster
        where it applies. Raises as `wait` does.
        """

    def replicate(self) -> Engine:
        """Return another instance of the same model, which another thread may use beside this one.

        What can be shared is; staging buffers are not. Each of the two is closed by itself.
        """

    def close(self) -> None:
        """Give back what the engine holds; it is not used again."""
