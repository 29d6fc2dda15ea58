"""Files as the frameworks themselves write them are told for what they are."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.formats import Kind, detect

pytestmark = pytest.mark.frameworks

_ROWS = np.random.default_rng(0).normal(size=(40, 4))
_LABELS = (_ROWS[:, 0] > 0).astype(int)


def _told(path: Path) -> tuple[Kind, str, bool]:
    found = detect(path)
    return found.kind, found.label, found.runs_code


_TORCH: dict[str, tuple[Callable[[Any, Any, Path], Any], str, bool]] = {
    "weights": (
        lambda torch, net, path: torch.save(net.state_dict(), path),
        "PyTorch file of weights",
        False,
    ),
    "weights of before 1.6": (
        lambda torch, net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
        "PyTorch file of weights",
        False,
    ),
    "a checkpoint": (
        lambda torch, net, path: torch.save(
            {"net": net.state_dict(), "adam": torch.optim.Adam(net.parameters()).state_dict(), "epoch": 3},
            path,
        ),
        "PyTorch file of weights",
        False,
    ),
    "a module": (lambda torch, net, path: torch.save(net, path), "PyTorch file", True),
    "a module of before 1.6": (
        lambda torch, net, path: torch.save(net, path, _use_new_zipfile_serialization=False),
        "PyTorch file",
        True,
    ),
    "a pickled module": (lambda _, net, path: path.write_bytes(pickle.dumps(net)), "PyTorch pickle", True),
    "a script": (
        lambda torch, net, path: torch.jit.trace(net, torch.zeros(1, 4)).save(path),
        "TorchScript program",
        True,
    ),
    "a program": (
        lambda torch, net, path: torch.export.save(torch.export.export(net, (torch.zeros(2, 4),)), path),
        "torch.export program",
        True,
    ),
}


@pytest.mark.parametrize(("write", "label", "runs_code"), _TORCH.values(), ids=_TORCH)
@pytest.mark.filterwarnings("ignore")
def test_pytorch(tmp_path: Path, write: Callable[[Any, Any, Path], Any], label: str, runs_code: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    path = tmp_path / "model.pt2"
    write(torch, torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), path)
    assert _told(path) == (Kind.TORCH, label, runs_code)


def test_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra torch")
    numpy = pytest.importorskip("safetensors.numpy", reason="needs the extra torch")
    path = tmp_path / "model"
    numpy.save_file({"w": np.ones((2, 3), np.float32)}, path)
    assert _told(path) == (Kind.TORCH, "safetensors file of weights", False)


@pytest.fixture(scope="module")
def keras() -> Any:
    return pytest.importorskip("keras", reason="needs the extra keras")


def _network(keras: Any, *layers: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])


def test_keras(tmp_path: Path, keras: Any) -> None:
    network = _network(keras)
    network.save(tmp_path / "model.keras")
    network.save(tmp_path / "model.h5")
    network.export(tmp_path / "saved", verbose=False)
    assert _told(tmp_path / "model.keras") == (Kind.KERAS, "Keras model", False)
    assert _told(tmp_path / "model.h5") == (Kind.KERAS, "Keras HDF5 model", False)
    assert _told(tmp_path / "saved") == (Kind.SAVED_MODEL, "TensorFlow SavedModel", True)
    _network(keras, keras.layers.Lambda(lambda x: x * 2)).save(tmp_path / "lambda.keras")
    assert _told(tmp_path / "lambda.keras") == (Kind.KERAS, "Keras model", True)


def test_keras_without_a_part_of_the_model(tmp_path: Path, keras: Any) -> None:
    network = _network(keras)
    network.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "model.json").write_text(network.to_json())
    with pytest.raises(UnsupportedModelError, match="perhaps weights alone"):
        detect(tmp_path / "model.weights.h5")
    with pytest.raises(UnsupportedModelError, match="a Keras model's architecture without its weights"):
        detect(tmp_path / "model.json")


def test_xgboost(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="needs the extra boost")
    model = xgboost.XGBClassifier(n_estimators=2).fit(_ROWS, _LABELS)
    for name, label in {"model.json": "XGBoost JSON model", "model.ubj": "XGBoost UBJ model"}.items():
        model.save_model(tmp_path / name)
        assert _told(tmp_path / name) == (Kind.XGBOOST, label, False)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    assert _told(tmp_path / "model.pkl") == (Kind.XGBOOST, "XGBoost pickle", True)
    for kind in ("text", "json"):
        model.get_booster().dump_model(tmp_path / "dump", dump_format=kind)
        with pytest.raises(UnsupportedModelError, match="a dump of XGBoost's trees"):
            detect(tmp_path / "dump")


def test_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="needs the extra boost")
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(_ROWS, _LABELS)
    model.booster_.save_model(tmp_path / "model.txt")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    assert _told(tmp_path / "model.txt") == (Kind.LIGHTGBM, "LightGBM text model", False)
    assert _told(tmp_path / "model.pkl") == (Kind.LIGHTGBM, "LightGBM pickle", True)


def test_skops(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="needs skops")
    skops.dump(LogisticRegression().fit(_ROWS, _LABELS), tmp_path / "model.skops")
    assert _told(tmp_path / "model.skops") == (Kind.SCIKIT_LEARN, "skops file", False)
