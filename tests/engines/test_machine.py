"""What a machine is asked about GPUs and libraries, and what it does not look for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import FakeDriver, present
from onnx_models import Models

from headrace_engines.errors import MemoryExhausted, UnsupportedModelError
from headrace_engines.machine import Machine
from headrace_engines.plans import nvidia
from headrace_engines.plans.nvidia import RTX, TENSORRT, Library
from headrace_engines.runtime.cuda import pools

BOTH = (Library(TENSORRT, "11.0"), Library(RTX, "1.8"))


@pytest.mark.parametrize(
    ("there", "plan", "expected"),
    [
        ((), "model.any-rtx1.8.plan", None),
        (BOTH, "model.any-rtx1.7.plan", BOTH[1]),
        (BOTH, "model.sm90-trt10.9.plan", BOTH[0]),
        (BOTH, "model.plan", BOTH[0]),
        (BOTH[1:], "model.sm90-trt10.9.plan", BOTH[1]),
    ],
)
def test_a_plan_is_for_the_library_that_built_it(
    monkeypatch: pytest.MonkeyPatch, there: tuple[Library, ...], plan: str, expected: Library | None
) -> None:
    monkeypatch.setattr(nvidia, "all_installed", lambda: there)
    assert Machine().library(plan) == expected


@pytest.mark.parametrize(
    ("installed", "library", "supported", "told"),
    [
        (
            {"tensorrt-cu13": "11.0"},
            BOTH[0],
            12040,
            "CUDA 12.4, and tensorrt 11.0 needs CUDA 13: .* 580 or newer",
        ),
        ({"tensorrt-cu13": "11.0"}, BOTH[0], 13000, ""),
        ({"tensorrt-cu13": "11.0", "tensorrt-cu12": "11.0"}, BOTH[0], 12040, ""),
        ({"tensorrt-cu12": "11.0"}, BOTH[0], 11080, "CUDA 11.8, and .* needs CUDA 12: .* 525 or newer"),
        ({"tensorrt-rtx-cu13": "1.8"}, BOTH[1], 12090, "CUDA 12.9, and tensorrt_rtx 1.8 needs CUDA 13"),
        ({}, BOTH[1], 11000, ""),
    ],
)
def test_a_driver_that_is_older_than_the_library_needs_is_told_of(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], library: Library, supported: int, told: str
) -> None:
    monkeypatch.setattr(nvidia, "_version", installed.get)
    if told:
        with pytest.raises(UnsupportedModelError, match=told):
            nvidia.check_driver(library, supported)
    else:
        nvidia.check_driver(library, supported)


def test_plans_are_rebuilt_where_there_is_a_gpu_and_a_place_for_them(tmp_path: Path) -> None:
    with present():
        assert Machine(tmp_path).replanner() is None
        assert (Machine().gpus(), Machine().why_no_gpu()) == ({}, "CUDA shows none")
    with FakeDriver(index=2) as driver, present(driver):
        assert Machine().replanner() is None
        assert Machine(tmp_path).replanner() is not None
        assert Machine().gpus() == {2: driver.facts}
    assert not list(tmp_path.iterdir())


def test_memory_is_bounded_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_pools", unbounded := pools.Pools())
    Machine.bound_memory(0, {})
    assert pools.current() is unbounded
    Machine.bound_memory(1000, {1: 10})
    with pytest.raises(MemoryExhausted, match="--pinned-memory-pool-byte-size allows 1000"):
        pools.current().take_pinned(1001)
    with pytest.raises(MemoryExhausted, match="memory of GPU 1 were asked for"):
        pools.current().take_device(1, 11)


def test_without_a_gpu_nothing_of_plans_is_imported(models: Models, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.mlp().read_bytes())
    program = """
import sys
before = set(sys.modules)  # older cuda-bindings come with the interpreter
from pathlib import Path
from headrace_engines.load import load
from headrace_engines.runtime.cuda import gpu
gpu._found = lambda: gpu.Found(why="there is none")
assert load(Path(sys.argv[1])).engine.device is None
ours = {"staged", "replan", "rebuilt_plans", "plan_order", "plan_gate", "plan_file"}
theirs = {"tensorrt", "tensorrt_rtx", "pycuda", "cuda", "pynvml"}
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} & theirs))
print(sorted({name.split(".")[-1] for name in sys.modules if name.startswith("headrace")} & ours))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n[]\n", 0), done.stderr
