"""Builds of ONNX files, from the file to the version that is served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import Models

from headrace_engines import imported, trial
from headrace_engines.build import BuildOptions, BuildResult, build, key
from headrace_engines.data.options import DataOptions, Pixels
from headrace_engines.errors import DataError, EngineError, FolderError, ModelFileError, UnsupportedModelError
from headrace_engines.folding import Fold
from headrace_engines.imported import FileOptions
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.judgement import Wish
from headrace_engines.load import load
from headrace_engines.plans import nvidia
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_ROWS = 600
_INT8 = BuildOptions(recipes=("int8-cpu",))


class Builder:
    """Builds into a folder of its own, and remembers what it was told meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[str] = []

    def __call__(self, model: Path, options: BuildOptions = _INT8) -> BuildResult:
        self.steps = []
        return build(
            str(model),
            "m",
            self.folder / "models",
            options=options,
            store_folder=self.folder / "store",
            progress=lambda step, fraction: self.steps.append(step),
        )


@pytest.fixture(scope="module")
def wide(models: Models) -> Path:
    """A perceptron that is large enough to gain from INT8."""
    return models.mlp((32, 512, 512, 5))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, wide: Path) -> Path:
    """Rows, with labels that the model is right about but for a tenth."""
    random = np.random.default_rng(1)
    x = random.standard_normal((_ROWS, 32)).astype(np.float32)
    (answers,) = trial.answers(OnnxRuntimeEngine(wide), {"x": x})
    labels = np.where(random.random(_ROWS) < 0.1, random.integers(5, size=_ROWS), answers.argmax(1))
    file = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(file, x=x, label=labels)
    return file


@pytest.fixture(scope="module")
def labelled(rows: Path) -> BuildOptions:
    return replace(
        _INT8, file=FileOptions(data=DataOptions(source=str(rows), labels="label")), wish=Wish(max_loss=0.05)
    )


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, wide: Path, labelled: BuildOptions
) -> tuple[Builder, BuildResult]:
    builder = Builder(tmp_path_factory.mktemp("built"))
    return builder, builder(wide, labelled)


def test_a_file_is_built_judged_and_served(built: tuple[Builder, BuildResult]) -> None:
    _, result = built
    assert [(made.recipe, made.passed) for made in result.manifest.artefacts] == [
        ("fp32", True),
        ("int8-cpu", True),
    ]
    assert result.manifest.gates["metric"] == "accuracy"
    (comparison,) = result.report.comparisons
    assert comparison.quality is not None
    assert 0.85 < comparison.quality.reference < 0.97
    assert [layer.operator for layer in comparison.layers] == ["Gemm"] * 3
    assert result.report.conversion_error < 1e-6
    served = load(result.folder)
    served.engine.close()
    assert served.artefact == "model.int8-cpu.onnx"
    assert (result.folder / "report.html").exists()


def test_the_same_again_opens_nothing(
    built: tuple[Builder, BuildResult], wide: Path, labelled: BuildOptions, tmp_path: Path
) -> None:
    builder, result = built
    copy = tmp_path / "renamed.onnx"
    shutil.copy(wide, copy)
    again = builder(copy, labelled)
    assert (again.cached, again.is_new, again.manifest) == (True, False, result.manifest)
    assert builder.steps == ["publishing", "done"]


def _with_data(options: BuildOptions, **changes: Any) -> BuildOptions:
    return replace(options, file=replace(options.file, data=replace(options.file.data, **changes)))


@pytest.mark.parametrize(
    "changed",
    [
        lambda options: _with_data(options, seed=1),
        lambda options: _with_data(options, labels=None),
        lambda options: replace(options, file=replace(options.file, importing=ImportOptions(opset=18))),
        lambda options: replace(options, file=replace(options.file, fold=Fold())),
        lambda options: replace(options, max_batch_size=16),
        lambda options: replace(options, wish=replace(options.wish, max_loss=0.04)),
        lambda options: replace(options, recipes=("int8-cpu", "prune-structured")),
        lambda options: replace(options, recipes=("int8-cpu",), targets=("cpu", "tensorrt")),
    ],
    ids=["seed", "labels", "opset", "pixels", "batch", "loss", "recipes", "targets"],
)
def test_whatever_decides_the_outcome_is_another_build(
    wide: Path, labelled: BuildOptions, changed: Callable[[BuildOptions], BuildOptions]
) -> None:
    other = changed(labelled)
    keys = {key(imported.source(wide, it.file), it, {"onnx": "1"}) for it in (labelled, other)}
    assert len(keys) == 2
    found = imported.source(wide, labelled.file)
    assert key(found, labelled, {"onnx": "2"}) not in keys


def test_plans_for_another_gpu_are_another_build(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(_INT8, targets=("cpu", "tensorrt"))
    source = imported.source(wide, options.file)
    keys = [key(source, options, {})]
    monkeypatch.setattr(nvidia, "installed", lambda: nvidia.Library(nvidia.TENSORRT, "10.13.2"))
    for architecture in ("sm80", "sm90"):
        monkeypatch.setattr(nvidia, "architecture", lambda library, found=architecture: found)
        keys.append(key(source, options, {}))
    assert len(set(keys)) == 3
    assert key(source, _INT8, {}) not in keys


def test_other_rows_in_the_same_place_are_another_build(wide: Path, tmp_path: Path) -> None:
    keys = []
    for value in (0, 1):
        np.savez(tmp_path / "rows.npz", x=np.full((50, 32), value, np.float32))
        options = replace(_INT8, file=FileOptions(data=DataOptions(source=str(tmp_path / "rows.npz"))))
        keys.append(key(imported.source(wide, options.file), options, {}))
    assert keys[0] != keys[1]


def test_another_place_and_time_make_the_same_manifest(
    built: tuple[Builder, BuildResult], wide: Path, labelled: BuildOptions, tmp_path: Path
) -> None:
    _, result = built
    again = Builder(tmp_path)(wide, labelled)
    assert not again.cached
    assert (again.folder / "manifest.json").read_bytes() == (result.folder / "manifest.json").read_bytes()


def test_without_data_likeness_on_noise_is_judged_and_said(models: Models, tmp_path: Path) -> None:
    result = Builder(tmp_path)(models.mlp((16, 64, 4)), BuildOptions(recipes=("int8-cpu", "auto")))
    assert result.manifest.made_up
    assert result.manifest.gates["metric"] == "fidelity"
    assert any("on noise" in warning for warning in result.report.warnings)


def test_a_logarithm_is_built_on_noise_and_on_rows_some_of_which_it_does_not_answer(
    models: Models, tmp_path: Path
) -> None:
    path = models.unary("Log", onnx.TensorProto.FLOAT, ("N", 4), ("N", 4))
    noise = Builder(tmp_path / "noise")(path, BuildOptions(recipes=("auto",)))
    assert not any("not judged" in warning for warning in noise.report.warnings)
    rows = np.random.default_rng(0).uniform(1, 2, (100, 4)).astype(np.float32)
    rows[::2] = -rows[::2]
    np.save(tmp_path / "rows.npy", rows)
    data = DataOptions(source=str(tmp_path / "rows.npy"))
    some = Builder(tmp_path / "some")(path, BuildOptions(file=FileOptions(data=data)))
    assert any("held-out rows were not judged" in warning for warning in some.report.warnings)


def test_rows_that_change_each_other_are_judged_alone(models: Models, tmp_path: Path) -> None:
    result = Builder(tmp_path)(models.normalised_over_batch(), BuildOptions())
    assert result.manifest.gates["batch_sizes"] == "1"
    assert any("one row at a time" in warning for warning in result.report.warnings)


def test_layers_that_suffer_stay_in_fp32(tmp_path: Path, models: Models) -> None:
    """A unit that is always 0 has weights beside which the others of the last layer are nothing."""
    model = onnx.load(models.mlp((32, 512, 512, 5), seed=3))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = {name: numpy_helper.to_array(weights[name]).copy() for name in ("w1", "b1", "w2")}
    changed["w1"][:, 0] = changed["b1"][0] = 0
    changed["w2"][0] = 1e6
    for name, values in changed.items():
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    path = tmp_path / "uneven.onnx"
    onnx.save(model, path)
    result = Builder(tmp_path)(
        path, BuildOptions(recipes=("auto",), wish=Wish(metric="fidelity", max_loss=0.01))
    )
    (int8,) = (recipe for recipe in result.manifest.recipes if recipe.name == "int8-cpu")
    comparison = result.report.of("int8-cpu")
    assert comparison is not None
    assert comparison.quality is not None
    assert comparison.quality.passed
    kept = [layer.name for layer in comparison.layers if layer.kept]
    assert kept == [comparison.layers[0].name]
    assert int8.settings["kept"] == kept[0]


def _with_nan(path: Path) -> None:
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    values = numpy_helper.to_array(weights).copy()
    values.flat[0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("damage", "kind", "told"),
    [
        (lambda path: path.write_bytes(b"PK\3\4"), EngineError, "model.onnx"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), ModelFileError, "model.onnx"),
        (lambda path: path.write_bytes(b""), EngineError, "empty"),
        (_with_nan, EngineError, "w0"),
    ],
    ids=["another-file", "cut-short", "empty", "nan"],
)
def test_a_file_that_is_no_whole_model_is_refused(
    models: Models, tmp_path: Path, damage: Callable[[Path], object], kind: type[EngineError], told: str
) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(models.mlp(), path)
    damage(path)
    builder = Builder(tmp_path / "out")
    with pytest.raises(kind, match=told):
        builder(path)
    assert not (builder.folder / "models").exists()
    assert not [entry for entry in builder.folder.glob("store/*") if entry.name != "caches"]


@pytest.mark.parametrize(
    ("arrays", "labels", "told"),
    [
        ({"x": np.zeros((9, 3), np.float32)}, None, "x"),
        ({"x": np.zeros((0, 4), np.float32)}, None, "rows"),
        (
            {
                "x": np.eye(50, 4, dtype=np.float32) + np.arange(50, dtype=np.float32)[:, None],
                "y": np.full(50, 7),
            },
            "y",
            "label 7 in row .* is out of range",
        ),
        ({"x": np.zeros((50, 4), np.float32)}, "y", "y"),
    ],
    ids=["columns", "empty", "range", "no-labels"],
)
def test_data_that_do_not_fit_are_refused(
    models: Models, tmp_path: Path, arrays: dict[str, np.ndarray], labels: str | None, told: str
) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    data = DataOptions(source=str(tmp_path / "rows.npz"), labels=labels)
    builder = Builder(tmp_path / "out")
    with pytest.raises(DataError, match=told):
        builder(models.mlp(), replace(_INT8, file=FileOptions(data=data)))
    assert not (builder.folder / "models").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (BuildOptions(recipes=("int9",)), "no recipe 'int9'"),
        (BuildOptions(targets=("tpu",)), "unknown target 'tpu'"),
        (BuildOptions(wish=Wish(metric="mape")), "unknown metric"),
        (BuildOptions(max_batch_size=0), "max_batch_size 0"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_done(
    models: Models, tmp_path: Path, options: BuildOptions, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Builder(tmp_path / "out")(models.mlp(), options)
    assert not (tmp_path / "out").exists()


def test_a_store_that_cannot_be_written_is_told(models: Models, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(FolderError, match="store cannot be written"):
        Builder(tmp_path)(models.mlp())
    assert not (tmp_path / "models").exists()


def test_a_model_without_rows_is_served_as_it_is_and_not_built(models: Models, tmp_path: Path) -> None:
    path = models.unary("Softmax", onnx.TensorProto.FLOAT, (2, 3), (2, 3), axis=0)
    with pytest.raises((UnsupportedModelError, ModelFileError), match=r"axis|rows|batch"):
        Builder(tmp_path)(path)


def test_pixels_may_be_scaled_inside_the_model(tmp_path: Path, models: Models) -> None:
    """The source takes numbers, channels first; the artefact takes pixels as they are read."""
    node = [
        onnx.helper.make_node("Flatten", ["picture"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    random = np.random.default_rng(0)
    path = models.save(
        node,
        {"picture": (onnx.TensorProto.FLOAT, ("N", 3, 8, 8))},
        {"y": (onnx.TensorProto.FLOAT, ("N", 4))},
        {"w": random.standard_normal((192, 4)).astype(np.float32)},
    )
    np.save(tmp_path / "pixels.npy", random.integers(256, size=(200, 8, 8, 3), dtype=np.uint8))
    pixels = Pixels(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    data = DataOptions(source=str(tmp_path / "pixels.npy"), pixels=pixels)
    options = replace(_INT8, recipes=("auto",), file=FileOptions(data=data, fold=Fold(channels_last=True)))
    result = Builder(tmp_path)(path, options)
    (tensor,) = result.manifest.inputs
    assert (tensor.name, tensor.dtype, tensor.dims) == ("picture", np.uint8, (8, 8, 3))
    assert result.report.conversion_error < 1e-5
    assert result.manifest.source.settings["pixels.mean"] == "0.4,0.5,0.6"
