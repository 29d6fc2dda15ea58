"""The tensors and profiles of a plan, as the library tells them once it has loaded the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np

from headrace_engines.errors import UnsupportedModelError

Shape = tuple[int, ...]

OPEN: Final = -1
"""A size that each execution may choose, within a profile."""

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""By the names of the library's types; those that are missing have no word in the protocol."""


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """One input or output. Its shape has the batch axis, if there is one, and OPEN sizes."""

    name: str
    dtype: np.dtype[np.generic]
    shape: Shape


@dataclass(frozen=True, slots=True)
class Profile:
    """The least, the best and the largest shape of each input that one optimization profile takes."""

    index: int
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes can be executed by it."""
        return all(
            len(shape) == len(self.shapes[name][0])
            and all(
                least <= size <= most
                for least, size, most in zip(self.shapes[name][0], shape, self.shapes[name][2], strict=True)
            )
            for name, shape in shapes.items()
        )

    @property
    def elements(self) -> int:
        """The elements of its largest inputs: how much it is made for."""
        return sum(math.prod(most) for _, _, most in self.shapes.values())


@dataclass(frozen=True, slots=True)
class PlanTensors:
    """All tensors, in the plan's order, and the profiles."""

    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    profiles: tuple[Profile, ...]

    def profile_of(self, shapes: Mapping[str, Shape]) -> Profile | None:
        """Return the profile that is made for the least and takes inputs of these shapes; None without."""
        fitting = [profile for profile in self.profiles if profile.takes(shapes)]
        return min(fitting, key=lambda profile: profile.elements, default=None)


def read_tensors(tensorrt: Any, engine: Any) -> PlanTensors:
    """Return the tensors of an ICudaEngine.

    Raises UnsupportedModelError naming a tensor that cannot be served: of a type that the protocol lacks,
    one that is read on the host, or one that does not lie row by row.
    """
    # Without functions inside it: those would hold the engine for as long as somebody holds an error.
    inputs: list[PlanTensor] = []
    outputs: list[PlanTensor] = []
    profiles: list[Profile] = []
    for index in range(engine.num_io_tensors):
        tensor = _tensor(tensorrt, engine, engine.get_tensor_name(index))
        is_input = engine.get_tensor_mode(tensor.name) == tensorrt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(tensor)
    for index in range(engine.num_optimization_profiles):
        shapes = {}
        for tensor in inputs:
            shapes[tensor.name] = _range(engine, tensor.name, index)
        profiles.append(Profile(index, shapes))
    return PlanTensors(tuple(inputs), tuple(outputs), tuple(profiles))


def _tensor(tensorrt: Any, engine: Any, name: str) -> PlanTensor:
    kind = engine.get_tensor_dtype(name).name
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise UnsupportedModelError(f"tensor {name!r} is of TensorRT's type {kind}, not served here")
    on_device = engine.get_tensor_location(name) == tensorrt.TensorLocation.DEVICE
    if engine.is_shape_inference_io(name) or not on_device:
        raise UnsupportedModelError(
            f"tensor {name!r} holds a shape, which the library reads on the host: not served here; "
            "export the model with sizes that follow from its other inputs"
        )
    if engine.get_tensor_format(name) != tensorrt.TensorFormat.LINEAR:
        raise UnsupportedModelError(
            f"tensor {name!r} is laid out as {engine.get_tensor_format_desc(name)}, not served here; "
            "build the plan with linear inputs and outputs"
        )
    return PlanTensor(name, dtype, tuple(engine.get_tensor_shape(name)))


def _range(engine: Any, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
    least, best, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, profile))
    return least, best, most
