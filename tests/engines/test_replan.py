"""Plans that are built anew: in a process of its own, judged, kept, found again, stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fake_plan_child
import pytest
from fake_cuda import FakeDriver
from fake_machine import INT8_MODEL, NEW, OLD, machine_with, plan_name, write_version
from onnx_models import Models

from headrace_engines import manifest, rebuilt_plans
from headrace_engines.errors import EngineError, FolderError, ModelFileError
from headrace_engines.load import load
from headrace_engines.plan_order import PlanOrder
from headrace_engines.rebuilt_plans import FILE_NAME, RebuiltPlans
from headrace_engines.replan import Replanner, Stopped

INT8_PLAN = plan_name(INT8_MODEL)
PATIENCE_SECONDS = 30.0


class Workshop:
    """An order for a plan, and what builds it."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.version = write_version(folder / "m" / "1", models.adding(1), by=OLD)
        self.plans = folder / "plans"
        self.caches = folder / "caches"
        self.caches.mkdir()
        shutil.copy(models.adding(2), self.caches / "other.onnx")
        self.replanner = self.another()
        with FakeDriver() as driver, machine_with(driver) as machine:
            loaded = load(self.version, machine=machine, rebuilt=self.replanner.rebuilt)
            loaded.close()
        self.order: PlanOrder = loaded.rebuilds[0]
        self.told: list[str] = []

    def another(self) -> Replanner:
        return Replanner(RebuiltPlans(self.plans), self.caches, child=fake_plan_child.__name__)

    def mode(self, mode: str) -> None:
        (self.caches / "mode").write_text(mode)

    def build(self) -> rebuilt_plans.RebuiltPlan:
        return self.replanner.build(self.order, lambda step, fraction: self.told.append(step))

    @property
    def builds(self) -> list[str]:
        return (self.caches / "builds").read_text().splitlines()

    @property
    def left(self) -> list[str]:
        """What stands beside the plans that are whole."""
        return [path.name for path in self.plans.rglob(".*")]


@pytest.fixture
def workshop(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_plan_child.__file__).parent))
    return Workshop(tmp_path, models)


def test_a_plan_is_built_judged_and_found_by_the_next_load(workshop: Workshop) -> None:
    made = workshop.build()
    assert (made.plan.file, made.likeness.agreement, made.gpu) == (INT8_PLAN, 1.0, "Fake GPU")
    assert workshop.told == ["fake build", "comparing it with ONNX Runtime"]
    assert workshop.builds == [f"{INT8_MODEL} {NEW} {workshop.order.gpu.uuid}"]
    told = json.loads((made.folder / FILE_NAME).read_text())
    assert (told["library"], told["architecture"], told["model"]) == (f"trt{NEW}", "sm90", INT8_MODEL)
    assert workshop.build() == made
    assert len(workshop.builds) == 1
    with FakeDriver() as driver, machine_with(driver) as machine:
        loaded = load(workshop.version, machine=machine, rebuilt=RebuiltPlans(workshop.plans))
        loaded.close()
    assert (loaded.artefact, loaded.rebuilds) == (INT8_PLAN, ())
    assert loaded.why[0].startswith(
        f"{INT8_PLAN}, rebuilt here: chosen: rebuilt on this machine from {INT8_MODEL}: SQNR 200.0 dB"
    )


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("crash", rf"^{INT8_PLAN}: the process that built it ended: it crashed with SIGSEGV"),
        ("refuse", rf"^{INT8_MODEL}: TensorRT's parser refuses it"),
        ("wrong", rf"^{INT8_PLAN}: it does not answer as ONNX Runtime does: SQNR .* dB"),
    ],
)
def test_what_fails_is_not_kept_and_remembered(workshop: Workshop, mode: str, told: str) -> None:
    workshop.mode(mode)
    with pytest.raises(EngineError, match=told) as caught:
        workshop.build()
    assert workshop.replanner.rebuilt.failure(workshop.order) == str(caught.value)
    assert workshop.replanner.rebuilt.find(workshop.order) is None
    assert workshop.left == []
    assert not workshop.another().rebuilt.failure(workshop.order)


def test_a_file_that_has_changed_is_not_built(workshop: Workshop) -> None:
    (workshop.version / INT8_MODEL).write_bytes(b"another")
    with pytest.raises(ModelFileError, match=f"{INT8_MODEL}: not the file that manifest.json describes"):
        workshop.build()
    assert not (workshop.caches / "builds").exists()


def test_a_damaged_plan_is_built_again(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    made = workshop.build()
    made.path.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        again = workshop.build()
    assert "is damaged, and built again" in caplog.text
    manifest.verify(again.folder, again.plan)
    assert len(workshop.builds) == 2


def test_another_library_gpu_or_setting_is_another_plan(workshop: Workshop) -> None:
    order, gpu = workshop.order, workshop.order.gpu
    others = [
        replace(order, gpu=replace(gpu, name="Another")),
        replace(order, gpu=replace(gpu, compute_capability=(8, 0))),
        replace(order, library=replace(order.library, version=OLD)),
        replace(order, settings=replace(order.settings, tf32=False)),
        replace(order, weights={"model.data": "0" * 64}),
    ]
    assert len({order.key, *(other.key for other in others)}) == 6
    assert replace(order, gpu=replace(gpu, index=1, uuid="GPU-other")).key == order.key


def test_a_stop_ends_the_child(workshop: Workshop) -> None:
    workshop.mode("hang")
    hangs = workshop.caches / "hangs"
    begun = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        building = thread.submit(workshop.replanner.build, workshop.order, lambda *_: begun.set())
        assert begun.wait(PATIENCE_SECONDS)
        workshop.replanner.stop()
        with pytest.raises(Stopped):
            building.result(PATIENCE_SECONDS)
    if hangs.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(hangs.read_text()), 0)
    assert workshop.left == []
    with pytest.raises(Stopped):
        workshop.build()
    assert not workshop.replanner.rebuilt.failure(workshop.order)


def test_two_that_build_the_same_do_it_once(workshop: Workshop) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = (
            threads.submit(one.build, workshop.order, lambda *_: None)
            for one in (workshop.replanner, workshop.another())
        )
        assert first.result(PATIENCE_SECONDS) == second.result(PATIENCE_SECONDS)
    assert len(workshop.builds) == 1


def test_a_folder_that_cannot_be_written_is_told(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    replanner = Replanner(RebuiltPlans(tmp_path / "file"), workshop.caches, child=fake_plan_child.__name__)
    with pytest.raises(FolderError, match="file cannot be written"):
        replanner.build(workshop.order, lambda *_: None)
    assert replanner.rebuilt.failure(workshop.order)


def test_what_is_damaged_or_unused_can_be_removed(workshop: Workshop) -> None:
    made = workshop.build()
    (single,) = rebuilt_plans.stored(workshop.plans, verifying=True)
    assert (single.plan, single.damage) == (made, "")
    assert rebuilt_plans.prune(workshop.plans, single.used_at - 1, lambda: None) == []
    (made.folder / FILE_NAME).write_text("{}")
    (damaged,) = rebuilt_plans.stored(workshop.plans)
    assert "format_version" in damaged.damage
    assert rebuilt_plans.prune(workshop.plans, 0, lambda: None) == [damaged]
    assert rebuilt_plans.stored(workshop.plans) == []
