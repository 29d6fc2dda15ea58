"""Rows that models tell of themselves, and the made-up ones near them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from ml_models import ml_model
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, SVR

from headrace_engines.data import made_up
from headrace_engines.imported import FileOptions, source
from headrace_engines.importers import typical
from headrace_engines.importers.importer import ImportOptions, typical_path
from headrace_engines.importers.onnx import open_source
from headrace_engines.importers.sklearn import SklearnImporter
from headrace_engines.progress import Stages
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_RANDOM = np.random.default_rng(2)
_FAR = np.concatenate([_RANDOM.normal(1000, 1, (40, 3)), _RANDOM.normal(-1000, 1, (40, 3))])
_VALUES = np.sin(_FAR[:, 0])
_CLASSES = (_FAR[:, 0] > np.sin(_FAR[:, 1]) * 1000).astype(int)


def _told(estimator: Any, labels: Any, folder: Path) -> NDArray[np.float32] | None:
    path = folder / "model.onnx"
    SklearnImporter(estimator.fit(_FAR, labels), ImportOptions(), "").convert(path)
    found = typical_path(path)
    return np.load(found) if found.exists() else None


@pytest.mark.parametrize(
    ("estimator", "labels"),
    [
        (SVR(gamma=1.0), _VALUES),
        (make_pipeline(StandardScaler(), SVC()), _CLASSES),
        (RandomForestRegressor(3, random_state=0), _VALUES),
        (make_pipeline(StandardScaler(), RandomForestRegressor(3, random_state=0)), _VALUES),
    ],
    ids=["machine", "scaled machine", "forest", "scaled forest"],
)
def test_rows_lie_where_the_training_data_lay(estimator: Any, labels: Any, tmp_path: Path) -> None:
    found = _told(estimator, labels, tmp_path)
    assert found is not None
    assert found.dtype == np.float32
    assert 0 < len(found) <= 512
    assert (np.abs(np.abs(found[:, 0]) - 1000) < 10).any()
    assert (np.abs(found) < 1100).all()


@pytest.mark.parametrize(
    "estimator", [LinearRegression(), make_pipeline(PolynomialFeatures(2), SVR())], ids=["linear", "derived"]
)
def test_others_tell_of_none(estimator: Any, tmp_path: Path) -> None:
    assert _told(estimator, _VALUES, tmp_path) is None


def test_made_up_rows_are_near_and_are_told_apart(tmp_path: Path) -> None:
    near = _told(SVR(gamma=1.0), _VALUES, tmp_path)
    with closing(OnnxRuntimeEngine(tmp_path / "model.onnx")) as engine:
        rows = made_up.rows(engine.spec.inputs, engine.run, 0, near)
        noise = made_up.rows(engine.spec.inputs, engine.run, 0)
        (answers,), (blank,) = (engine.run(list(each.values())) for each in (rows, noise))
    assert np.ptp(blank) < 1e-6
    assert np.ptp(answers) > 0.5
    again = made_up.rows(engine.spec.inputs, lambda arrays: arrays, 0, near)
    np.testing.assert_array_equal(rows["input"], again["input"])


def test_a_file_of_onnx_tells_of_its_vectors(tmp_path: Path) -> None:
    vectors = _RANDOM.normal(50, 1, size=(5, 4)).astype(np.float32)
    model = ml_model(
        "SVMRegressor",
        {"x": (onnx.TensorProto.FLOAT, ["n", 4])},
        {"y": (onnx.TensorProto.FLOAT, ["n", 1])},
        kernel_type="RBF",
        kernel_params=[0.5, 0.0, 3.0],
        support_vectors=vectors.reshape(-1).tolist(),
        coefficients=[1.0, -1.0, 2.0, 0.5, 1.0],
        rho=[0.25],
        n_supports=5,
    )
    onnx.save(model, tmp_path / "source.onnx")
    open_source(tmp_path / "source.onnx", ImportOptions()).convert(tmp_path / "model.onnx")
    found = np.load(typical_path(tmp_path / "model.onnx"))
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(vectors, axis=0))
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    wide.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    assert typical.rows(wide) is None


def test_the_rows_are_not_published(tmp_path: Path) -> None:
    joblib.dump(SVR(gamma=1.0).fit(_FAR, _VALUES), tmp_path / "model.joblib")
    folder = tmp_path / "prepared"
    folder.mkdir()
    made = source(tmp_path / "model.joblib", FileOptions(is_trusted=True))
    prepared = made.prepare(folder, Stages(lambda step, fraction: None))
    assert np.abs(prepared.held_out["input"]).mean() > 100
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.standard.onnx"}
