from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headrace_engines.errors import EngineError, ModelFileError, UnsupportedModelError
from headrace_engines.importers.formats import Kind, detect

_ROWS = np.arange(12, dtype=np.float64).reshape(4, 3)
_ESTIMATOR = make_pipeline(StandardScaler(), LinearRegression()).fit(_ROWS, _ROWS.sum(axis=1))
_PMML = b'<?xml version="1.0"?>\n<!-- by hand -->\n<PMML xmlns="http://www.dmg.org/PMML-4_4"></PMML>\n'
_UTF_16 = _PMML.decode().replace("?>", ' encoding="UTF-16"?>', 1).encode("utf-16")
_PREFIXED = b"<p:PMML xmlns:p='http://www.dmg.org/PMML-4_2'>" + b" " * 99999 + b"</p:PMML>"
_TENSORS = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
_OLD_XGBOOST = b"\0" * 136 + b"\x0f" + b"\0" * 7 + b"binary:logistic\x06" + b"\0" * 7 + b"gbtree"
_HDF5 = b"\x89HDF\r\n\x1a\n" + b"\0" * 99
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
_AOT = {"m/archive_format": "pt2", "m/data/aotinductor/m.so": ""}
_LIGHTGBM = (
    b"tree\nversion=v4\nnum_class=1\n\nTree=0\nnum_leaves=1\n\nend of trees\n\npandas_categorical:null\n"
)
_XGBOOST = b'{"learner":{"attributes":{}},"version":[3,2,0]}'
_UBJ = b"{L\0\0\0\0\0\0\0\x07learner{}L\0\0\0\0\0\0\0\x07version[]}"


def _onnx_model() -> bytes:
    tensor = oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = oh.make_graph([oh.make_node("Relu", ["x"], ["y"])], "g", [tensor], [
        oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    ])  # fmt: skip
    content: bytes = oh.make_model(graph).SerializeToString()
    return content


def _joblib(compress: Any) -> bytes:
    stream = io.BytesIO()
    joblib.dump(_ESTIMATOR, stream, compress=compress)
    return stream.getvalue()


def _zip(**members: bytes | str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=_ROWS)
    return stream.getvalue()


def _tar_gz() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return stream.getvalue()


def _named(*names: str) -> bytes:
    """Return a pickle that looks up these names, in the second protocol."""
    looked_up = b"".join(b"c" + name.replace(" ", "\n").encode() + b"\n0" for name in names)
    return b"\x80\x02" + looked_up + b"N."


def _skops(*modules: str) -> bytes:
    content = [{"__class__": "C", "__module__": module, "content": {}} for module in modules]
    return _zip(
        **{"schema.json": json.dumps({"__class__": "list", "__module__": "builtins", "content": content})}
    )


def _keras(*layers: dict[str, Any]) -> bytes:
    config = {"class_name": "Sequential", "module": "keras", "config": {"layers": list(layers)}}
    return _zip(**{"metadata.json": "{}", "config.json": json.dumps(config), "model.weights.h5": b""})


_DENSE = {"class_name": "Dense", "module": "keras.layers", "config": {}}
_LAMBDA = {"class_name": "Lambda", "module": "keras.layers", "config": {}}
_OTHERS = {"class_name": "function", "module": "os", "config": "system"}


@pytest.mark.parametrize(
    ("content", "kind", "label", "runs_code"),
    [
        *(
            (pickle.dumps(_ESTIMATOR, protocol), Kind.SCIKIT_LEARN, "scikit-learn pickle", True)
            for protocol in range(6)
        ),
        (_joblib(0), Kind.SCIKIT_LEARN, "scikit-learn pickle", True),
        *(
            (_joblib((method, 3)), Kind.SCIKIT_LEARN, "scikit-learn joblib file", True)
            for method in ("zlib", "gzip", "bz2", "xz", "lzma")
        ),
        (_joblib(("zlib", 1)), Kind.SCIKIT_LEARN, "scikit-learn joblib file", True),
        (_joblib(("zlib", 9)), Kind.SCIKIT_LEARN, "scikit-learn joblib file", True),
        (_named("builtins dict", "their_own Model"), Kind.SCIKIT_LEARN, "pickle", True),
        (_named("__main__ Model"), Kind.SCIKIT_LEARN, "pickle", True),
        (_named("posix system"), Kind.SCIKIT_LEARN, "pickle", True),
        (_named("numpy ndarray", "xgboost.sklearn XGBClassifier"), Kind.XGBOOST, "XGBoost pickle", True),
        (_named("lightgbm.basic Booster"), Kind.LIGHTGBM, "LightGBM pickle", True),
        (_named("__main__ Net", "torch.nn.modules.linear Linear"), Kind.TORCH, "PyTorch pickle", True),
        (_skops("sklearn.pipeline", "numpy"), Kind.SCIKIT_LEARN, "skops file", False),
        (_skops("sklearn.pipeline", "posix"), Kind.SCIKIT_LEARN, "skops file", True),
        (
            _zip(m__data__pkl=b"", **{"m/data.pkl": _named("collections OrderedDict", "torch FloatStorage")}),
            Kind.TORCH,
            "PyTorch file of weights",
            False,
        ),
        (_zip(**{"m/data.pkl": _named("torch.nn.modules.linear Linear")}), Kind.TORCH, "PyTorch file", True),
        (
            _zip(**{"m/data.pkl": _named(), "m/constants.pkl": b"", "m/code/a.py": b""}),
            Kind.TORCH,
            "TorchScript program",
            True,
        ),
        (_zip(**{"m/archive_format": "pt2"}), Kind.TORCH, "torch.export program", True),
        (_zip(**{"serialized_exported_program.json": "{}"}), Kind.TORCH, "torch.export program", True),
        (_keras(_DENSE), Kind.KERAS, "Keras model", False),
        (_keras(_DENSE, _LAMBDA), Kind.KERAS, "Keras model", True),
        (_keras(_OTHERS), Kind.KERAS, "Keras model", True),
        (_HDF5 + b"model_config\0", Kind.KERAS, "Keras HDF5 model", False),
        (_HDF5 + b'model_config {"class_name": "Lambda"}', Kind.KERAS, "Keras HDF5 model", True),
        (b"\x14" + b"\0" * 7 + b'{"__metadata__": {}}', Kind.TORCH, "safetensors file of weights", False),
        (_onnx_model(), Kind.ONNX, "ONNX model", False),
        (_PMML, Kind.PMML, "PMML document", False),
        (b"\xef\xbb\xbf" + _PMML, Kind.PMML, "PMML document", False),
        (_UTF_16, Kind.PMML, "PMML document", False),
        (_PREFIXED, Kind.PMML, "PMML document", False),
        (_XGBOOST, Kind.XGBOOST, "XGBoost JSON model", False),
        (_UBJ, Kind.XGBOOST, "XGBoost UBJ model", False),
        (_LIGHTGBM, Kind.LIGHTGBM, "LightGBM text model", False),
        (_LIGHTGBM.replace(b"\n", b"\r\n"), Kind.LIGHTGBM, "LightGBM text model", False),
    ],
)  # fmt: skip
def test_a_model_is_told_by_its_content(
    tmp_path: Path, content: bytes, kind: Kind, label: str, runs_code: bool
) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    found = detect(path)
    assert (found.kind, found.label, found.runs_code) == (kind, label, runs_code)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (_LFS, "the file has 55 bytes and is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page: its download went wrong"),
        (pickle.dumps(_ESTIMATOR)[:-9], "a pickle without an end: the file was cut short"),
        (_joblib(("gzip", 3))[:90], "compressed with gzip, and damaged or cut short"),
        (_joblib(("xz", 3))[:90], "compressed with xz, and damaged or cut short"),
        (_joblib(("bz2", 3))[:90], "compressed with bz2, and damaged or cut short"),
        (b"\x78\x9c" + b"\xff" * 20, "compressed with zlib, and damaged or cut short"),
        (_skops("sklearn")[:60], "a damaged archive, perhaps cut short"),
        (_zip(**{"schema.json": "{"}), "a damaged archive"),
        (b"\x16" + b"\0" * 7 + b'{"w":', "safetensors whose header was cut short"),
        (bytes([len(_TENSORS)]) + b"\0" * 7 + _TENSORS + b"123", "safetensors whose weights were cut short"),
        (_onnx_model()[:-12], "an ONNX model that was cut short"),
        (_PMML[:-5], "PMML that does not end with </PMML>: the file was cut short"),
        (b"<PMML", "an XML document without an element"),
        (b"< PMML>", "no well-formed XML"),
        (_XGBOOST[:-9], "XGBoost's JSON that does not end with }: the file was cut short"),
        (_UBJ[:-3], "XGBoost's UBJ that does not end with }: the file was cut short"),
        (_LIGHTGBM[:60], "LightGBM's text without 'end of trees': the file was cut short"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)  # fmt: skip
def test_what_is_damaged_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as refused:
        detect(path)
    assert str(refused.value).startswith("model.onnx: ")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n", "a table, and no model: data are given by --data"),
        (b"c,d\n1,2\n.", "a table, and no model: data are given by --data"),
        (b"Hello.\n", "a text, and no model"),
        (("é" * 4096).encode(), "a text, and no model"),
        (_npz(), "arrays of NumPy, and no model: data are given by --data"),
        (b"\x93NUMPY\x01\0", "an array of NumPy, and no model: data are given by --data"),
        (pickle.dumps({"a": [1]}), "a pickle of plain values, and no model"),
        (pickle.dumps(OrderedDict(a=1)), "a pickle of plain values, and no model"),
        (pickle.dumps(_ROWS), "a pickle of arrays or tables, and no model"),
        (_named("keras.src.models Sequential"), "save it with model.save('model.keras')"),
        (_named("catboost.core CatBoostClassifier"), "save it with save_model('model.onnx', format='onnx')"),
        (gzip.compress(b"text"), "compressed with gzip, and no joblib file: unpack it first"),
        (_tar_gz(), "a compressed tar archive: unpack it first"),
        (_zip(**{"a.txt": "a"}), "an archive of a.txt, and no model that is read: unpack it"),
        (_zip(), "an empty archive"),
        (_zip(**_AOT), "a program that AOTInductor compiled"),
        (_HDF5, "an HDF5 file without a Keras model's architecture"),
        (b"<net name='x'></net>", "an XML document of <net>, and no PMML"),
        (b'[\n {"nodeid": 0}]', "a dump of XGBoost's trees"),
        (b"booster[0]:\n0:leaf=1\n", "a dump of XGBoost's trees"),
        (b'{"name": "tree", "tree_info": []}', "a dump of LightGBM's trees"),
        (b'{"module": "keras", "class_name": "Sequential"}', "a Keras model's architecture"),
        (b'{"any": 1}', "a JSON document, and no model"),
        (_OLD_XGBOOST, "XGBoost's old binary format"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (bytes(range(1, 60)), "its 59 bytes are no kind of model that is known here; what is read: pickle,"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)  # fmt: skip
def test_what_is_something_else_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError) as refused:
        detect(path)
    assert str(refused.value).startswith("model: ")
    assert told in str(refused.value)


def test_what_was_named_onnx_and_is_not_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(range(1, 60)))
    with pytest.raises(ModelFileError, match=r"^model\.onnx: no ONNX model: the file has 59 bytes"):
        detect(tmp_path / "model.onnx")


def _saved_model(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")


def _one_onnx(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(_onnx_model())
    (folder / "weights.bin").touch()


@pytest.mark.parametrize(
    ("fill", "kind"), [(_saved_model, Kind.SAVED_MODEL), (_one_onnx, Kind.ONNX)], ids=["saved model", "onnx"]
)
def test_a_folder_is_told_by_its_files(tmp_path: Path, fill: Callable[[Path], None], kind: Kind) -> None:
    fill(tmp_path)
    found = detect(tmp_path)
    assert (found.kind, found.runs_code) == (kind, kind is Kind.SAVED_MODEL)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((), "models: an empty folder: give the model's file"),
        (
            ("a", "b", "c", "d"),
            "models: a folder with a, b, c, and no model that is read: give the model's file",
        ),
        (("a.onnx", "b.onnx"), "models: a folder with several models: name one of a.onnx, b.onnx"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, files: tuple[str, ...], told: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    with pytest.raises(UnsupportedModelError) as refused:
        detect(folder)
    assert str(refused.value).startswith(told)


def test_a_part_of_a_folder_asks_for_the_folder(tmp_path: Path) -> None:
    _saved_model(tmp_path)
    with pytest.raises(UnsupportedModelError, match="give the folder that it lies in"):
        detect(tmp_path / "saved_model.pb")


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^absent: no such file$"):
        detect(tmp_path / "absent")


_STARTS = st.sampled_from(
    [
        b"",
        b"\x80\x04",
        b"PK\x03\x04",
        b"\x08\x0a",
        b"<",
        b"{",
        b"tree\nversion=",
        b"\x1f\x8b",
        b"\x78\x9c",
        b"cos\n",
    ]
)


@given(start=_STARTS, rest=st.binary(max_size=200))
def test_any_bytes_are_told_or_refused(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "detected"
    path.write_bytes(start + rest)
    with suppress(EngineError):
        assert detect(path).label
