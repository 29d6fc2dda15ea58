"""Steps that are done once more where an engine is spoilt meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cuda import FakeDriver, fake_gpu

from headrace_engines.errors import EngineSpoilt, ExecutionError
from headrace_engines.renewal import in_usable_context, with_renewal


def spoilt(times: int, told: list[str]) -> Callable[[], str]:
    """Return a step that finds the engine spoilt so many times."""

    def step() -> str:
        told.append("step")
        if told.count("step") <= times:
            raise EngineSpoilt("spoilt")
        return "done"

    return step


@pytest.mark.parametrize(
    ("times", "expected"), [(0, ["step"]), (1, ["step", "renew", "step"]), (2, ["step", "renew", "step"])]
)
def test_an_engine_is_renewed_once(times: int, expected: list[str]) -> None:
    told: list[str] = []
    device: Any = SimpleNamespace(renew=lambda: told.append("renew"))
    if times < 2:
        assert with_renewal(device, spoilt(times, told)) == "done"
    else:
        with pytest.raises(EngineSpoilt):
            with_renewal(device, spoilt(times, told))
    assert told == expected


def test_an_engine_without_a_device_is_not_renewed() -> None:
    told: list[str] = []
    with pytest.raises(EngineSpoilt):
        with_renewal(None, spoilt(1, told))
    assert told == ["step"]


def test_a_step_gets_the_context_that_is_there_by_then() -> None:
    with FakeDriver() as driver:
        gpu = fake_gpu(driver)
        generations: list[int] = []

        def step(generation: int) -> int:
            generations.append(generation)
            if len(generations) in (1, 3, 4):
                raise EngineSpoilt("spoilt")
            if len(generations) == 5:
                raise ExecutionError("not of the context")
            return generation

        assert in_usable_context(gpu, step) == 2
        with pytest.raises(EngineSpoilt):
            in_usable_context(gpu, step)
        assert gpu.generation == 4, "a fresh one is left to others"
        with pytest.raises(ExecutionError):
            in_usable_context(gpu, step)
        assert generations == [1, 2, 2, 3, 4]
        gpu.close()
