"""What is told of a version's files where no GPU can be used, and how often."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeDriver, present
from fake_machine import INT8_MODEL, plan_name, write_version
from onnx_models import Models

from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.errors import DeclarationError, EngineError, ModelFileError, UnsupportedModelError
from headrace_engines.load import load
from headrace_engines.machine import Machine
from headrace_engines.manifest import FILE_NAME
from headrace_engines.placement import ANYWHERE, Group, Kind, Placement

NONE = "none was found (CUDA shows none)"
MADE_FOR_GPUS = ", ".join((INT8_MODEL, plan_name(INT8_MODEL), plan_name("model.onnx")))
ON_GPU = Placement(Kind.GPU)


@pytest.fixture(autouse=True)
def no_gpu() -> Iterator[None]:
    with present():
        yield


def why(folder: Path, machine: Machine | None = None, placement: Placement = ANYWHERE) -> tuple[str, ...]:
    result = load(folder, machine=machine or Machine(), placement=placement)
    result.close()
    assert result.artefact == "model.onnx"
    return result.why


def test_one_line_tells_of_all_that_was_made_for_a_gpu(models: Models, tmp_path: Path) -> None:
    told = why(write_version(tmp_path, models.adding(1)))
    assert told[1:] == (f"{MADE_FOR_GPUS}: made for a GPU: {NONE}",)


def test_one_warning_tells_that_files_for_a_gpu_do_not_serve(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            why(write_version(tmp_path / name, models.adding(1)), machine)
    (record,) = caplog.records
    assert record.getMessage().endswith(
        f"a has files for a GPU, and is served on the CPU, as are all models: {NONE}"
    )


@pytest.mark.parametrize("has_provider", [False, True])
def test_models_without_such_files_are_told_of_where_a_provider_is_installed(
    models: Models,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    has_provider: bool,
) -> None:
    machine = Machine()
    monkeypatch.setattr(machine, "has_provider", lambda: has_provider)
    (tmp_path / "model.onnx").write_bytes(models.adding(1).read_bytes())
    with caplog.at_level(logging.WARNING):
        why(tmp_path, machine)
        why(tmp_path, machine, Placement(Kind.CPU))
    assert len(caplog.records) == has_provider


def test_gpus_that_are_named_and_not_there_are_warned_of(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    with FakeDriver() as driver, present(driver), caplog.at_level(logging.WARNING):
        why(folder, placement=Placement(groups=(Group(1, (0, 7)),)))
    assert (
        "served on the CPU: instance_group[0].gpus: there is no GPU 7; this machine has GPU 0" in caplog.text
    )


@pytest.mark.parametrize("built", [False, True])
def test_without_a_gpu_that_is_needed_the_reason_is_that_one(
    models: Models, tmp_path: Path, built: bool
) -> None:
    if built:
        write_version(tmp_path, models.adding(1))
        (tmp_path / "model.onnx").unlink()
    else:
        (tmp_path / "model.plan").write_bytes(b"plan")
    with pytest.raises(DeclarationError) as caught:
        load(tmp_path, placement=ON_GPU, machine=Machine())
    (difference,) = caught.value.differences
    assert "there is no GPU to run on (CUDA shows none); mend that, or write KIND_CPU" in difference.text


def test_of_plans_alone_those_that_are_there_are_named(models: Models, tmp_path: Path) -> None:
    folder = write_version(tmp_path, models.adding(1))
    plans = f"{plan_name(INT8_MODEL)}, {plan_name('model.onnx')}"
    with pytest.raises(UnsupportedModelError, match=f"^{plans}: needs a GPU: none was found"):
        load(folder, declaration=Declaration(platform="tensorrt_plan"), machine=Machine())


def test_without_a_manifest_what_only_that_tells_of_is_passed_over(models: Models, tmp_path: Path) -> None:
    folder = write_version(tmp_path, models.adding(1))
    (folder / FILE_NAME).unlink()
    chosen, *others = why(folder)
    assert chosen == "model.onnx: chosen: the model, as it was put here"
    assert others == [
        f"{name}: passed over: no manifest.json tells of it" for name in MADE_FOR_GPUS.split(", ")
    ]
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelFileError, match=r"expected the manifest\.json that belongs to them, or model"):
        load(folder, machine=Machine())


@pytest.mark.parametrize(("owner", "call"), [(os, "scandir"), (Path, "stat")])
def test_a_folder_that_may_not_be_read_is_told_of_as_that(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str
) -> None:
    folder = write_version(tmp_path, models.adding(1))

    def refused(path: Any, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, refused)
        with pytest.raises(ModelFileError, match=r"^the version's folder cannot be read: Permission denied$"):
            load(folder, machine=Machine())


@pytest.mark.parametrize(
    ("declaration", "placement", "told"),
    [
        (Declaration(platform="tensorrt_plan"), ANYWHERE, 'the configuration says platform: "tensorrt_plan"'),
        (NOTHING_DECLARED, ON_GPU, "made for the CPU: the configuration says KIND_GPU"),
    ],
)
def test_what_is_told_of_an_original_that_is_not_looked_at_is_what_was_declared(
    models: Models, tmp_path: Path, declaration: Declaration, placement: Placement, told: str
) -> None:
    folder = write_version(tmp_path, models.adding(1))
    for plan in folder.glob("*.plan"):
        plan.write_bytes(b"damaged")
    with FakeDriver() as driver, present(driver), pytest.raises(EngineError) as caught:
        load(folder, declaration=declaration, placement=placement, machine=Machine())
    original = "model.onnx: " if declaration.platform else "model.onnx on the GPU: "
    assert original in str(caught.value)
    assert (told in str(caught.value)) == bool(declaration.platform)
