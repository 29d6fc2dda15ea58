"""What every part is told: where the models are, how much is to be measured, and until when."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class OutOfTimeError(Exception):
    """Something was left out, so that the part ends by itself and nothing that it had is in doubt."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`cases` is the repository that `bench.gpu_check.make_cases` wrote, `work` a folder for what parts make.

    `seconds` is how long one figure is measured. `python` starts an interpreter, for parts and servers.
    `ends_at` is when the part that is told this will be ended, by `time.monotonic`, which all processes of a
    machine share.
    """

    cases: Path
    work: Path
    batches: tuple[int, ...] = BATCHES
    seconds: float = 0.15
    gpu: int = 0
    python: tuple[str, ...] = (sys.executable,)
    ends_at: float = math.inf

    @property
    def server_seconds(self) -> float:
        """How long a load is kept on a server: its threads have to come into step."""
        return 16 * self.seconds

    @property
    def built(self) -> Path:
        """The repository of what had to be built on this machine, because the plans of `cases` do not fit."""
        return self.work / "built"

    @property
    def caches(self) -> Path:
        """The folder for what libraries compile and measure on this machine."""
        return self.work / "caches"

    @property
    def left_seconds(self) -> float:
        """How long the part may still take."""
        return self.ends_at - time.monotonic()

    def check_time(self, needed_seconds: float) -> None:
        """Raise OutOfTimeError if the part has no such time left."""
        if self.left_seconds < needed_seconds:
            raise OutOfTimeError(f"left out: it takes {needed_seconds:.1f} s, and no such time was left")

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
