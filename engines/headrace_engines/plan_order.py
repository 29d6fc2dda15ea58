"""A plan that this machine lacks: what it is to be built of, how, and for which GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from headrace_engines.compress.recipes import CPU, TENSORRT
from headrace_engines.documents import Scalar, dump
from headrace_engines.manifest import FP32, Artefact, Manifest
from headrace_engines.plans.builder import file_name
from headrace_engines.plans.nvidia import ANY_ARCHITECTURE, RTX, Library
from headrace_engines.plans.settings import PlanSettings
from headrace_engines.runtime.cuda.driver import GpuFacts

_RECIPE: Final = "plan"
_KEY_SIGNS: Final = 16


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """What decides a plan. `model` is the ONNX file of the hash `sha256`, made by `recipe`.

    `weights` are the hashes of files beside it that it may keep its weights in, by name.
    """

    model: Path
    sha256: str
    recipe: str
    settings: PlanSettings
    library: Library
    gpu: GpuFacts
    weights: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def architecture(self) -> str:
        """For which GPUs the plan will be."""
        return ANY_ARCHITECTURE if self.library.name == RTX else self.gpu.architecture

    @property
    def file(self) -> str:
        """The plan's name."""
        return file_name(self.model.stem, self.library, self.architecture)

    @property
    def key(self) -> str:
        """The name of everything but the ONNX file: one that was judged on another GPU is another plan."""
        facts = {
            "library": self.library.short_name,
            "gpu": [self.gpu.name, self.gpu.architecture],
            "settings": dict(self.settings.described),
            "weights": dict(self.weights),
        }
        return hashlib.sha256(dump(facts)).hexdigest()[:_KEY_SIGNS]


def order(
    folder: Path, described: Manifest, plan: Artefact, library: Library, gpu: GpuFacts
) -> PlanOrder | None:
    """Return what would build a plan of the manifest anew here; None where the manifest does not tell."""
    model = _origin(described, plan)
    settings = next((recipe.settings for recipe in described.recipes if recipe.name == _RECIPE), None)
    if model is None or settings is None or (read := _settings(settings)) is None:
        return None
    return PlanOrder(
        folder / model.file,
        model.sha256,
        plan.recipe,
        read,
        library,
        gpu,
        MappingProxyType(described.weights),
    )


def _origin(described: Manifest, plan: Artefact) -> Artefact | None:
    """Return the ONNX file that a plan was built of: the model itself where it has no form for TensorRT."""
    made = [
        artefact
        for artefact in described.artefacts
        if artefact.passed and artefact.recipe == plan.recipe and artefact.file.endswith(".onnx")
    ]
    made.sort(key=lambda artefact: artefact.target != TENSORRT)
    fits = [artefact for artefact in made if artefact.target == TENSORRT or _is_original(artefact)]
    return fits[0] if fits else None


def _is_original(artefact: Artefact) -> bool:
    return artefact.target == CPU and artefact.recipe == FP32


def _settings(told: Mapping[str, Scalar]) -> PlanSettings | None:
    """Return the settings as a manifest tells them; None where it tells others than there are."""
    try:
        read = PlanSettings(
            batch_sizes=tuple(map(int, str(told["batch_sizes"]).split(","))),
            open_sizes=_three(str(told["open_sizes"])),
            optimization_level=int(told["optimization_level"]),
            tf32=bool(told["tf32"]),
            sparse_weights=bool(told["sparse_weights"]),
            workspace_bytes=int(told["workspace_bytes"]),
        )
    except (KeyError, ValueError):
        return None
    return read if dict(read.described) == dict(told) else None


def _three(text: str) -> tuple[int, int, int]:
    least, usual, largest = map(int, text.split(","))
    return least, usual, largest
