"""What was measured while a version was built: true of one machine at one time, part of no hash."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from headrace_engines import processors
from headrace_engines.documents import Fields, dump
from headrace_engines.gates import Quality, Speed, speed_ratio

FILE_NAME = "report.json"
FORMAT_VERSION = 2

_DECIDE_SPEED: Final = ("processor", "cores", "instructions")
_INSTRUCTIONS: Final = re.compile(r"(sse4|avx|fma|f16c|amx|asimd|sve|sme|i8mm|bf16|fphp)\w*")
"""How the instructions are called that arithmetic is done with, on x86 and ARM."""


@dataclass(frozen=True, slots=True)
class Layer:
    """How far one layer of an artefact is from the same in FP32: signal to quantisation noise."""

    name: str
    operator: str
    sqnr_db: float
    kept: bool
    """Whether the layer stayed in FP32, because it would have lost too much."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One artefact, named by its recipe, beside the FP32 model that it was made from.

    `quality` is what the gate judged, of several outputs the worst; None where the answers were no numbers.
    `likeness` holds further figures, by name: "sqnr_db" of the worst
    column, "worst_row" (the error of its worst row in standard deviations of the column), "agreement" (the
    share of rows with the same class). `speeds` are empty where no speed was measured. `layers` are there
    where the layers were looked at, worst first. `verdict` is the outcome with its figures.
    """

    recipe: str
    target: str
    passed: bool
    verdict: str
    reference_bytes: int
    candidate_bytes: int
    quality: Quality | None
    likeness: Mapping[str, float]
    speeds: tuple[Speed, ...]
    layers: tuple[Layer, ...] = ()

    @property
    def speed_ratio(self) -> float | None:
        """How many times faster than FP32, over all sizes of batch; None where that was not measured."""
        return speed_ratio(self.speeds) if self.speeds else None


@dataclass(frozen=True, slots=True)
class Report:
    """The contents of `report.json`; `seconds` tells what each step of the build took.

    `conversion_error` is the largest difference between the answers of the source and of its ONNX, in
    parts of the output's range. `warnings` are sentences for whoever builds. `reference` is the metric of
    the model in FP32 on the held-out rows, of several columns that of the first.
    """

    comparisons: tuple[Comparison, ...]
    machine: Mapping[str, str]
    seconds: Mapping[str, float]
    conversion_error: float = 0.0
    warnings: tuple[str, ...] = ()
    reference: float = 1.0

    def of(self, recipe: str) -> Comparison | None:
        """Return what was measured of the artefact that a recipe made; None if nothing was."""
        return next((compared for compared in self.comparisons if compared.recipe == recipe), None)

    def to_bytes(self) -> bytes:
        """Return the document."""
        return dump({"format_version": FORMAT_VERSION, **asdict(self)})


def read(folder: Path) -> Report | None:
    """Read a version folder's report; None if it has none. Raises ModelFileError if it is damaged."""
    fields = Fields.load(folder / FILE_NAME, FORMAT_VERSION)
    if fields is None:
        return None
    report = Report(
        comparisons=tuple(_comparison(item) for item in fields.records("comparisons")),
        machine=fields.texts("machine"),
        seconds=fields.numbers("seconds"),
        conversion_error=fields.number("conversion_error"),
        warnings=fields.strings("warnings"),
        reference=fields.number("reference"),
    )
    fields.end()
    return report


def machine() -> dict[str, str]:
    """Describe this machine, for whoever wonders why their figures differ."""
    told = _told_of_processor()
    instructions = {word for word in told.get("instructions", "").split() if _INSTRUCTIONS.fullmatch(word)}
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": told.get("processor") or platform.processor() or platform.machine(),
        "cores": str(processors.usable()),
        "instructions": " ".join(sorted(instructions)),
        "python": platform.python_version(),
    }


def machine_key(described: Mapping[str, str]) -> str:
    """Return the name of what decides speed on a machine that `machine` has described; 64 signs."""
    facts = {name: described.get(name, "") for name in _DECIDE_SPEED}
    return hashlib.sha256(dump(facts)).hexdigest()


def _told_of_processor() -> dict[str, str]:
    """Return what Linux tells of the first processor; nothing elsewhere."""
    names = {"model name": "processor", "flags": "instructions", "Features": "instructions"}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if known := names.get(name.strip()):
            told.setdefault(known, value.strip())
    return told


def _comparison(fields: Fields) -> Comparison:
    quality = fields.record_or_none("quality")
    comparison = Comparison(
        recipe=fields.text("recipe"),
        target=fields.text("target"),
        passed=fields.flag("passed"),
        verdict=fields.text("verdict"),
        reference_bytes=fields.integer("reference_bytes"),
        candidate_bytes=fields.integer("candidate_bytes"),
        quality=_quality(quality) if quality else None,
        likeness=fields.numbers("likeness"),
        speeds=tuple(_speed(item) for item in fields.records("speeds")),
        layers=tuple(_layer(item) for item in fields.records("layers")),
    )
    fields.end()
    return comparison


def _quality(fields: Fields) -> Quality:
    quality = Quality(
        metric=fields.text("metric"),
        output=fields.text("output"),
        rows=fields.integer("rows", at_least=1),
        reference=fields.number("reference"),
        candidate=fields.number("candidate"),
        loss=fields.number("loss"),
        low=fields.number("low"),
        high=fields.number("high"),
        limit=fields.number("limit"),
    )
    fields.end()
    return quality


def _speed(fields: Fields) -> Speed:
    speed = Speed(
        rows=fields.integer("rows", at_least=1),
        reference_seconds=fields.positive("reference_seconds"),
        candidate_seconds=fields.positive("candidate_seconds"),
    )
    fields.end()
    return speed


def _layer(fields: Fields) -> Layer:
    layer = Layer(
        name=fields.text("name"),
        operator=fields.text("operator"),
        sqnr_db=fields.number("sqnr_db"),
        kept=fields.flag("kept"),
    )
    fields.end()
    return layer
