"""What was measured while a version was built: true of one machine at one time, part of no hash."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace_engines.documents import Fields, dump
from headrace_engines.gates import Accuracy, Speed, speed_ratio

FILE_NAME = "report.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One artefact, named by its recipe, beside the FP32 model that it was made from."""

    recipe: str
    reference_bytes: int
    candidate_bytes: int
    accuracy: Accuracy
    speeds: tuple[Speed, ...]

    @property
    def speed_ratio(self) -> float:
        """How many times faster than FP32, over all sizes of batch."""
        return speed_ratio(self.speeds)


@dataclass(frozen=True, slots=True)
class Report:
    """The contents of `report.json`; `seconds` tells what each step of the build took."""

    comparisons: tuple[Comparison, ...]
    machine: Mapping[str, str]
    seconds: Mapping[str, float]

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
    )
    fields.end()
    return report


def machine() -> dict[str, str]:
    """Describe this machine, for whoever wonders why their figures differ."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _comparison(fields: Fields) -> Comparison:
    comparison = Comparison(
        recipe=fields.text("recipe"),
        reference_bytes=fields.integer("reference_bytes"),
        candidate_bytes=fields.integer("candidate_bytes"),
        accuracy=_accuracy(fields.record("accuracy")),
        speeds=tuple(_speed(item) for item in fields.records("speeds")),
    )
    fields.end()
    return comparison


def _accuracy(fields: Fields) -> Accuracy:
    accuracy = Accuracy(
        rows=fields.integer("rows"),
        reference=fields.number("reference"),
        candidate=fields.number("candidate"),
        worse=fields.integer("worse"),
        better=fields.integer("better"),
        low=fields.number("low"),
        high=fields.number("high"),
    )
    fields.end()
    return accuracy


def _speed(fields: Fields) -> Speed:
    speed = Speed(
        rows=fields.integer("rows", at_least=1),
        reference_seconds=fields.positive("reference_seconds"),
        candidate_seconds=fields.positive("candidate_seconds"),
    )
    fields.end()
    return speed
