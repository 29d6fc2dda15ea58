"""Plans out of a build, where one of NVIDIA's libraries is installed, and what is said where none is."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from onnx_models import Models

from headrace_engines import manifest
from headrace_engines.build import BuildOptions, BuildResult, build
from headrace_engines.load import load

_AUTO = BuildOptions(targets=("cpu", "tensorrt"))


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _build(models: Models, folder: Path) -> BuildResult:
    return build(
        str(models.mlp((32, 256, 256, 4))),
        "m",
        folder / "models",
        options=_AUTO,
        store_folder=folder / "store",
        progress=lambda step, fraction: None,
    )


@pytest.mark.skipif(
    _has("tensorrt") or _has("tensorrt_rtx"), reason="a library that builds plans is installed"
)
def test_without_a_library_what_is_missing_is_said(models: Models, tmp_path: Path) -> None:
    result = _build(models, tmp_path)
    assert any("pip install '.[rtx]'" in warning for warning in result.report.warnings)
    files = [made.file for made in result.manifest.artefacts if made.target == "tensorrt" and made.passed]
    assert "model.int8-tensorrt.onnx" in files
    assert not [file for file in files if file.endswith(".plan")]


@pytest.mark.skipif(not _has("tensorrt_rtx"), reason="tensorrt_rtx is not installed: pip install '.[rtx]'")
def test_several_targets_come_from_one_build(models: Models, tmp_path: Path) -> None:
    result = _build(models, tmp_path)
    plans = [made for made in result.manifest.artefacts if made.file.endswith(".plan")]
    assert {made.recipe for made in plans if made.passed} >= {"fp32", "int8-tensorrt"}
    assert all(made.reason.endswith("the plan itself was not executed") for made in plans if made.passed)
    for made in plans:
        manifest.verify(result.folder, made)
    served = load(result.folder)
    served.engine.close()
    assert served.artefact.endswith(".onnx")
    (told,) = [line for line in served.why if ": made for a GPU: none was found" in line]
    assert plans[0].file in told
