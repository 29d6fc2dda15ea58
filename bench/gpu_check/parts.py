"""Which parts there are, in their order: what decides most comes first, in case the time runs out."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Final

from bench.gpu_check.budget import Kind, Part
from bench.gpu_check.cases import Case

_PACKAGE: Final = "bench.gpu_check"

# Their seconds are 450 together: of eight minutes, since what is carried has to be unpacked, too.
_MACHINE: Final = Kind("machine", 30)
_ANSWERS: Final = Kind("answers", 125)
_ENGINE: Final = Kind("engine", 90)
_CORE: Final = Kind("core", 45)
_SERVER: Final = Kind("server", 85)
_GRAPHS: Final = Kind("graphs", 25)
_COPIES: Final = Kind("copies", 20)
_DRIVERS: Final = Kind("drivers", 15)
_PROVIDER: Final = Kind("provider", 15)

_DECISIVE: Final = ("digits-mlp/fp32", "resnet50/int8-tensorrt", "resnet50/fp16")
"""Whether plans run at all, and what the goals are about."""
_SERVED: Final = ("resnet50/int8-tensorrt", "resnet50/fp16", "mlp-large/fp16", "digits-mlp/fp16")
_CAPTURED: Final = ("resnet50/int8-tensorrt", "mlp-large/fp16", "digits-mlp/fp16")
_PROVIDED: Final = ("resnet50/fp32", "mlp-large/fp32")
_LIBRARIES: Final = ("pycuda", "cuda-python")
_OPENING_SECONDS: Final = 60.0
"""A plan compiles its kernels when it is opened for the first time, for each batch size."""


class Phase(enum.StrEnum):
    """Where everything cannot be carried to a machine at once, what needs no TensorRT is done first."""

    ALL = "all"
    FIRST = "first"
    SECOND = "second"


_BARE: Final = (_MACHINE, _COPIES, _PROVIDER)
"""What needs no TensorRT."""


def parts(cases: Sequence[Case], phase: Phase) -> Iterator[Part]:
    """Yield the parts of a phase."""
    for part in _all(cases):
        if phase is Phase.ALL or (part.kind in _BARE) == (phase is Phase.FIRST):
            yield part


def machine() -> Part:
    """Return the part that says what machine this is."""
    return Part("machine", _MACHINE, f"{_PACKAGE}.machine", 30)


def _all(cases: Sequence[Case]) -> Iterator[Part]:
    by_worth = _by_worth([case.name for case in cases])
    yield machine()
    yield from _of(_ANSWERS, "answers", by_worth, by_worth, _OPENING_SECONDS)
    yield from _of(_ENGINE, "engine", by_worth, by_worth, 40)
    yield from _of(_CORE, "core", by_worth, _SERVED, 30)
    yield from _of(_SERVER, "server", by_worth, _SERVED, 45)
    yield from _of(_GRAPHS, "graphs", by_worth, _CAPTURED, 30)
    yield Part("copies", _COPIES, f"{_PACKAGE}.copies", 30)
    for library in _LIBRARIES:
        yield Part(f"drivers {library}", _DRIVERS, f"{_PACKAGE}.drivers", 20, library)
    yield from _of(_PROVIDER, "provider", by_worth, _PROVIDED, 45)


def _by_worth(names: Sequence[str]) -> list[str]:
    """Return the decisive ones, then those of large networks, which come last among the cases."""
    networks = list(dict.fromkeys(name.partition("/")[0] for name in names))[::-1]
    rest = sorted(names, key=lambda name: networks.index(name.partition("/")[0]))
    return list(dict.fromkeys([name for name in _DECISIVE if name in names] + rest))


def _of(
    kind: Kind, module: str, known: Sequence[str], wanted: Sequence[str], limit_seconds: float
) -> Iterator[Part]:
    for case in wanted:
        if case in known:
            yield Part(f"{kind.name} {case}", kind, f"{_PACKAGE}.{module}", limit_seconds, case)
