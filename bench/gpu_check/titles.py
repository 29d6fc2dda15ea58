"""The titles of the tables that goals are read from."""

from __future__ import annotations

from typing import Final

ANSWERS: Final = "answers, against ONNX Runtime on the CPU"
OPENING: Final = "opening"
ENGINE: Final = "engine"
CORE: Final = "core without transport"
SERVER: Final = "server"
GRAPHS: Final = "graphs"
