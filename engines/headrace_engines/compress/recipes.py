"""How artefacts are compressed: descriptions alone, which cost nothing to import.

A recipe is a name, a target and a few steps. Recipes that do one thing can be joined by `+`: steps
are taken from left to right, and the last part says for which target the result is made, so
`prune-structured+int8-cpu` removes hidden units and then quantises what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from types import MappingProxyType
from typing import Final, Literal

from headrace_engines.compress.steps import (
    Calibration,
    Clip,
    Distil,
    Framework,
    Half,
    Numbers,
    PruneMagnitude,
    PruneStructured,
    PruneTwoOfFour,
    Quantise,
    QuantiseDynamically,
    QuantiseFloat8,
    Step,
    is_last,
)
from headrace_engines.documents import Scalar
from headrace_engines.manifest import Recipe

CPU: Final = "cpu"
TENSORRT: Final = "tensorrt"

_MATRIX: Final = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Compression:
    """What is done to a model, and for which kind of machine.

    `max_rows` is the largest batch whose rows do not change each other's answers; None: any.
    """

    name: str
    target: str
    steps: tuple[Step, ...]
    max_rows: int | None = None

    @property
    def recipe(self) -> Recipe:
        """The same as it stands in a manifest: every setting of every step."""
        settings: dict[str, Scalar] = {"steps": ", ".join(step.verb for step in self.steps)}
        for step in self.steps:
            settings |= {f"{step.verb}.{name}": value for name, value in _settings(step)}
        if self.max_rows is not None:
            settings["max_rows"] = self.max_rows
        return Recipe(self.name, settings)


def _settings(step: Step) -> Iterator[tuple[str, Scalar]]:
    for field in fields(step):
        value = getattr(step, field.name)
        match value:
            case Enum():
                yield field.name, str(value.value)
            case tuple():
                yield field.name, ",".join(value)
            case _:
                yield field.name, value


def _cpu(calibration: Calibration) -> Quantise:
    """Return the placement for ONNX Runtime's kernels, which multiply UINT8 activations by INT8 weights."""
    return Quantise(
        activations=Numbers.UINT8,
        quantised_bias=True,
        calibration=calibration,
        # Between convolutions a tensor stays in 8 bits through whatever stands there; between matrices
        # that costs more than it saves, and their kernels give FP32 at no cost.
        dense=_MATRIX,
        float_outputs=("Gemm", "MatMul"),
        # Softmax would round every probability to 1/256; the others have no integer kernels.
        never=("Softmax", "LayerNormalization", "InstanceNormalization", "BatchNormalization"),
    )


def _tensorrt(calibration: Calibration) -> Quantise:
    """Return the placement that TensorRT fuses: symmetric, before matrix operators alone."""
    return Quantise(
        activations=Numbers.INT8,
        quantised_bias=False,
        calibration=calibration,
        only=_MATRIX,
        dense=_MATRIX,
        float_outputs=_MATRIX,
    )


_ALL: Final = (
    Compression("int8-cpu", CPU, (_cpu(Calibration.MIN_MAX),)),
    Compression("int8-cpu-percentile", CPU, (_cpu(Calibration.PERCENTILE),)),
    Compression("dynamic", CPU, (QuantiseDynamically(only=("Gemm", "MatMul")),), max_rows=1),
    Compression("int8-tensorrt", TENSORRT, (_tensorrt(Calibration.MIN_MAX),)),
    Compression("int8-tensorrt-entropy", TENSORRT, (_tensorrt(Calibration.ENTROPY),)),
    Compression("fp8", TENSORRT, (QuantiseFloat8(only=_MATRIX),)),
    Compression("fp16", TENSORRT, (Half(),)),
    Compression("clip", CPU, (Clip(),)),
    Compression("prune-magnitude", CPU, (PruneMagnitude(),)),
    Compression("prune-2of4", TENSORRT, (PruneTwoOfFour(),)),
    Compression("prune-structured", CPU, (PruneStructured(),)),
    Compression("distil", CPU, (Distil(Framework.SKLEARN),)),
    Compression("distil-torch", CPU, (Distil(Framework.TORCH),)),
)

RECIPES: Final[Mapping[str, Compression]] = MappingProxyType({how.name: how for how in _ALL})
"""Every recipe that does one thing, by its name."""

AUTO: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        CPU: ("int8-cpu", "prune-structured", "prune-structured+int8-cpu"),
        TENSORRT: ("fp16", "int8-tensorrt", "fp8"),
    }
)
"""What is tried for a target where nobody said what to try."""

AUTO_ALONE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({CPU: ("dynamic",), TENSORRT: ()})
"""What is tried besides for a model that is served one row at a time, as it would mix the rows of a batch."""


def chosen(
    names: Sequence[str] | Literal["auto"], targets: Collection[str], *, alone: bool = False
) -> tuple[Compression, ...]:
    """Return the recipes of these names, each once; `auto` stands for the sensible ones of the targets.

    `alone` says that the model is served one row at a time.

    Raises ValueError naming what there is if one is unknown, cannot be joined so, or is for none of
    the targets.
    """
    unknown = sorted(set(targets) - AUTO.keys())
    if unknown:
        raise ValueError(f"unknown target {unknown[0]!r}; expected {' or '.join(AUTO)}")
    automatic = [
        name
        for target in AUTO
        if target in targets
        for name in (*AUTO[target], *(AUTO_ALONE[target] if alone else ()))
    ]
    found: dict[str, Compression] = {}
    for name in ["auto"] if isinstance(names, str) else names:
        for single in automatic if name == "auto" else [name]:
            found[single] = _named(single)
    for how in found.values():
        if how.target not in targets:
            raise ValueError(
                f"recipe {how.name!r} is for {how.target}, and the build for {', '.join(targets)}"
            )
    return tuple(found.values())


def _named(name: str) -> Compression:
    parts = name.split("+")
    for part in parts:
        if part not in RECIPES:
            raise ValueError(f"no recipe {part!r}; there are: {', '.join(RECIPES)}, joined by + if wanted")
    *first, last = (RECIPES[part] for part in parts)
    for how in first:
        if is_last(how.steps[-1]):
            raise ValueError(
                f"recipe {name!r}: nothing can follow {how.name}, which changes the number format"
            )
    steps = tuple(step for how in (*first, last) for step in how.steps)
    if len({step.verb for step in steps}) < len(steps):
        raise ValueError(f"recipe {name!r}: the same is done twice")
    return Compression(name, last.target, steps, last.max_rows)
