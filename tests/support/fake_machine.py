"""This machine with GPUs that are fakes, and version folders that hold plans for them.

Every model adds one to each element, so that whatever serves answers alike.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeDriver, present

from headrace_engines.engine import Engine
from headrace_engines.machine import Machine
from headrace_engines.manifest import FILE_NAME, FP32, Artefact, Manifest, Recipe
from headrace_engines.plans.nvidia import Library
from headrace_engines.plans.settings import PlanSettings
from headrace_engines.spec import TensorSpec

OLD, NEW = "10.13.2.6", "10.14.1.2"
"""Versions of the library; only the newer one is installed."""
INT8 = "int8-tensorrt"
INT8_MODEL = f"model.{INT8}.onnx"
_DOC_STRING = b"\x32\x04INT8"
_FLOAT = np.dtype(np.float32)


class FakeMachine(Machine):
    """Has the newer version of the library installed, or none."""

    def __init__(self, *drivers: FakeDriver, caches: Path | None = None) -> None:
        super().__init__(caches)
        self._drivers = drivers

    def library(self, plan: str) -> Library | None:
        return fake_tensorrt.library(self._drivers[0], version=NEW) if self._drivers else None

    def plan_engine(self, path: Path, gpu: int, **options: Any) -> Engine:
        driver = next((one for one in self._drivers if one.facts.index == gpu), None)
        with pytest.MonkeyPatch.context() as patch:
            if driver is not None:  # a library of the fake kind knows one GPU
                library = fake_tensorrt.library(driver, version=NEW)
                patch.setattr(self, "library", lambda plan: library)
            return super().plan_engine(path, gpu, **options)


@contextmanager
def machine_with(*drivers: FakeDriver, caches: Path | None = None) -> Iterator[FakeMachine]:
    """Have these GPUs and the newer library in the block."""
    with present(*drivers):
        yield FakeMachine(*drivers, caches=caches)


def plan_name(model: str, version: str = NEW, architecture: str = "sm90") -> str:
    """Return the name of the plan of an ONNX file."""
    return f"{model.removesuffix('.onnx')}.{architecture}-trt{version}.plan"


def write_version(
    folder: Path,
    model: Path,
    *,
    by: str = NEW,
    planned: Sequence[str] = (INT8_MODEL, "model.onnx"),
    recipes: Sequence[Recipe] | None = None,
) -> Path:
    """Fill a version's folder as a build does for both targets, with plans by a version of the library."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, folder / "model.onnx")
    # The same model, in a file of another hash.
    (folder / INT8_MODEL).write_bytes(model.read_bytes() + _DOC_STRING)
    made = [_artefact(folder, "model.onnx", FP32, "cpu"), _artefact(folder, INT8_MODEL, INT8, "tensorrt")]
    for file in planned:
        library = Library("tensorrt", by)
        plan = fake_tensorrt.plan_of(folder / file, folder, by=library)
        made.append(_artefact(folder, plan.name, INT8 if INT8 in file else FP32, "tensorrt"))
    told = [Recipe("plan", PlanSettings(batch_sizes=(1, 8)).described)] if recipes is None else recipes
    described = Manifest(
        source=Recipe("test", {}),
        recipes=(Recipe(FP32, {}), Recipe(INT8, {"steps": "quantise"}), *told),
        data={},
        tools={},
        inputs=(TensorSpec("x", _FLOAT, (3,)),),
        outputs=(TensorSpec("y", _FLOAT, (3,)),),
        artefacts=tuple(made),
    )
    (folder / FILE_NAME).write_bytes(described.to_bytes())
    return folder


def _artefact(folder: Path, file: str, recipe: str, target: str) -> Artefact:
    content = (folder / file).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Artefact(file, recipe, target, digest, len(content), True, f"{recipe} is good")
