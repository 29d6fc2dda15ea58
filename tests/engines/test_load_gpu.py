"""Which file of a version serves where there are GPUs, and what is ordered where no plan fits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver
from fake_machine import INT8, INT8_MODEL, NEW, OLD, FakeMachine, machine_with, plan_name, write_version
from fake_onnxruntime import fake_provider
from fake_tensorrt_library import ACTIVATION_BYTES, CONTEXT_BYTES
from onnx_models import Models

from headrace_engines import independence, opening
from headrace_engines.candidates import Candidate
from headrace_engines.declaration import Declaration, DeclaredTensor
from headrace_engines.engine import Engine
from headrace_engines.errors import DeclarationError, ModelFileError, UnsupportedModelError
from headrace_engines.independence import Independence
from headrace_engines.load import Loaded, load
from headrace_engines.memory import Held
from headrace_engines.opening import Opener
from headrace_engines.placement import Group, Kind, Placement
from headrace_engines.plans import nvidia
from headrace_engines.rebuilt_plans import RebuiltPlans
from headrace_engines.steps import StepEngine

INT8_PLAN, PLAN = plan_name(INT8_MODEL), plan_name("model.onnx")
ON_GPU = Placement(Kind.GPU)
PINNED = "CUDA_ERROR_OUT_OF_MEMORY"
SPOILT = "CUDA_ERROR_ILLEGAL_ADDRESS"


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


@pytest.fixture
def machine(driver: FakeDriver) -> Iterator[FakeMachine]:
    with machine_with(driver) as machine:
        yield machine


@contextmanager
def loaded(folder: Path, machine: FakeMachine, **options: Any) -> Iterator[Loaded]:
    result = load(folder, machine=machine, **options)
    try:
        yield result
    finally:
        result.close()


def answer(engine: Engine | StepEngine) -> float:
    assert not isinstance(engine, StepEngine)
    (rows,) = engine.run([np.zeros((1, 3), np.float32)])
    return float(rows[0, 0])


def test_a_plan_that_fits_comes_first(models: Models, tmp_path: Path, machine: FakeMachine) -> None:
    with loaded(write_version(tmp_path, models.adding(1)), machine) as result:
        assert (result.artefact, result.engine.platform) == (INT8_PLAN, "tensorrt_plan")
        assert result.places == ((0, 1),)
        assert result.rebuilds == ()
        assert not isinstance(result.engine, StepEngine)
        buffers = result.engine.slots * 64 * (3 + 3) * 4
        assert result.engine.device is not None
        for_batches = result.engine.device.memory_bytes
        contexts = 2 * len(result.engine.spec.batch_sizes) * CONTEXT_BYTES
        assert for_batches == buffers + ACTIVATION_BYTES + contexts
        assert result.held == Held(buffers, {0: for_batches + (tmp_path / INT8_PLAN).stat().st_size})
        assert f"{INT8_MODEL}: what a plan is built of" in result.why
        assert result.why[0] == f"{INT8_PLAN}: chosen: {INT8} is good"
        assert f"{PLAN}: not needed: {INT8_PLAN} comes first" in result.why
        assert answer(result.engine) == 1


def test_a_damaged_plan_is_not_shown_to_the_library(
    models: Models, tmp_path: Path, machine: FakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    content = (folder / INT8_PLAN).read_bytes()
    (folder / INT8_PLAN).write_bytes(content[:-1] + b" ")
    with loaded(folder, machine) as result:
        assert result.artefact == PLAN
        assert result.rebuilds == ()
    assert "damaged" in caplog.text


def test_until_a_plan_is_rebuilt_onnx_runtime_serves(
    models: Models, tmp_path: Path, driver: FakeDriver, machine: FakeMachine
) -> None:
    folder = write_version(tmp_path, models.adding(1), by=OLD)
    rebuilt = RebuiltPlans(tmp_path / "plans")
    with loaded(folder, machine, rebuilt=rebuilt) as result:
        assert (result.artefact, result.engine.platform) == ("model.onnx", "onnxruntime_onnx")
        assert [order.file for order in result.rebuilds] == [INT8_PLAN, PLAN]
        assert (
            f"{plan_name(INT8_MODEL, OLD)}: NOT SERVED: it was built by trt{OLD}, and trt{NEW} is installed; "
            f"it will be rebuilt from {INT8_MODEL}"
        ) in result.why
        rebuilt.note_failure(result.rebuilds[0], "no memory")
    with fake_provider(driver), loaded(folder, machine, rebuilt=rebuilt) as result:
        assert result.why[0].startswith("model.onnx on the GPU: chosen: ")
        assert result.places == ((0, 1),)
        assert [order.file for order in result.rebuilds] == [PLAN]
        assert any(line.endswith("; it could not be rebuilt: no memory") for line in result.why)
        assert answer(result.engine) == 1


@pytest.mark.parametrize(
    ("by", "recipes", "advice"),
    [(OLD, [], "build it anew with `headrace build`"), (OLD, None, f"it can be rebuilt from {INT8_MODEL}")],
)
def test_what_can_be_done_about_a_plan_is_told(
    models: Models, tmp_path: Path, machine: FakeMachine, by: str, recipes: Any, advice: str
) -> None:
    folder = write_version(tmp_path, models.adding(1), by=by, recipes=recipes)
    with loaded(folder, machine) as result:
        assert any(line.endswith(f"; {advice}") for line in result.why)
        assert result.rebuilds == ()


def test_with_a_driver_that_is_too_old_nothing_is_rebuilt_and_that_is_told_once(
    models: Models,
    tmp_path: Path,
    machine: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = write_version(tmp_path, models.adding(1), by=OLD)
    monkeypatch.setattr(nvidia, "_CUDA", {"tensorrt": {14: "tensorrt-cu14"}})
    monkeypatch.setattr(nvidia, "_LEAST_DRIVER", {14: "700"})
    monkeypatch.setattr(nvidia, "_version", {"tensorrt-cu14": NEW}.get)
    told = (
        f"the driver supports CUDA 13.0, and tensorrt {NEW} needs CUDA 14: install a driver of 700 or newer"
    )
    with loaded(folder, machine, rebuilt=RebuiltPlans(tmp_path / "plans")) as result:
        assert result.rebuilds == ()
        plans = f"{plan_name(INT8_MODEL, OLD)}, {plan_name('model.onnx', OLD)}"
        assert f"{plans}: NOT SERVED: {told}" in result.why
        assert set(result.warned) < set(result.why)
    assert caplog.text.count(told) == 1


def test_a_plan_whose_model_is_gone_is_not_said_to_be_rebuilt(
    models: Models, tmp_path: Path, machine: FakeMachine
) -> None:
    folder = write_version(tmp_path, models.adding(1), by=OLD)
    (folder / INT8_MODEL).unlink()
    with loaded(folder, machine, rebuilt=RebuiltPlans(tmp_path / "plans")) as result:
        assert [order.file for order in result.rebuilds] == [PLAN]
        assert any(line.endswith(f"; it cannot be rebuilt: {INT8_MODEL} is missing") for line in result.why)


def test_a_plan_for_another_gpu_is_told_with_both(models: Models, tmp_path: Path) -> None:
    folder = write_version(tmp_path, models.adding(1))
    with (
        FakeDriver(compute_capability=(8, 6), name="Older GPU") as older,
        machine_with(older) as machine,
        loaded(folder, machine, rebuilt=RebuiltPlans(tmp_path / "plans")) as result,
    ):
        assert any("it was built for sm90, and Older GPU is sm86; it will be" in line for line in result.why)
        assert result.rebuilds[0].file == plan_name(INT8_MODEL, architecture="sm86")


@pytest.mark.parametrize(
    ("placement", "artefact", "why"),
    [
        (Placement(Kind.CPU), "model.onnx", "made for a GPU: the configuration says KIND_CPU"),
        (
            Placement(groups=(Group(2, (7,)),)),
            "model.onnx",
            "made for a GPU: instance_group[0].gpus: there is no GPU 7; this machine has GPU 0",
        ),
        (Placement(Kind.GPU, (Group(2, (0,)),)), INT8_PLAN, f"not needed: {INT8_PLAN}"),
    ],
)
def test_the_configuration_says_where(
    models: Models, tmp_path: Path, machine: FakeMachine, placement: Placement, artefact: str, why: str
) -> None:
    with loaded(write_version(tmp_path, models.adding(1)), machine, placement=placement) as result:
        assert result.artefact == artefact
        assert result.counts == (placement.on_cpu,)
        plans = INT8_MODEL, INT8_PLAN, PLAN
        assert f"{', '.join(plans)}: {why}" in result.why or f"{PLAN}: {why} comes first" in result.why


def test_on_gpus_alone_the_cpu_is_no_way_out(models: Models, tmp_path: Path, machine: FakeMachine) -> None:
    folder = write_version(tmp_path, models.adding(1), by=OLD)
    with pytest.raises(ModelFileError, match=r"model\.onnx on the GPU: needs ONNX Runtime with its CUDA"):
        load(folder, machine=machine, placement=ON_GPU)


def test_every_gpu_has_its_instances(models: Models, tmp_path: Path) -> None:
    folder = write_version(tmp_path, models.adding(1))
    with FakeDriver() as first, FakeDriver(index=1) as second, machine_with(first, second) as machine:
        placement = Placement(Kind.GPU, (Group(2, (0,)), Group(1)))
        with loaded(folder, machine, placement=placement) as result:
            assert result.places == ((0, 3), (1, 1))
            assert [answer(engine) for engine in result.engines] == [1, 1]
        with loaded(folder, machine, placement=Placement(groups=(Group(2, (1,)),))) as result:
            assert result.places == ((1, 2),)


@pytest.mark.parametrize("step", ["open", "answers", "check"])
def test_whatever_a_library_raises_leaves_no_engine_on_a_gpu(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    opened = Opener.open

    def open_first(opener: Opener, candidate: Candidate, gpu: int, max_batch_size: int) -> Engine:
        if gpu:
            raise RuntimeError("a library's own")
        return opened(opener, candidate, gpu, max_batch_size)

    def refuse(engine: Engine, *_: object) -> Independence:
        raise RuntimeError("a library's own")

    if step == "open":
        monkeypatch.setattr(Opener, "open", open_first)
    elif step == "answers":
        monkeypatch.setattr(opening, "check_answers", refuse)
    else:
        monkeypatch.setattr(independence, "check", refuse)
    with FakeDriver() as first, FakeDriver(index=1) as second, machine_with(first, second) as machine:
        with pytest.raises(RuntimeError, match="a library's own"):
            load(folder, machine=machine, placement=Placement(Kind.GPU, (Group(1, (0, 1)),)))
        for driver in (first, second):
            assert driver.calls["release"] == driver.calls["retain"]
        assert first.calls["retain"] == 1


def test_graphs_are_left_out_where_the_configuration_says_so(
    models: Models, tmp_path: Path, driver: FakeDriver, machine: FakeMachine
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    with loaded(folder, machine, declaration=Declaration(cuda_graphs=False)) as result:
        assert answer(result.engine) == 1
        assert driver.calls["begin_capture"] == 0
    with loaded(folder, machine):
        assert driver.calls["begin_capture"] > 0


def test_a_plan_without_a_manifest(models: Models, tmp_path: Path, machine: FakeMachine) -> None:
    folder = write_version(tmp_path / "made", models.adding(1))
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / PLAN, bare / "model.plan")
    with loaded(bare, machine, declaration=Declaration(platform="tensorrt_plan")) as result:
        assert result.artefact == "model.plan"
    shutil.copy(folder / "model.onnx", bare / "model.onnx")
    with loaded(bare, machine) as result:
        assert result.artefact == "model.plan"
    with loaded(bare, machine, declaration=Declaration(platform="onnxruntime_onnx")) as result:
        assert result.artefact == "model.onnx"


def test_a_plan_whose_rows_change_each_other_is_served_one_row_at_a_time(
    models: Models, tmp_path: Path, machine: FakeMachine
) -> None:
    folder = write_version(tmp_path, models.normalised_over_batch())
    with loaded(folder, machine) as result:
        assert result.engine.spec.max_batch_size == 1
        assert result.why_alone
        assert result.artefact == INT8_PLAN


def test_without_a_library_or_memory_the_next_best_serves(
    models: Models, tmp_path: Path, driver: FakeDriver, machine: FakeMachine
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    with loaded(folder, FakeMachine()) as result:
        assert result.artefact == "model.onnx"
        assert any("neither is installed" in line for line in result.why)
    driver.fail("allocate_pinned", PINNED, times=2)
    with loaded(folder, machine) as result:
        assert result.artefact in (PLAN, "model.onnx")
        assert any("pinned" in line for line in result.why)


def test_a_gpu_that_is_not_there_is_told_with_what_else_is_wrong(models: Models, tmp_path: Path) -> None:
    folder = write_version(tmp_path, models.adding(1))
    wrong = Declaration(inputs=(DeclaredTensor("x", None, (4,)),))
    with pytest.raises(DeclarationError) as caught:
        load(folder, placement=ON_GPU, declaration=wrong)
    assert [one.setting for one in caught.value.differences] == ["instance_group[0].kind", "input"]
    with pytest.raises((DeclarationError, UnsupportedModelError), match="there is no GPU to run on"):
        load(folder, placement=ON_GPU, declaration=Declaration(platform="tensorrt_plan"))


def test_what_spoils_the_gpu_while_a_plan_is_proved_does_not_rule_it_out(
    models: Models, tmp_path: Path, driver: FakeDriver, machine: FakeMachine
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    with loaded(folder, machine):
        launches = driver.calls["launch"]
    driver.fail("launch", SPOILT, after=launches - 2)
    with loaded(folder, machine) as result:
        assert (result.artefact, answer(result.engine)) == (INT8_PLAN, 1)
    assert driver.calls["reset"] == 1
