from __future__ import annotations

import gzip
import pickle
import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from classical_models import ROWS, THREE, VALUES, assert_faithful
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from headrace_engines.errors import ModelFileError, UnsupportedModelError, UntrustedSource
from headrace_engines.importers.formats import Kind, detect
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.session import import_session
from headrace_engines.importers.sklearn import open_source

_TRUSTED = ImportOptions(is_trusted=True)
_HERE = sklearn.__version__.encode()
_OTHER = b"0" + _HERE[1:]


def _fitted() -> LinearRegression:
    return LinearRegression().fit(ROWS, VALUES)


def _store(path: Path, content: Any, how: str) -> Path:
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    elif how == "gzip":
        with gzip.open(path, "wb") as file:
            joblib.dump(content, file)
    else:
        joblib.dump(content, path, compress=3 if how == "zlib" else 0)
    return path


@pytest.mark.parametrize("how", ["pickle 2", "pickle 5", "joblib", "zlib", "gzip"])
def test_a_linear_regression_is_read_however_it_was_stored(how: str, tmp_path: Path) -> None:
    path = _store(tmp_path / "stored", _fitted(), how)
    importer = open_source(path, _TRUSTED)
    assert_faithful(importer, tmp_path, {"input": ROWS})
    assert dict(importer.facts) == {
        "class": "LinearRegression",
        "framework": f"scikit-learn {sklearn.__version__}",
        "inputs": "one matrix",
        "features": 5,
        "task": "regression",
    }


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = _store(tmp_path / "stored", make_pipeline(StandardScaler(), Ridge()).fit(ROWS, VALUES), "joblib")
    for name in ("one.onnx", "other.onnx"):
        open_source(path, _TRUSTED).convert(tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_a_session_imports_it_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = _store(tmp_path / "model.joblib", _fitted(), "joblib")
    found = detect(path)
    assert found.kind is Kind.SCIKIT_LEARN
    with import_session(path, found, ImportOptions(), is_trusted=True) as session:
        session.convert(tmp_path / "model.onnx")
        (answer,) = session.answers({"input": ROWS})
    np.testing.assert_allclose(answer[:, 0], _fitted().predict(ROWS), rtol=1e-5, atol=1e-5)
    with pytest.raises(UntrustedSource), import_session(path, found, ImportOptions(), is_trusted=False):
        pass


def test_another_version_that_can_be_restored_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(_fitted()).replace(_HERE, _OTHER))
    assert open_source(path, _TRUSTED).facts["written_by"] == f"scikit-learn {_OTHER.decode()}"


def test_another_version_that_cannot_be_restored_is_named_beside_this_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    content = pickle.dumps(_fitted()).replace(_HERE, _OTHER)
    path.write_bytes(content.replace(b"LinearRegression", b"LinearRegressiom"))
    versions = f"{re.escape(_OTHER.decode())}.*{re.escape(sklearn.__version__)} cannot restore"
    with pytest.raises(ModelFileError, match=f"model.pkl: written by scikit-learn {versions}"):
        open_source(path, _TRUSTED)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": 1, "scaler": 2}, "a dict of model, scaler, and no fitted estimator"),
        ([1, 2], "holds list"),
        (LinearRegression(), "this LinearRegression was not fitted"),
        (make_pipeline(StandardScaler(), Ridge()), "this Pipeline was not fitted"),
    ],
    ids=["dict", "list", "unfitted", "unfitted pipeline"],
)
def test_what_is_no_fitted_estimator_is_told(content: Any, complaint: str, tmp_path: Path) -> None:
    path = _store(tmp_path / "model.joblib", content, "joblib")
    with pytest.raises(UnsupportedModelError, match=complaint):
        open_source(path, _TRUSTED)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = _store(tmp_path / "model.joblib", _fitted(), "joblib")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelFileError, match=r"model\.joblib: "):
        open_source(path, _TRUSTED)


def test_what_a_script_defined_is_to_be_moved(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"c__main__\nOwnTransformer\n.")
    with pytest.raises(ModelFileError, match=r"OwnTransformer.*move it to a module"):
        open_source(path, _TRUSTED)


def test_inputs_that_it_does_not_have_are_named(tmp_path: Path) -> None:
    path = _store(tmp_path / "model.joblib", _fitted(), "joblib")
    with pytest.raises(UnsupportedModelError, match="no input 'x'; the inputs are input"):
        open_source(path, ImportOptions(is_trusted=True, input_dtypes={"x": "float32"}))


def _own(rows: Any) -> Any:
    return rows


@pytest.mark.frameworks
def test_skops_is_opened_without_trust(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="needs skops")
    skops.dump(_fitted(), tmp_path / "model.skops")
    assert_faithful(open_source(tmp_path / "model.skops", ImportOptions()), tmp_path, {"input": ROWS})
    strange = make_pipeline(FunctionTransformer(_own), Ridge()).fit(ROWS, THREE)
    skops.dump(strange, tmp_path / "strange.skops")
    with pytest.raises(UntrustedSource, match=r"does not vouch for.*--trust"):
        open_source(tmp_path / "strange.skops", ImportOptions())
