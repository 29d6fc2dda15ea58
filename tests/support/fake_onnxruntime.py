"""ONNX Runtime's CUDA provider without a GPU: its own CPU sessions compute, as kernels of a fake GPU's.

    with FakeDriver() as driver, fake_provider(driver) as provider:
        engine = OnnxRuntimeCudaEngine(path, gpu=fake_gpu(driver))

A session takes its options as the provider does, binds addresses of the fake GPU alone, and puts each
execution into the stream that it was given. What the real one would not take is an error of the test.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeDriver
from fake_memory import Bytes, Misuse
from onnxruntime.capi import onnxruntime_pybind11_state as native

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Gemm node. "
    "Name:'g' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "AllocateRawInternal() Failed to allocate memory for requested buffer of size 4096"
)
ILLEGAL_ADDRESS = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Gemm node. Name:'g' Status "
    "Message: CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=secret ; "
    "file=/onnxruntime_src/x.cc ; line=129 ; expr=cudaStreamSynchronize(stream)"
)
_REAL = onnxruntime.InferenceSession
_OPTIONS = {
    "device_id", "user_compute_stream", "arena_extend_strategy", "cudnn_conv_algo_search", "use_tf32",
    "do_copy_in_default_stream", "gpu_mem_limit",
}  # fmt: skip
"""Of the provider's documentation, those that make sense here."""


@dataclass(slots=True)
class Provider:
    """What tests say to the provider, and what it was told."""

    driver: FakeDriver
    opened: list[dict[str, str]] = field(default_factory=list)
    """The options of each session on the GPU."""
    failures: deque[Exception] = field(default_factory=deque)
    """Raised by the next calls of `run_with_iobinding`."""
    ended: list[str] = field(default_factory=list)
    """The streams of sessions that have ended."""
    cannot_open: Exception | None = None
    has_libraries: bool = True
    arena_bytes: int = 0
    """What the arena of a session takes at its first execution, and gives back when that ends."""
    on_cpu: tuple[tuple[str, str], ...] = ()
    """Types and names of the operators that the GPU has no kernels for."""


class Session:
    """`onnxruntime.InferenceSession`, with the provider."""

    def __init__(
        self, provider: Provider, path: Path, options: Any, providers: list[Any], **more: Any
    ) -> None:
        assert more == {"enable_fallback": 0}, "it would go on with the CPU, and say so on stdout"
        self._provider = provider
        self._arena = 0
        self._options = self._taken(providers)
        if self._options is not None and provider.cannot_open is not None:
            raise provider.cannot_open
        self._real = _REAL(path, options, providers=[CPU], enable_fallback=0)
        if self._options is not None:
            provider.driver.check_pushed("a session is opened")
            provider.opened.append(self._options)
            stream = self._options.get("user_compute_stream", "")
            weakref.finalize(self, provider.ended.append, stream).atexit = False

    def _taken(self, providers: list[Any]) -> dict[str, str] | None:
        if providers == [CPU]:
            return None
        (name, options), other = providers
        assert (name, other) == (CUDA, CPU)
        assert set(options) <= _OPTIONS
        assert all(isinstance(value, str) for value in options.values())
        assert int(options["device_id"]) == self._provider.driver.facts.index
        return options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self._options is not None and self._provider.has_libraries else [CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [SimpleNamespace(op_type=kind, name=name) for kind, name in self._provider.on_cpu]
        parts = [(CUDA, [SimpleNamespace(op_type="Gemm", name="fast")]), (CPU, nodes)]
        return [SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: nodes) for name, nodes in parts]

    def io_binding(self) -> Any:
        return _REAL.io_binding(self._real) if self._options is None else Binding(self)

    def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
        if self._options is None:
            self._real.run_with_iobinding(binding, run_options)
            return
        assert binding.session is self
        if self._provider.failures:
            raise self._provider.failures.popleft()
        if self._provider.arena_bytes and not self._arena:
            driver = self._provider.driver
            self._arena = driver.allocate(self._provider.arena_bytes)
            weakref.finalize(self, driver.free, self._arena).atexit = False
        reads = [bound.place for bound in binding.inputs]
        writes = [bound.place for bound in binding.outputs]
        if self._provider.on_cpu:  # which reads and writes beside the stream
            self._provider.driver.compute_beside(reads, writes, binding.compute)
            return
        assert run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        stream = int(self._options["user_compute_stream"])
        self._provider.driver.enqueue(stream, reads, writes, binding.compute, label="a session")

    def run(self, *arguments: Any) -> Any:
        if self._options is not None:
            self._provider.driver.check_pushed("a session is executed")
            if self._provider.failures:
                raise self._provider.failures.popleft()
        return self._real.run(*arguments)


@dataclass(frozen=True, slots=True)
class Bound:
    """A tensor at an address of the GPU."""

    name: str
    element_type: Any
    shape: tuple[int, ...]
    address: int

    @property
    def place(self) -> tuple[int, int]:
        size = 2 if isinstance(self.element_type, int) else np.dtype(self.element_type).itemsize
        return self.address, math.prod(self.shape) * size


class Binding:
    """`onnxruntime.IOBinding`, to addresses of the GPU."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inputs: list[Bound] = []
        self.outputs: list[Bound] = []

    def bind_input(self, name: str, device: str, index: int, kind: Any, shape: Any, address: int) -> None:
        self._check(device, index)
        self.inputs.append(Bound(name, kind, tuple(shape), address))

    def bind_output(self, name: str, device: str, index: int, kind: Any, shape: Any, address: int) -> None:
        self._check(device, index)
        self.outputs.append(Bound(name, kind, tuple(shape), address))

    def _check(self, device: str, index: int) -> None:
        if (device, index) != ("cuda", self.session._provider.driver.facts.index):
            raise Misuse(f"a session on the GPU is bound to {device} {index}")

    def compute(self, reads: list[Bytes], writes: list[Bytes]) -> None:
        """Execute the real session on the bytes that stand for the GPU's."""
        real = self.session._real
        binding = real.io_binding()
        taken = [np.ascontiguousarray(read) for read in reads]
        for bound, data in zip(self.inputs, taken, strict=True):
            binding.bind_input(bound.name, "cpu", 0, bound.element_type, bound.shape, data.ctypes.data)
        for bound, data in zip(self.outputs, writes, strict=True):
            binding.bind_output(bound.name, "cpu", 0, bound.element_type, bound.shape, data.ctypes.data)
        real.run_with_iobinding(binding)


@contextlib.contextmanager
def fake_provider(driver: FakeDriver) -> Iterator[Provider]:
    """Have ONNX Runtime come with the provider, on this GPU."""
    provider = Provider(driver)

    def session(path: Path, options: Any, providers: list[Any], **more: Any) -> Session:
        return Session(provider, path, options, providers, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", session)
        patch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        yield provider


def failure(text: str) -> Exception:
    """Return an error as the library raises it."""
    return native.Fail(text)  # type: ignore[no-any-return]  # the library is not typed
