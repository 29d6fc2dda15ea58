"""How a GPU fares: what the management library tells, as far as it does."""

from __future__ import annotations

import importlib
import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest

from headrace_engines.runtime.cuda import nvml
from headrace_engines.runtime.cuda.nvml import GpuSample, sample

UUID = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


class NVMLError(Exception):
    """What the library raises."""


def library(**other: Any) -> SimpleNamespace:
    """Return a management library with one GPU that tells everything, but for `other`."""

    def by_uuid(uuid: str) -> str:
        if uuid != UUID:
            raise NVMLError("Not Found")
        return "gpu"

    told: dict[str, Any] = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=3, total=8),
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=25, memory=1),
        "nvmlDeviceGetTemperature": lambda gpu, sensor: 41,
        "nvmlDeviceGetPowerUsage": lambda gpu: 70500,
        "nvmlDeviceGetTotalEccErrors": lambda gpu, kind, counter: 2,
    }
    return SimpleNamespace(**told | other)


def refuses(*_: object) -> None:
    raise NVMLError("Not Supported")


def test_a_gpu_tells_how_it_fares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_library", library)
    assert sample(UUID) == GpuSample(3, 8, 0.25, 41, 70.5, 2)
    assert sample("GPU-another") is None


def test_what_a_gpu_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [name for name in vars(library()) if name.startswith("nvml") and "ByUUID" not in name]
    monkeypatch.setattr(nvml, "_library", lambda: library(**dict.fromkeys(asked, refuses)))
    assert sample(UUID) == GpuSample(None, None, None, None, None, None)


def test_without_the_library_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_library", lambda: None)
    assert sample(UUID) is None


def test_each_name_is_one_of_the_librarys() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    names = set(re.findall(r"\b(?:py)?nvml\.(\w+)", inspect.getsource(nvml)))
    assert len(names) > 8
    assert {name for name in names if not hasattr(pynvml, name)} == set()
    arguments = {
        "nvmlDeviceGetHandleByUUID": ["uuid"],
        "nvmlDeviceGetTemperature": ["handle", "sensor"],
        "nvmlDeviceGetTotalEccErrors": ["handle", "errorType", "counterType"],
    }
    for name, expected in arguments.items():
        assert (
            list(inspect.signature(getattr(importlib.import_module("pynvml"), name)).parameters) == expected
        )
