"""Plans that are built anew by the real library, which needs no GPU for that; to judge them does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import rtx_plan_child
from fake_machine import INT8_MODEL, write_version
from onnx_models import Models
from rtx_plan_child import FACTS

from headrace_engines import manifest
from headrace_engines.errors import EngineError
from headrace_engines.machine import THIS_MACHINE
from headrace_engines.plan_order import PlanOrder, order
from headrace_engines.plans.nvidia import RTX, all_installed
from headrace_engines.rebuilt_plans import RebuiltPlans
from headrace_engines.replan import Replanner

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="the package tensorrt_rtx is not installed: pip install tensorrt_rtx",
    ),
]


def _order(folder: Path, models: Models) -> PlanOrder:
    version = write_version(folder / "m" / "1", models.adding(1))
    described = manifest.read(version)
    assert described
    (library,) = [library for library in all_installed() if library.name == RTX]
    plan = next(made for made in described.artefacts if made.file.endswith(".plan"))
    wanted = order(version, described, plan, library, FACTS)
    assert wanted
    assert wanted.model.name == INT8_MODEL
    return wanted


def test_the_real_builder_fulfils_an_order(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _order(tmp_path, models)
    monkeypatch.setenv("PYTHONPATH", str(Path(rtx_plan_child.__file__).parent))
    rebuilt = RebuiltPlans(tmp_path / "plans")
    steps: list[str] = []
    replanner = Replanner(rebuilt, tmp_path / "caches", child=rtx_plan_child.__name__)
    made = replanner.build(wanted, lambda step, fraction: steps.append(step))
    assert made.plan.file == f"model.int8-tensorrt.any-{wanted.library.short_name}.plan"
    assert made.likeness.agreement == 1
    assert rebuilt.find(wanted) == made
    assert steps[-1] == "comparing it with ONNX Runtime"
    assert any(step.startswith("TensorRT: ") for step in steps)


@pytest.mark.skipif(bool(THIS_MACHINE.gpus()), reason="there is a GPU")
def test_without_a_gpu_a_plan_is_built_and_not_believed(models: Models, tmp_path: Path) -> None:
    wanted = _order(tmp_path, models)
    replanner = Replanner.of(tmp_path)
    with pytest.raises(EngineError, match=r"\.plan: it was built, and cannot be compared with ONNX Runtime"):
        replanner.build(wanted, lambda step, fraction: None)
    assert replanner.rebuilt.find(wanted) is None
