"""Which artefacts of a version may serve: what its manifest and its report say together.

The manifest tells whose answers are good enough, wherever the build is repeated. Whether one for the CPU is
also faster than FP32 is true of a machine, and stands in the report: what no report says to be faster is not
served, and where the report is missing or damaged that leaves the model as it was trained.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import report
from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import FP32, Artefact, Manifest
from headrace_engines.report import Comparison, Report

FASTER: Final = "as good as FP32 and faster"
NOT_FASTER: Final = "not better: no faster than FP32"
CPU_TARGET: Final = "cpu"

_SPEED_STEPS_PER_DOUBLING: Final = 4
_FIRST, _LAST = -1_000, 1_000
_MISSING: Final = f"{report.FILE_NAME} is missing"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """An artefact, whether it may serve, and why or why not in one sentence."""

    artefact: Artefact
    may_serve: bool
    reason: str


def standings(
    described: Manifest, measured: Report | None, unmeasured: str = _MISSING
) -> tuple[Standing, ...]:
    """Return all artefacts: those of the model as it was trained, then the fastest, then what does not serve.

    Differences in speed that another measurement may turn round leave them in the manifest's order.
    `unmeasured` says why there is no report.
    """
    compared = {(one.recipe, one.target): one for one in measured.comparisons} if measured else {}
    missing = f"{report.FILE_NAME} does not tell of it" if measured else unmeasured
    placed = []
    for artefact in described.artefacts:
        comparison = compared.get((artefact.recipe, artefact.target))
        standing = _standing(artefact, comparison, missing)
        placed.append((_place(standing, comparison), standing))
    return tuple(standing for _, standing in sorted(placed, key=lambda pair: pair[0]))


def read(folder: Path, described: Manifest) -> tuple[Standing, ...]:
    """Return the artefacts of a version's folder; a report that cannot be used is logged."""
    measured, unmeasured = _measured(folder)
    if measured is None and any(map(_is_timed, described.artefacts)):
        _log.warning("%s: what was made for the CPU is not served: %s", folder, unmeasured)
    return standings(described, measured, unmeasured)


def no_report(folder: Path, described: Manifest) -> str:
    """Say why nothing is known of speed where that keeps artefacts from serving; "" where it does not."""
    measured, unmeasured = _measured(folder)
    return unmeasured if measured is None and any(map(_is_timed, described.artefacts)) else ""


def _measured(folder: Path) -> tuple[Report | None, str]:
    try:
        return report.read(folder), _MISSING
    except ModelFileError as error:
        return None, str(error)


def _is_timed(artefact: Artefact) -> bool:
    """Whether it serves only where it was measured to be faster than FP32."""
    return artefact.passed and artefact.target == CPU_TARGET and artefact.recipe != FP32


def _standing(artefact: Artefact, comparison: Comparison | None, missing: str) -> Standing:
    if not _is_timed(artefact):
        return Standing(artefact, artefact.passed, artefact.reason)
    if comparison is None:
        return Standing(artefact, may_serve=False, reason=f"not known to be faster than FP32: {missing}")
    return Standing(artefact, comparison.passed, FASTER if comparison.passed else NOT_FASTER)


def _place(standing: Standing, comparison: Comparison | None) -> int:
    if not standing.may_serve:
        return _LAST
    if standing.artefact.recipe == FP32 and standing.artefact.target == CPU_TARGET:
        return _FIRST
    ratio = comparison.speed_ratio if comparison else None
    return -round(_SPEED_STEPS_PER_DOUBLING * math.log2(ratio)) if ratio else 0
