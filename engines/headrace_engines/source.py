"""Where a model comes from: whatever `headrace build` can be told to build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from headrace_engines.compress.recipes import TENSORRT
from headrace_engines.documents import Scalar
from headrace_engines.manifest import Recipe
from headrace_engines.progress import Stages
from headrace_engines.rows import Rows


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trained model as ONNX, with the rows that its artefacts are made and judged with.

    `calibration` and `held_out` share no row. `labels` are what is right for the held-out rows, where
    that is known: classes or values. `expected` is what the model answered to the first of them, or to
    all, before it was converted: one array per output. `data` holds the SHA-256 of every split, and `facts`
    what the manifest tells of the source beside what was known of it before. `made_up` says that the rows
    are noise of the inputs' shapes, `rows_apart` that no row of a batch changes another's answer. `standard`
    is the same model in ONNX's own operators where `model` has others, which are faster on a CPU; `cpu_only`
    names the operators that are left, for which TensorRT has nothing. `places` say where each held-out row
    stands in a person's data, and `notes` what of these was left out.
    """

    model: Path
    calibration: Rows
    held_out: Rows
    labels: NDArray[Any] | None
    expected: tuple[NDArray[Any], ...]
    data: Mapping[str, str]
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    made_up: bool = False
    rows_apart: bool = True
    standard: Path | None = None
    cpu_only: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def basis(self, target: str) -> Path:
        """Return the file that artefacts for a target are made of."""
        return self.standard if self.standard and target == TENSORRT else self.model


class Prepare(Protocol):
    """The expensive part of a source: training, or opening a file in its framework."""

    def __call__(self, folder: Path, stages: Stages) -> Prepared:
        """Write the model in FP32 as `model.onnx` into the folder, which lies in a locked one (`folders`)."""


class HeldOut(Protocol):
    """Where the rows come from that a model is timed with on another machine, without its source.

    They are those that it was judged by. Made-up ones are other noise where the source told what its typical
    rows are: such are of the data that it was trained with, and no build keeps them.
    """

    def __call__(self, model: Path, facts: Mapping[str, Scalar]) -> Rows:
        """Return them for a model that `prepare` has written, from what the manifest tells of its source."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something that can be built, known by facts that cost nothing to learn.

    `recipe` and the versions of `tools` (names of installed distributions) decide every byte that
    `prepare` makes, so that an unchanged build is recognised without preparing anything. `extra` is the
    extra of Headrace that brings the tools. `fingerprint` tells the data apart that no manifest can name
    before they are read. `held_out` gives rows to time a model with again, and `is_same` says
    whether what a manifest tells of its source, and is known only once that is prepared, would be so again.
    """

    recipe: Recipe
    tools: tuple[str, ...]
    prepare: Prepare
    held_out: HeldOut
    extra: str = "build"
    fingerprint: str = ""
    is_same: Callable[[Mapping[str, Scalar]], bool] = lambda facts: True
