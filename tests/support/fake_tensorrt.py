"""Plans for a fake TensorRT on a fake GPU, and engines over them.

    with FakeDriver() as driver, opened(plan_of(model, folder), driver) as engine: ...

A plan is a small document that names an ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from fake_cuda import FakeDriver, fake_gpu
from fake_tensorrt_library import FakeTensorRt

from headrace_engines.plans.nvidia import TENSORRT, Library
from headrace_engines.runtime.tensorrt.engine import TensorRtEngine

VERSION = "10.13.2.6"

Range = tuple[Sequence[int], Sequence[int], Sequence[int]]


class FakeLibrary(Library):
    """An installed library that is no package."""

    def module(self) -> ModuleType:
        module: ModuleType = _MODULES[self.name, self.version]
        return module


_MODULES: dict[tuple[str, str], Any] = {}


def library(driver: FakeDriver, name: str = TENSORRT, version: str = VERSION, **traits: Any) -> FakeLibrary:
    """Return a library for the GPU of the driver; see FakeTensorRt for its traits."""
    _MODULES[name, version] = FakeTensorRt(driver, name, version, **traits)
    return FakeLibrary(name, version)


def plan_of(
    model: Path,
    folder: Path,
    *,
    by: Library = Library(TENSORRT, VERSION),  # noqa: B008 - it is frozen
    architecture: str = "sm90",
    profiles: Sequence[Mapping[str, Range]] = (),
    batches: Sequence[tuple[int, int, int]] = ((1, 64, 64),),
    open_sizes: tuple[int, int, int] = (1, 8, 16),
    traits: Mapping[str, Any] = {},
) -> Path:
    """Write a plan of an ONNX file, named as a build names it, and return it.

    `traits`: `host` and `typed` are tensors read on the host, and of a type of TensorRT's own;
    `data_dependent` are outputs whose size is not known before; `vectorised` are laid out otherwise.
    """
    path = folder / f"{model.stem}.{architecture}-{by.short_name}.plan"
    document = {
        "fake plan": by.version,
        "onnx": str(model),
        "profiles": list(profiles) or _profiles(model, batches, open_sizes),
        "traits": dict(traits),
    }
    path.write_text(json.dumps(document))
    return path


@contextmanager
def opened(
    plan: Path, driver: FakeDriver, *, by: Library | None = None, **options: Any
) -> Iterator[TensorRtEngine]:
    """Load a plan as an engine on the GPU of the driver."""
    with closing(
        TensorRtEngine(plan, library=by or library(driver), gpu=fake_gpu(driver), **options)
    ) as engine:
        yield engine


def _profiles(
    model: Path, batches: Sequence[tuple[int, int, int]], open_sizes: tuple[int, int, int]
) -> list[dict[str, Any]]:
    inputs = onnx.load(model, load_external_data=False).graph.input
    profiles = []
    for sizes in batches:
        profile = {}
        for tensor in inputs:
            dims = [dim.dim_value or -1 for dim in tensor.type.tensor_type.shape.dim]
            profile[tensor.name] = [
                [dim if dim > 0 else size if axis == 0 else open_size for axis, dim in enumerate(dims)]
                for size, open_size in zip(sizes, open_sizes, strict=True)
            ]
        profiles.append(profile)
    return profiles
