"""TensorRT plans of what was made for TensorRT, where one of its libraries is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_engines.compress.recipes import TENSORRT
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.manifest import FP32, Artefact, Recipe, artefact_of
from headrace_engines.plans import nvidia
from headrace_engines.plans.builder import build_plan, file_name
from headrace_engines.plans.nvidia import Library
from headrace_engines.plans.settings import PlanSettings
from headrace_engines.progress import Stages

_UNSEEN = "the plan itself was not executed"
_MERIT_OF_FP32 = f"a TensorRT plan of the model as it was trained; {_UNSEEN}"
_MERIT = f"a TensorRT plan of an artefact that is as good as FP32; {_UNSEEN}"


@dataclass(frozen=True, slots=True)
class Planned:
    """The plans, or why there are none; `settings` say how they were built."""

    artefacts: tuple[Artefact, ...]
    settings: PlanSettings | None
    warning: str = ""

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """How the plans were built, as it stands in a manifest."""
        return (Recipe("plan", self.settings.described),) if self.settings else ()


def plans(
    folder: Path,
    models: Sequence[Artefact],
    sizes: tuple[int, ...],
    *,
    caches: Path,
    stages: Stages,
    fraction: float,
) -> Planned:
    """Build a plan beside each of the ONNX models, for batches of the given sizes.

    One that the library does not take is told among the artefacts. Without a library there are none, and
    the warning says what to install.
    """
    try:
        library = nvidia.needed()
        architecture = nvidia.architecture(library)
    except UnsupportedModelError as error:
        return Planned((), None, f"no TensorRT plans were built: {error}")
    settings = PlanSettings(batch_sizes=sizes)
    caches.mkdir(parents=True, exist_ok=True)
    made = []
    for model in models:
        name = file_name(Path(model.file).stem, library, architecture)
        with stages(f"building {name}", fraction):
            made.append(_plan(folder, model, name, library, settings, caches))
    return Planned(tuple(made), settings)


def _plan(
    folder: Path, model: Artefact, name: str, library: Library, settings: PlanSettings, caches: Path
) -> Artefact:
    into = folder / name
    try:
        build_plan(
            folder / model.file, into, library, settings, caches=caches, progress=lambda step, fraction: None
        )
    except UnsupportedModelError as error:
        reason = str(error).removeprefix(f"{model.file}: ")
        return Artefact(name, model.recipe, TENSORRT, "", 0, False, f"could not be built: {reason}")
    merit = _MERIT_OF_FP32 if model.recipe == FP32 else _MERIT
    return artefact_of(into, model.recipe, TENSORRT, merit)
