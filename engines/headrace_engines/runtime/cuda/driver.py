"""What is asked of CUDA's driver, one GPU at a time; pycuda and cuda-python each answer it.

Device addresses are plain integers. Host memory that the GPU copies from and to is pinned, and is a
NumPy array of bytes. Whatever works on the GPU is put into a stream, which does one thing after the
other, and an event tells when it has come so far; the default stream, which waits for all others, is
never used. Every call but `retain`, `reset` and `release` needs the context on the calling thread:
between `push` and `pop`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import EngineError

Bytes = NDArray[np.uint8]


class Fault(enum.Enum):
    """What an error of CUDA leaves usable."""

    CALL = "call"
    """Everything: the call was wrong, or is not possible here."""
    MEMORY = "memory"
    """Everything: there was no room."""
    CONTEXT = "context"
    """The device: every later call in this context fails as well, and a fresh one may work."""
    DEVICE = "device"
    """Nothing: the device is gone, or its memory cannot be trusted."""


class CudaError(EngineError):
    """A call into CUDA failed: which, by the driver's own name for the error, and what it leaves usable."""

    def __init__(self, call: str, name: str, fault: Fault, text: str = "") -> None:
        """`call` is the driver's function, `name` such as "CUDA_ERROR_ILLEGAL_ADDRESS"."""
        super().__init__(f"{call}: {name}{f': {text}' if text else ''}")
        self.name = name
        self.fault = fault


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU, or a part of one (MIG). `uuid` is as nvidia-smi writes it ("GPU-…", "MIG-…").

    `driver` is the newest CUDA that the driver knows (13000).
    """

    index: int
    name: str
    uuid: str
    compute_capability: tuple[int, int]
    total_bytes: int
    driver: int

    @property
    def architecture(self) -> str:
        """The compute capability as plans are named by it: "sm90"."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"


def no_such_gpu(index: int, there: Collection[int]) -> str:
    """Say that there is no GPU of this index among those of the machine, of which there are some."""
    last, *others = sorted(there, reverse=True)
    named = f"GPUs {', '.join(map(str, others[::-1]))} and {last}" if others else f"GPU {last}"
    return f"there is no GPU {index}; this machine has {named}"


class Stream(Protocol):
    """Work that the GPU does in order."""

    @property
    def handle(self) -> int:
        """The CUstream, for libraries that put work into it."""


class Driver(Protocol):
    """The driver, as one GPU's primary context is used through it. Each call may raise CudaError.

    Events and graphs are opaque, and belong to the driver that made them.
    """

    @property
    def name(self) -> str:
        """The libraries that it goes through, with their versions."""

    @property
    def facts(self) -> GpuFacts:
        """The GPU."""

    def retain(self) -> None:
        """Make the primary context, or share it with other libraries of the process that have."""

    def release(self) -> None:
        """Give up what `retain` made."""

    def reset(self) -> None:
        """End the context and all that was made in it, whoever made it, and make a fresh one."""

    def push(self) -> None:
        """Make the context the calling thread's; to be followed by one `pop` on the same thread."""

    def pop(self) -> None:
        """Give the calling thread back what it had before."""

    def free_bytes(self) -> int:
        """Return how much of the GPU's memory is free, whoever uses the rest."""

    def allocate(self, size_bytes: int) -> int:
        """Return the address of so many bytes on the GPU, aligned to 256; their values are undefined."""

    def free(self, address: int) -> None:
        """Free what `allocate` returned. Waits until nothing on the GPU uses it."""

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Return pinned host memory, aligned to a page; `free_pinned` gives it back, and nothing else does.

        It outlives `reset` as the host's memory, no longer pinned: threads of other engines may be reading
        and writing theirs at that moment.
        """

    def free_pinned(self, memory: Bytes) -> None:
        """Free what `allocate_pinned` returned."""

    def stream(self) -> Stream:
        """Return a stream that does not wait for the default one."""

    def destroy_stream(self, stream: Stream) -> None:
        """Let the stream go, once it has done what it was given."""

    def event(self) -> Any:
        """Return an event with times, whose waiter sleeps and does not spin."""

    def destroy_event(self, event: Any) -> None:
        """Let the event go."""

    def record(self, event: Any, stream: Stream) -> None:
        """Have the event happen when the stream has come so far."""

    def wait_event(self, stream: Stream, event: Any) -> None:
        """Have the stream go on only when the event, as it was last recorded, has happened."""

    def synchronize(self, event: Any) -> None:
        """Wait until the event has happened; other threads go on. Raises what the work before it met."""

    def is_done(self, event: Any) -> bool:
        """Whether the event has happened. Raises what the work before it met."""

    def milliseconds(self, earlier: Any, later: Any) -> float:
        """Return the time between two events that have happened."""

    def copy_in(self, address: int, host: Bytes, stream: Stream) -> None:
        """Copy all of `host`, a part of pinned memory, to the GPU, in the stream's turn."""

    def copy_out(self, host: Bytes, address: int, stream: Stream) -> None:
        """Fill all of `host`, a part of pinned memory, from the GPU, in the stream's turn."""

    def copy_within(self, to: int, source: int, size_bytes: int, stream: Stream) -> None:
        """Copy on the GPU, in the stream's turn."""

    def zero(self, address: int, size_bytes: int, stream: Stream) -> None:
        """Write zeros on the GPU, in the stream's turn."""

    def begin_capture(self, stream: Stream) -> None:
        """Note what this thread puts into the stream from now on, and do none of it."""

    def end_capture(self, stream: Stream) -> Any:
        """Return the graph of what was noted, ready to be launched.

        Raises CudaError, too, where something was put into the stream that cannot be noted; the stream is
        as before then.
        """

    def launch(self, graph: Any, stream: Stream) -> None:
        """Do what the graph holds, in the stream's turn."""

    def destroy_graph(self, graph: Any) -> None:
        """Let the graph go."""

    def open_shared(self, handle: bytes) -> tuple[int, int]:
        """Return address and size in bytes of the memory that a CUDA IPC handle, 64 bytes, stands for.

        It is another process's, and is opened as often as it is closed.
        """

    def close_shared(self, address: int) -> None:
        """Give up what `open_shared` returned."""
