"""The models that are tried on a GPU, each in several precisions, as version folders like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.gpu_check.setting import Setting
from bench.models import Network, rows
from headrace_engines import manifest
from headrace_engines.candidates import MODEL
from headrace_engines.manifest import FP32, Artefact, Manifest

ROWS: Final = "rows.npz"
"""In a model's folder: real rows, where it was trained on such."""
PLAN_SUFFIX: Final = ".plan"
SIZES: Final = (1, 8, 32, 64, 128, 256)
"""The batch sizes that plans are built for."""
RECIPES: Final = (FP32, "fp16", "int8-tensorrt", "fp8")
"""A plan of FP32 multiplies in TF32, which is what TensorRT does unless it is told otherwise."""

NETWORKS: Final[Mapping[str, Network]] = MappingProxyType(
    {
        network.name: network
        for network in (
            Network("digits-mlp", (64,), (64, 256, 256, 10)),  # the cost of a call is all there is
            Network("digits-cnn", (1, 8, 8), (128, 10)),
            Network("mlp-large", (784,), (784, 1024, 1024, 10)),
            Network("resnet50", (3, 224, 224), (2048, 1000)),  # 602 kB a row, and 8 GFLOP
        )
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """One model in one precision: its version folder, its ONNX file, and its plan if there is one."""

    network: Network
    recipe: str
    folder: Path
    onnx: Artefact
    plan: Artefact | None

    @property
    def name(self) -> str:
        """Such as "resnet50/fp8"."""
        return f"{self.network.name}/{self.recipe}"

    def rows(self, count: int) -> NDArray[np.float32]:
        """Return as many rows: real ones again and again where there are any, else random ones."""
        stored = self.folder.parent / ROWS
        if not stored.exists():
            return varied(self.network, count)
        with np.load(stored) as arrays:
            real: NDArray[np.float32] = arrays["rows"]
        return real[np.arange(count) % len(real)]


def varied(network: Network, count: int) -> NDArray[np.float32]:
    """Return random rows that answers tell apart: each with a size and, in each channel, a mean of its own.

    Noise alone is the same to a network that takes means of it.
    """
    random = np.random.default_rng(1)
    one_by_one = (count, *(1 for _ in network.shape))
    channels = (count, network.shape[0], *(1 for _ in network.shape[1:])) if network.shape[1:] else one_by_one
    sizes = np.exp(random.uniform(-1, 1, one_by_one)).astype(np.float32)
    means = random.standard_normal(channels, np.float32)
    return rows(network, count) * sizes + means


def described(folder: Path) -> Manifest:
    """Return what stands in a version folder of cases. Raises FileNotFoundError if nothing is told there."""
    found = manifest.read(folder)
    if found is None:
        raise FileNotFoundError(f"{folder / manifest.FILE_NAME} is missing")
    return found


def cases(repository: Path) -> Iterator[Case]:
    """Yield the cases of a repository, model by model; those that are not there are left out."""
    for network in NETWORKS.values():
        folder = repository / network.name / "1"
        if (folder / manifest.FILE_NAME).exists():
            artefacts = described(folder).artefacts
            for recipe in RECIPES:
                yield from _case(network, recipe, folder, artefacts)


def find(setting: Setting, name: str) -> Case:
    """Return the case of that name, with the plan that was built here if there is one. Raises LookupError."""
    for repository in (setting.built, setting.cases):
        for case in cases(repository):
            if case.name == name:
                return case
    raise LookupError(f"no case {name!r} in {setting.cases}")


def _case(network: Network, recipe: str, folder: Path, artefacts: tuple[Artefact, ...]) -> Iterator[Case]:
    made = [one for one in artefacts if one.recipe == recipe and one.passed]
    plan = next((one for one in made if one.file.endswith(PLAN_SUFFIX)), None)
    onnx = next((one for one in made if one is not plan), None)
    if onnx is not None:
        yield Case(network, recipe, folder, onnx, plan)


def model_name(recipe: str) -> str:
    """Return the name of the ONNX file of a recipe."""
    return MODEL if recipe == FP32 else f"model.{recipe}.onnx"
