"""Builds plans with the real library, and judges them by their ONNX files: no GPU is there to load them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fake_machine import INT8_MODEL

from headrace_engines import plan_child
from headrace_engines.engine import Engine
from headrace_engines.machine import Machine
from headrace_engines.runtime.cuda.driver import GpuFacts
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

FACTS = GpuFacts(0, "Fake GPU", "GPU-0", (9, 0), 1 << 30, 13000)


class WithoutGpu(Machine):
    """Believes that it has a GPU; the plan lies in a hidden folder beside the folder of the model."""

    def gpus(self) -> Mapping[int, GpuFacts]:
        return {0: FACTS}

    def plan_engine(self, path: Path, gpu: int, **options: Any) -> Engine:
        assert path.stat().st_size > 1000
        return OnnxRuntimeEngine(path.parents[3] / "m" / "1" / INT8_MODEL)


if __name__ == "__main__":
    plan_child.main(WithoutGpu())
