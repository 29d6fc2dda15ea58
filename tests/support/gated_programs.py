"""Programs that wait, when they are loaded or executed, until the test opens their gate (a named pipe)."""

from __future__ import annotations

import os
from pathlib import Path

_PROGRAM = """
from pathlib import Path

from headrace_engines.python_model import Tensor


def wait():
    try:
        Path({pipe!r}).read_text()
    except FileNotFoundError:
        pass  # the gate is open for good


class Model:
    inputs = [Tensor("x", "FP32", [3])]
    outputs = [Tensor("y", "FP32", [3])]
    max_batch_size = 8

    def load(self, context):
        with Path({loads!r}).open("a") as loads:
            loads.write("x")
        if {gate!r} == "load":
            wait()

    def execute(self, batch):
        if {gate!r} == "execute":
            wait()
        return {{"y": batch["x"] + {adds}}}
"""


class GatedProgram:
    """A version that waits at its `gate`, "load" or "execute", and adds a number to its rows."""

    def __init__(self, repository: Path, name: str, version: int, *, gate: str, adds: float) -> None:
        folder = repository / name / str(version)
        folder.mkdir(parents=True)
        self._pipe = repository / f".{name}-{version}.pipe"
        self._loads = repository / f".{name}-{version}.loads"
        os.mkfifo(self._pipe)
        code = _PROGRAM.format(gate=gate, pipe=str(self._pipe), loads=str(self._loads), adds=adds)
        (folder / "model.py").write_text(code)

    def open(self) -> None:
        """Wait until the program stands at its gate, and let it through for good."""
        with self._pipe.open("w"):
            self._pipe.unlink()

    @property
    def is_open(self) -> bool:
        """Whether it was let through."""
        return not self._pipe.exists()

    @property
    def loads(self) -> int:
        """How often it was loaded."""
        return len(self._loads.read_text()) if self._loads.exists() else 0
