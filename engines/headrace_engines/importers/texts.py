"""Models that are text: PMML, XGBoost's JSON and its binary twin, LightGBM's lines."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Final
from xml.parsers import expat

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.kinds import Finding, Kind
from headrace_engines.printable import printable

_XML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<|\xff\xfe|\xfe\xff")
_JSON: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*[\[{]")
_XGBOOST_JSON: Final = re.compile(rb'\s*\{\s*"(?:learner|version|Config|Model)"\s*:')
_XGBOOST_UBJ: Final = re.compile(rb"\{(?:[iU].|I..|l.{4}|L.{8})(?:learner|version|Config|Model)", re.DOTALL)
_NO_TEXT: Final = re.compile("[\x00-\x08\x0e-\x1f]")
_LIGHTGBM: Final = re.compile(rb"tree\r?\nversion=")
_LIGHTGBM_END: Final = b"end of trees"
_TAIL_BYTES: Final = 256

_DOCUMENTS: Final = (
    (
        b'"nodeid"',
        "a dump of XGBoost's trees, which nothing reads back: save the model with save_model('model.json')",
    ),
    (
        b'"tree_info"',
        "a dump of LightGBM's trees, which nothing reads back: save it with booster_.save_model('model.txt')",
    ),
    (b'"oblivious_trees"', "a CatBoost model: save it with save_model('model.onnx', format='onnx')"),
    (b'"keras', "a Keras model's architecture without its weights: save it with model.save('model.keras')"),
)
_MOST_TABLE: Final = 4096


def finding(path: Path, start: bytes) -> Finding | None:
    """Return what kind of model a text file holds; None if it is no text. `start` is how it begins.

    Raises ModelFileError if it was cut short, UnsupportedModelError for other documents.
    """
    if _LIGHTGBM.match(start):
        return _lightgbm(path)
    if _XGBOOST_JSON.match(start):
        _check_end(path, b"}", "XGBoost's JSON")
        return Finding(Kind.XGBOOST, "XGBoost JSON model", runs_code=False)
    if _XGBOOST_UBJ.match(start):
        _check_end(path, b"}", "XGBoost's UBJ")
        return Finding(Kind.XGBOOST, "XGBoost UBJ model", runs_code=False)
    if _XML.match(start):
        return _xml(path, start)
    _refuse(path, start)
    return None


def _lightgbm(path: Path) -> Finding:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.rfind(_LIGHTGBM_END) < 0:
            raise ModelFileError(
                f"{path.name}: LightGBM's text without 'end of trees': the file was cut short"
            )
    return Finding(Kind.LIGHTGBM, "LightGBM text model", runs_code=False)


def _xml(path: Path, start: bytes) -> Finding:
    """Tell a document by its outermost element, before anything in it is read."""
    names: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda name, _: names.append(name)
    try:
        parser.Parse(start)
    except expat.ExpatError as error:
        if not names:
            raise ModelFileError(f"{path.name}: no well-formed XML: {error}") from error
    if not names:
        raise ModelFileError(f"{path.name}: an XML document without an element: the file was cut short")
    name = names[0].rpartition(" ")[2]
    if name != "PMML":
        raise UnsupportedModelError(f"{path.name}: an XML document of <{printable(name)}>, and no PMML")
    if not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        _check_end(path, b"PMML>", "PMML", "</PMML>")
    return Finding(Kind.PMML, "PMML document", runs_code=False)


def _check_end(path: Path, end: bytes, what: str, told: str = "}") -> None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        if not file.read().rstrip(b"\0\r\n\t ").endswith(end):
            raise ModelFileError(f"{path.name}: {what} that does not end with {told}: the file was cut short")


def _refuse(path: Path, start: bytes) -> None:
    """Raise for a text that is no model."""
    try:
        text = start[:_MOST_TABLE].decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return
        text = start[: error.start].decode()
    if _NO_TEXT.search(text):
        return
    what = "a JSON document, and no model" if _JSON.match(start) else "a text, and no model"
    if text.startswith("booster["):
        what = _DOCUMENTS[0][1]
    elif _JSON.match(start):
        what = next((told for mark, told in _DOCUMENTS if mark in start), what)
    elif "," in text.partition("\n")[0] or "\t" in text.partition("\n")[0]:
        what = "a table, and no model: data are given by --data"
    raise UnsupportedModelError(f"{path.name}: {what}")
