"""Which parts there are, in their order: what decides most comes first, in case the time runs out."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Final

from bench.gpu_check.cases import Case
from bench.gpu_check.runner import Part

_PACKAGE: Final = "bench.gpu_check"
_DECISIVE: Final = ("digits-mlp/fp32", "resnet50/int8-tensorrt", "resnet50/fp16")
"""Whether plans run at all, and what the goals are about."""
_CORED: Final = ("resnet50/int8-tensorrt", "resnet50/fp16", "mlp-large/fp16", "digits-mlp/fp16")
_SERVED: Final = ("resnet50/int8-tensorrt", "resnet50/fp16", "mlp-large/fp16", "digits-mlp/fp16")
_CAPTURED: Final = ("resnet50/int8-tensorrt", "mlp-large/fp16", "digits-mlp/fp16")
_PROVIDED: Final = ("resnet50/fp32", "mlp-large/fp32")
_ENGINE_SECONDS: Final = 75.0
"""A plan compiles its kernels when it is opened for the first time, for each batch size."""


class Phase(enum.StrEnum):
    """Where everything cannot be carried to a machine at once, what needs no TensorRT is done first."""

    ALL = "all"
    FIRST = "first"
    SECOND = "second"


def parts(cases: Sequence[Case], phase: Phase) -> Iterator[Part]:
    """Yield the parts of a phase."""
    if phase is not Phase.SECOND:
        yield from bare(cases)
    if phase is not Phase.FIRST:
        yield from of_plans(cases)


def machine() -> Part:
    """Return the part that says what machine this is."""
    return Part("machine", f"{_PACKAGE}.machine", 40)


def bare(cases: Sequence[Case]) -> Iterator[Part]:
    """Yield what needs no TensorRT."""
    yield machine()
    yield Part("copies", f"{_PACKAGE}.copies", 60)
    yield from _of("onnxruntime", "provider", cases, _PROVIDED, 45)


def of_plans(cases: Sequence[Case]) -> Iterator[Part]:
    """Yield what needs TensorRT."""
    names = [case.name for case in cases]
    yield from _of("engine", "engine", cases, _DECISIVE, _ENGINE_SECONDS)
    yield from _of("server", "server", cases, [name for name in _SERVED if name in _DECISIVE], 60)
    yield from _of("core", "core", cases, [name for name in _CORED if name in _DECISIVE], 45)
    yield from _of(
        "engine", "engine", cases, [name for name in names if name not in _DECISIVE], _ENGINE_SECONDS
    )
    yield from _of("server", "server", cases, [name for name in _SERVED if name not in _DECISIVE], 45)
    yield from _of("core", "core", cases, [name for name in _CORED if name not in _DECISIVE], 30)
    yield from _of("graphs", "graphs", cases, _CAPTURED, 40)
    for library in ("pycuda", "cuda-python"):
        yield Part(f"library {library}", f"{_PACKAGE}.drivers", 30, library)


def _of(name: str, module: str, cases: Sequence[Case], wanted: Sequence[str], limit: float) -> Iterator[Part]:
    known = {case.name for case in cases}
    for case in wanted:
        if case in known:
            yield Part(f"{name} {case}", f"{_PACKAGE}.{module}", limit, case)
