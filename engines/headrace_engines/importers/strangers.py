"""Files that people take for models and that are something else: told by how they begin, with what helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from headrace_engines import files
from headrace_engines.errors import ModelFileError, UnsupportedModelError

_DATA: Final = "and no model: data are given by --data"
_MAGICS: Final = (
    (0, b"\x93NUMPY", f"an array of NumPy, {_DATA}"),
    (0, b"PAR1", f"a Parquet table, {_DATA}"),
    (0, b"\x89PNG", f"a PNG image, {_DATA}"),
    (0, b"\xff\xd8\xff", f"a JPEG image, {_DATA}"),
    (0, b"ftrt", "a TensorRT plan, which is built already: give the ONNX model that it was built from"),
    (0, b"ptrt", "a TensorRT plan, which is built already: give the ONNX model that it was built from"),
    (4, b"ORTM", "ONNX Runtime's own format: give the ONNX model that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model: give the SavedModel or Keras model that it was made from"),
    (0, b"GGUF", "a GGUF language model, which is not served here"),
    (0, b"CBM1", "a CatBoost model: save it with save_model('model.onnx', format='onnx')"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4: dump it with joblib.dump(model, path, compress=3)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"PK\x05\x06", "an empty archive"),
    (0, b"\x7fELF", "a program or library of this system"),
    (0, b"%PDF", "a PDF document"),
)
_PAGES: Final = (b"<!doctype html", b"<html")
_LFS_POINTER: Final = b"version https://git-lfs"
_OLD_XGBOOST: Final = re.compile(
    rb"(?:binary|reg|multi|rank|count|survival):[a-z:_]+.{8}(?:gbtree|gblinear|dart)", re.DOTALL
)
_OLD_XGBOOST_BYTES: Final = 1 << 10


def refuse(path: Path, start: bytes) -> None:
    """Raise for a file that is known to be something else; `start` is how it begins.

    ModelFileError if it should have been a model, UnsupportedModelError if it is whole.
    """
    if not start or start.startswith(_LFS_POINTER) or start.lstrip().lower().startswith(_PAGES):
        raise ModelFileError(f"{path.name}: {files.nature(path)}")
    if path.name == "saved_model.pb":
        raise UnsupportedModelError(
            f"{path.name}: a part of a TensorFlow SavedModel: give the folder that it lies in"
        )
    if _OLD_XGBOOST.search(start[:_OLD_XGBOOST_BYTES]):
        raise UnsupportedModelError(
            f"{path.name}: XGBoost's old binary format, which XGBoost itself reads no more: load it with "
            "XGBoost 3.0 or older and save it with save_model('model.json')"
        )
    for offset, magic, what in _MAGICS:
        if start[offset:].startswith(magic):
            raise UnsupportedModelError(f"{path.name}: {what}")
