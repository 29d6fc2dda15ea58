"""Plans are checked before a library sees them: real ones where a library builds them, and made-up bytes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks as networks

from headrace_engines.compress.make import compress
from headrace_engines.compress.recipes import TENSORRT as TARGET
from headrace_engines.compress.recipes import chosen
from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.plans.builder import build_plan, file_name
from headrace_engines.plans.nvidia import ANY_ARCHITECTURE, RTX, TENSORRT, Library, architecture, needed
from headrace_engines.plans.settings import PlanSettings
from headrace_engines.rows import Rows
from headrace_engines.runtime.cuda.driver import GpuFacts
from headrace_engines.runtime.tensorrt.plan_file import PlanMismatch, read, refusal

HOPPER = GpuFacts(0, "NVIDIA H100", "GPU-1", (9, 0), 1 << 36, 13000)
AMPERE = replace(HOPPER, name="NVIDIA A10", compute_capability=(8, 6))
TRT = Library(TENSORRT, "10.13.2.6")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / file_name("model.fp16", TRT, "sm90")
    path.write_bytes(b"a plan" * 1000)
    return path


def test_a_plan_that_fits_is_read(plan: Path) -> None:
    sha256 = hashlib.sha256(plan.read_bytes()).hexdigest()
    found = read(plan, TRT, HOPPER, sha256=sha256, size_bytes=6000)
    assert found.content == plan.read_bytes()
    assert found.sha256 == sha256 == read(plan, TRT, HOPPER).sha256
    of_no_name = plan.rename(plan.with_name("model.plan"))
    assert read(of_no_name, TRT, AMPERE).sha256 == sha256


@pytest.mark.parametrize(
    ("library", "gpu", "complaint"),
    [
        (TRT, AMPERE, "it was built for sm90, and NVIDIA A10 is sm86"),
        (Library(TENSORRT, "10.13.2.7"), HOPPER, "built by trt10.13.2.6, and trt10.13.2.7 is installed"),
        (Library(RTX, "10.13.2.6"), HOPPER, "built by trt10.13.2.6, and rtx10.13.2.6 is installed"),
        (Library(TENSORRT, "11.0.0"), AMPERE, "is installed; it was built for sm90"),
    ],
)
def test_what_a_plan_was_not_built_for_is_told(
    plan: Path, library: Library, gpu: GpuFacts, complaint: str
) -> None:
    with pytest.raises(PlanMismatch, match=complaint) as mismatch:
        read(plan, library, gpu)
    assert str(mismatch.value).startswith("model.fp16.sm90-trt10.13.2.6.plan: ")
    assert isinstance(mismatch.value, UnsupportedModelError)


def test_damage_is_told(plan: Path) -> None:
    content = plan.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    plan.write_bytes(content[:-1])
    with pytest.raises(ModelFileError, match="damaged: it has 5999 bytes, expected 6000"):
        read(plan, TRT, HOPPER, sha256=sha256, size_bytes=6000)
    plan.write_bytes(content[:-1] + b"?")
    with pytest.raises(ModelFileError, match="damaged, or not the file .* expected " + sha256):
        read(plan, TRT, HOPPER, sha256=sha256, size_bytes=6000)
    plan.write_bytes(b"")
    with pytest.raises(ModelFileError, match="the file is empty"):
        read(plan, TRT, HOPPER)
    plan.unlink()
    with pytest.raises(ModelFileError, match="no such file"):
        read(plan, TRT, HOPPER)


@pytest.mark.parametrize(
    ("said", "is_mismatch"),
    [
        (["Error Code 6: The engine plan file is not compatible with this version of TensorRT"], True),
        (["The engine was built for compute capability 8.6"], True),
        (["Magic tag does not match"], False),
        ([], False),
    ],
)
def test_what_a_library_says_of_a_plan_decides(said: list[str], is_mismatch: bool) -> None:
    error = refusal(Path("model.plan"), said)
    assert isinstance(error, PlanMismatch) is is_mismatch
    assert isinstance(error, ModelFileError) is not is_mismatch
    assert (said[0] if said else "did not say why") in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA initialization failure with error: 35. Please check your CUDA installation",
        "Cuda Runtime (CUDA driver version is insufficient for CUDA runtime version)",
    ],
)
def test_a_driver_that_is_too_old_is_no_reason_to_build_the_plan_anew(said: str) -> None:
    error = refusal(Path("model.plan"), [said])
    assert type(error) is UnsupportedModelError
    assert str(error) == f"model.plan: the driver is too old for the library, install a newer one: {said}"


_NETWORKS = {"mlp": networks.perceptron, "cnn": networks.convolutional, "resnet50": networks.resnet50}
_BUILDS = [f"{network} {recipe}" for network in _NETWORKS for recipe in ("int8-tensorrt", "fp16", "fp8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module", params=_BUILDS)
def built(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, Library]:
    """A plan that the library has built without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="it is not installed: pip install tensorrt_rtx")
    network, recipe = request.param.split()
    source, made = folder / f"{network}.onnx", folder / f"{network}.{recipe}.onnx"
    if not source.exists():
        onnx.save(_NETWORKS[network](), source)
    (how,) = chosen([recipe], [TARGET])
    compress(how, source, made, _calibration(source))
    library = needed()
    plan = folder / file_name(made.stem, library, architecture(library))
    settings = PlanSettings(batch_sizes=(1, 8))
    build_plan(made, plan, library, settings, caches=folder, progress=lambda step, share: None)
    return plan, library


def _calibration(source: Path) -> Rows:
    tensor = onnx.load(source).graph.input[0]
    dims = [dim.dim_value for dim in tensor.type.tensor_type.shape.dim][1:]
    if dims == [64]:
        return {tensor.name: networks.scans().calibration}
    return {tensor.name: np.random.default_rng(0).random((2, *dims), np.float32)}


@pytest.mark.frameworks
def test_a_real_plan_is_read_and_its_damage_found(built: tuple[Path, Library], tmp_path: Path) -> None:
    plan, library = built
    content = plan.read_bytes()
    described = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    for gpu in (HOPPER, AMPERE):
        assert read(plan, library, gpu, **described).content == content
    for at in (0, len(content) // 2, len(content) - 1):
        flipped = tmp_path / plan.name
        flipped.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ModelFileError, match="damaged"):
            read(flipped, library, HOPPER, **described)
    other = Library(library.name, "0.0.1")
    with pytest.raises(PlanMismatch, match="is installed"):
        read(plan, other, HOPPER, **described)
    for_another = tmp_path / plan.name.replace(f".{ANY_ARCHITECTURE}-", ".sm86-")
    for_another.write_bytes(content)
    with pytest.raises(PlanMismatch, match="built for sm86"):
        read(for_another, library, HOPPER, **described)
