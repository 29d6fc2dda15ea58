"""A TensorRT whose engines are ONNX files, computed by ONNX Runtime as kernels of a fake driver.

What the library would do to the GPU it does: weights and contexts take memory there, and give it back when
they end, which has to be where the context of the GPU is. What it refuses is False or None, and a line for
the logger.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeDriver
from fake_memory import Misuse

from headrace_engines.errors import ExecutionError
from headrace_engines.plans.nvidia import RTX
from headrace_engines.runtime.cuda.driver import CudaError, Fault
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_WEIGHT_BYTES = 1024
ACTIVATION_BYTES = 4096
CONTEXT_BYTES = 256
_KINDS = {
    "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int8": "INT8", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "bool": "BOOL", "float64": "DOUBLE", "uint16": "UINT16",
    "uint32": "UINT32", "uint64": "UINT64", "int16": "INT16", "object": "STRING",
}  # fmt: skip


def _members(name: str, *members: str) -> Any:
    return enum.Enum(name, list(members))


class FakeTensorRt:
    """The library's module: whether executions are `capturable`, and how many `milliseconds` a size takes."""

    TensorIOMode = _members("TensorIOMode", "NONE", "INPUT", "OUTPUT")
    TensorLocation = _members("TensorLocation", "DEVICE", "HOST")
    TensorFormat = _members("TensorFormat", "LINEAR", "CHW32")
    ExecutionContextAllocationStrategy = _members("Strategy", "STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED")
    DynamicShapesKernelSpecializationStrategy = _members("Specialization", "LAZY", "EAGER", "NONE")

    class ILogger:
        Severity = _members("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

        def __init__(self) -> None:
            self.is_made = True

    def __init__(
        self,
        driver: FakeDriver,
        name: str,
        version: str,
        *,
        capturable: bool = True,
        milliseconds: Callable[[int], float] = lambda rows: 0.1,
        differs_in_graphs: bool = False,
        takes_caches: bool = True,
    ) -> None:
        self.__name__ = f"{name}-{id(driver):x}"
        self.driver = driver
        self.version = version
        self.is_rtx = name == RTX
        self.capturable = capturable
        self.milliseconds = milliseconds
        self.differs_in_graphs = differs_in_graphs
        self.takes_caches = takes_caches
        self.fails_to_deserialize = ""
        self.compiled: list[tuple[Any, ...]] = []
        """What the first executions of shapes compiled, where nothing was kept."""

    def Runtime(self, logger: Any) -> FakeRuntime:  # noqa: N802 - the library's name
        return FakeRuntime(self, logger)


class _Held:
    """What holds memory of the GPU, and gives it back when it ends."""

    def __init__(self, tensorrt: FakeTensorRt, size_bytes: int) -> None:
        self._driver = tensorrt.driver
        self._address = 0
        self._address = self._driver.allocate(size_bytes)

    def __del__(self) -> None:
        if self._address:
            try:
                self._driver.free(self._address)
            except CudaError:
                pass  # which the library logs
            except Misuse:
                pass  # which the driver remembers


class FakeRuntime:
    def __init__(self, tensorrt: FakeTensorRt, logger: Any) -> None:
        assert logger.is_made
        self.tensorrt = tensorrt
        self.logger = logger

    def error(self, text: str) -> None:
        self.logger.log(self.tensorrt.ILogger.Severity.ERROR, text)

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        try:
            document = json.loads(content)
        except ValueError:
            return self.error("Magic tag does not match")
        if document["fake plan"] != self.tensorrt.version:
            return self.error("Version tag does not match")
        try:
            return FakeEngine(self, document)
        except CudaError as error:
            return self.error(f"Error Code 1: Cuda Runtime ({error}: out of memory)")


class FakeEngine(_Held):
    num_aux_streams = 0

    def __init__(self, runtime: FakeRuntime, document: Mapping[str, Any]) -> None:
        self.runtime = runtime
        self.tensorrt = runtime.tensorrt
        self.computing = OnnxRuntimeEngine(Path(document["onnx"]))
        self.traits = document["traits"]
        self.profiles = document["profiles"]
        found = self.computing.found
        self.inputs = {tensor.name: tensor.dtype for tensor in found.inputs}
        self.outputs = {tensor.name: tensor.dtype for tensor in found.outputs}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = ACTIVATION_BYTES
        self._shapes: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}
        super().__init__(self.tensorrt, _WEIGHT_BYTES)

    @property
    def weights(self) -> tuple[int, int]:
        return self._address, _WEIGHT_BYTES

    def is_of(self, name: str, trait: str) -> bool:
        return name in self.traits.get(trait, ())

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.tensorrt.TensorIOMode
        return modes.INPUT if name in self.inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = _KINDS[str({**self.inputs, **self.outputs}[name])]
        return SimpleNamespace(name="FP8" if self.is_of(name, "typed") else kind)

    def get_tensor_location(self, name: str) -> Any:
        locations = self.tensorrt.TensorLocation
        return locations.HOST if self.is_of(name, "host") else locations.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return self.is_of(name, "host")

    def get_tensor_format(self, name: str) -> Any:
        formats = self.tensorrt.TensorFormat
        return formats.CHW32 if self.is_of(name, "vectorised") else formats.LINEAR

    def get_tensor_format_desc(self, name: str) -> str:
        return "Thirty-two wide channel vectorized row major Int8 format"

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return [list(shape) for shape in self.profiles[profile_index][name]]

    def get_tensor_shape(self, name: str) -> list[int]:
        shapes = []
        for profile in self.profiles:
            for which in (0, 2):
                inputs = {each: tuple(profile[each][which]) for each in self.inputs}
                shapes.append((inputs | self.output_shapes(inputs))[name])
        return [sizes[0] if len({*sizes}) == 1 else -1 for sizes in zip(*shapes, strict=True)]

    def output_shapes(self, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        key = tuple(inputs[name] for name in self.inputs)
        if key not in self._shapes:
            zeros = [np.zeros(inputs[name], dtype) for name, dtype in self.inputs.items()]
            answers = self.computing.run(zeros)
            self._shapes[key] = {name: a.shape for name, a in zip(self.outputs, answers, strict=True)}
        return self._shapes[key]

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig(takes_caches=self.tensorrt.takes_caches)

    def create_execution_context(self, how: Any) -> FakeContext | None:
        managed = self.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        config = how if isinstance(how, FakeRuntimeConfig) else None
        if (config.strategy if config else how) != managed:
            raise TypeError(f"a context that is {how}")
        assert (config is not None) == self.tensorrt.is_rtx
        try:
            return FakeContext(self, config)
        except CudaError as error:
            self.runtime.error(str(error))
            return None


class FakeRuntimeConfig:
    def __init__(self, *, takes_caches: bool) -> None:
        self.takes_caches = takes_caches
        self.strategy: Any = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = None
        self.cache: FakeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        if self.takes_caches:
            self.cache = cache
        return self.takes_caches


class FakeCache:
    def __init__(self) -> None:
        self.compiled: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"compiled:"):
            return False
        self.compiled = set(blob.decode().removeprefix("compiled:").split(";"))
        return True

    def serialize(self) -> bytes:
        return f"compiled:{';'.join(sorted(self.compiled))}".encode()


class FakeContext(_Held):
    active_optimization_profile = 0

    def __init__(self, engine: FakeEngine, config: FakeRuntimeConfig | None) -> None:
        self.engine = engine
        self.config = config
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)
        if engine.tensorrt.is_rtx:
            self.is_stream_capturable = lambda stream: engine.tensorrt.capturable
        super().__init__(engine.tensorrt, CONTEXT_BYTES)

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = memory, size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.active_optimization_profile = profile_index
        self.shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.active_optimization_profile][name]
        fits = len(shape) == len(least) and all(
            a <= b <= c for a, b, c in zip(least, shape, most, strict=True)
        )
        if not fits:
            self.engine.runtime.error(f"{name}: {shape} is not in profile {self.active_optimization_profile}")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        if missing := [name for name in self.engine.inputs if name not in self.shapes]:
            return missing
        try:
            self.engine.output_shapes(self.shapes)
        except ExecutionError as error:
            raise RuntimeError(f"shapes cannot be inferred: {error}") from error
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = (self.shapes | self.engine.output_shapes(self.shapes))[name]
        return tuple(-1 for _ in shape) if self.engine.is_of(name, "data_dependent") else shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in self.engine.names

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, tensorrt = self.engine, self.engine.tensorrt
        missing = [name for name in engine.names if name not in self.addresses]
        if missing or self.memory[1] < engine.device_memory_size_v2 or self.infer_shapes():
            engine.runtime.error(f"not all is set: {missing}, {self.memory}, {self.shapes}")
            return False
        capturing = tensorrt.driver.is_capturing(stream_handle)
        if capturing and not tensorrt.capturable:
            engine.runtime.error("operation not permitted when stream is capturing")
            return False
        self._compile()
        shapes = dict(self.shapes)
        outputs = engine.output_shapes(shapes)
        reads = [(self.addresses[n], _bytes(shapes[n], dtype)) for n, dtype in engine.inputs.items()]
        writes = [(self.addresses[n], _bytes(outputs[n], dtype)) for n, dtype in engine.outputs.items()]
        rows = next(iter(shapes.values()), (1,))[:1]
        differs = capturing and tensorrt.differs_in_graphs

        computing, inputs = engine.computing, engine.inputs  # a kernel does not keep the engine

        def compute(read: list[Any], written: list[Any]) -> None:
            arrays = [
                data.view(dtype).reshape(shapes[name])
                for data, (name, dtype) in zip(read[:-1], inputs.items(), strict=True)
            ]
            try:
                answers = computing.run(arrays)
            except ExecutionError as error:  # an index out of range, on a GPU
                name = "CUDA_ERROR_ILLEGAL_ADDRESS"
                raise CudaError("kernel", name, Fault.CONTEXT, str(error)) from error
            for into, answer in zip(written[:-1], answers, strict=True):
                into[:] = np.ascontiguousarray(answer).reshape(-1).view(np.uint8)
                if differs:
                    into[:] += 64

        try:
            tensorrt.driver.enqueue(
                stream_handle,
                [*reads, engine.weights],
                [*writes, self.memory],
                compute,
                milliseconds=tensorrt.milliseconds(math.prod(rows)),
            )
        except CudaError as error:
            engine.runtime.error(f"Error Code 1: Cuda Driver ({error})")
            return False
        return True

    def _compile(self) -> None:
        """Note the first execution of a shape, which the cache may know already."""
        shapes = tuple(sorted(self.shapes.items()))
        cache = self.config.cache if self.config else None
        if cache is None:
            self.engine.tensorrt.compiled.append(shapes)
        elif repr(shapes) not in cache.compiled:
            cache.compiled.add(repr(shapes))
            self.engine.tensorrt.compiled.append(shapes)


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize
