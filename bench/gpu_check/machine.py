"""What machine this is: GPUs, libraries and their versions."""

from __future__ import annotations

import dataclasses
import os
import platform
from importlib import metadata
from typing import Final

from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting
from headrace_engines.plans import nvidia
from headrace_engines.runtime.cuda import gpu, nvml

_PACKAGES: Final = (
    "tensorrt", "tensorrt_rtx", "pycuda", "cuda-bindings", "nvidia-ml-py", "onnxruntime", "onnxruntime-gpu",
    "numpy", "grpcio", "protobuf",
)  # fmt: skip


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Note the facts "gpus", "why none", "library" and what else a reader of figures needs."""
    record.fact("python", platform.python_version())
    record.fact("kernel", platform.release())
    record.fact("cores", len(os.sched_getaffinity(0)))
    record.fact("packages", {name: version for name in _PACKAGES if (version := _version(name))})
    library = nvidia.installed()
    record.fact("library", library.short_name if library else "")
    with record.step("looking for GPUs"):
        found = gpu.available()
        record.fact("gpus", [dataclasses.asdict(one) | {"architecture": one.architecture} for one in found])
        record.fact("why none", "" if found else gpu.why_none())
    with record.step("NVML"):
        for one in found:
            sample = nvml.sample(one.uuid)
            record.fact(f"NVML {one.index}", dataclasses.asdict(sample) if sample else None)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
