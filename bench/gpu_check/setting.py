"""What every part is told: where the models are, and how much is to be measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Setting:
    """`cases` is the repository that `bench.gpu_check.make_cases` wrote, `work` a folder for what parts make.

    `seconds` is how long one figure is measured. `python` starts an interpreter, for parts and servers.
    """

    cases: Path
    work: Path
    batches: tuple[int, ...] = BATCHES
    seconds: float = 0.15
    gpu: int = 0
    python: tuple[str, ...] = (sys.executable,)

    @property
    def server_seconds(self) -> float:
        """How long a load is kept on a server: its threads have to come into step."""
        return 15 * self.seconds

    @property
    def built(self) -> Path:
        """The repository of what had to be built on this machine, because the plans of `cases` do not fit."""
        return self.work / "built"

    @property
    def caches(self) -> Path:
        """The folder for what libraries compile and measure on this machine."""
        return self.work / "caches"

    def to_json(self) -> str:
        """Return what `of_json` reads."""
        return json.dumps({**asdict(self), "cases": str(self.cases), "work": str(self.work)})


def of_json(text: str) -> Setting:
    """Return the setting that `to_json` wrote."""
    given: Mapping[str, Any] = json.loads(text)
    return Setting(
        **{
            **given,
            "cases": Path(given["cases"]),
            "work": Path(given["work"]),
            "batches": tuple(given["batches"]),
            "python": tuple(given["python"]),
        }
    )
