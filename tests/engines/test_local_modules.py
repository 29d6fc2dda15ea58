from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from headrace_engines import imported, local_modules
from headrace_engines.imported import FileOptions
from headrace_engines.importers.formats import Format, Kind
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.progress import Stages

_LONG_AGO_NS = 10**18


def _write(file: Path, text: str, changed_ns: int = _LONG_AGO_NS) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, ns=(changed_ns, changed_ns))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module and a package of modules in it."""
    here = tmp_path / "here"
    _write(here / "own_net.py", "from own_parts import layers\n")
    _write(here / "own_parts" / "__init__.py", "")
    _write(here / "own_parts" / "layers.py", "WIDTH = 8\n")
    monkeypatch.chdir(here)
    return here


def _files(folder: Path) -> dict[str, str]:
    return {
        "own_net": str(folder / "own_net.py"),
        "own_parts": str(folder / "own_parts" / "__init__.py"),
        "own_parts.layers": str(folder / "own_parts" / "layers.py"),
    }


def test_modules_that_no_library_brought_are_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent / "temporary"))
    names = _files(folder)
    try:
        importlib.import_module("own_net")
        found = local_modules.imported()
    finally:
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
    assert names.items() <= found.items()
    for shared in (np, json, local_modules, pytest):
        assert shared.__name__ not in found
    assert not any(name.startswith("numpy.") for name in found)


def test_modules_beside_pip_s_notes_are_a_library_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own_net-1.dist-info").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent / "temporary"))
    for name, file in _files(folder).items():
        module = ModuleType(name)
        module.__file__ = file
        monkeypatch.setitem(sys.modules, name, module)
    assert not _files(folder).keys() & local_modules.imported().keys()


def test_a_manifest_tells_of_them_by_name_and_hash(folder: Path) -> None:
    told = local_modules.described(_files(folder), time.time_ns())
    assert list(told) == ["module.own_net", "module.own_parts", "module.own_parts.layers"]
    assert told["module.own_parts.layers"] == hashlib.sha256(b"WIDTH = 8\n").hexdigest()
    assert local_modules.are_same(told, "")
    assert local_modules.are_same({"kind": "torch", "sha256": "0"}, "")


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (lambda here: _write(here / "own_parts" / "layers.py", "WIDTH = 9\n"), False),
        (lambda here: _write(here / "own_parts" / "__init__.py", "import os\n"), False),
        (lambda here: _write(here / "own_net.py", "from own_parts import layers\n"), True),
        (lambda here: _write(here / "unused.py", "WIDTH = 9\n"), True),
        (lambda here: (here / "own_parts" / "layers.py").unlink(), False),
        (lambda here: (here / "own_net.py").rename(here / "other.py"), False),
        (lambda here: _write(here / "own_net" / "__init__.py", "a package comes before a module"), False),
        (lambda here: os.chdir(here.parent), False),
    ],
    ids=["changed", "package", "rewritten", "unused", "gone", "renamed", "shadowed", "elsewhere"],
)
def test_what_a_name_leads_to_is_looked_up_again(
    folder: Path, change: Callable[[Path], object], is_same: bool
) -> None:
    told = local_modules.described(_files(folder), time.time_ns())
    change(folder)
    assert local_modules.are_same(told, "") == is_same


@pytest.mark.parametrize(("content", "is_same"), [("WIDTH = 8\n", True), ("WIDTH = 9\n", False)])
def test_the_neighbours_of_a_factory_s_file_come_first(
    folder: Path, tmp_path: Path, content: str, is_same: bool
) -> None:
    told = local_modules.described(_files(folder), time.time_ns())
    beside = tmp_path / "beside"
    for name in ("own_net.py", "own_parts/__init__.py"):
        _write(beside / name, (folder / name).read_text())
    _write(beside / "own_parts" / "layers.py", content)
    assert local_modules.are_same(told, f"{beside / 'factory.py'}:make") == is_same
    assert local_modules.are_same(told, "factory:make")


def test_what_was_changed_while_it_was_used_is_never_the_same(folder: Path) -> None:
    told = local_modules.described(_files(folder), _LONG_AGO_NS)
    assert set(told.values()) == {"changed while it was built"}
    assert not local_modules.are_same(told, "")


_IMPORTER = """
import pickle

class Opened:
    def __init__(self, path):
        self.facts = {"found": pickle.loads(path.read_bytes())}
    def convert(self, path):
        from onnx import TensorProto, helper
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
        path.write_bytes(helper.make_model(graph).SerializeToString())
    def answers(self, rows):
        return tuple(rows.values())

def open_source(path, options):
    return Opened(path)
"""


class _Pickled:
    """Pickles to what a module of a person's own has."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, ("__import__('own_parts.layers').layers.WIDTH",)


def test_modules_that_a_source_imports_decide_whether_its_build_is_used_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(folder / "own_importer.py", _IMPORTER)
    (folder / "model.pkl").write_bytes(pickle.dumps(_Pickled()))
    of_pickles = Format(Kind.SCIKIT_LEARN, "pickle", "own_importer", True, "build", ())
    monkeypatch.setattr(imported, "detect", lambda path: of_pickles)
    source = imported.source(
        folder / "model.pkl", FileOptions(ImportOptions(is_trusted=True), is_trusted=True)
    )
    unfinished: list[str] = []

    def look(step: str, fraction: float) -> None:
        unfinished.extend(file.name for file in (folder / "store").glob(".headrace-*"))

    (folder / "store" / "staging").mkdir(parents=True)
    prepared = source.prepare(folder / "store" / "staging", Stages(look))
    assert unfinished, "it is opened where the store is swept"
    assert [file.name for file in (folder / "store").iterdir()] == ["staging"]
    assert (prepared.facts["found"], prepared.facts["module.own_parts.layers"]) == (
        8,
        hashlib.sha256(b"WIDTH = 8\n").hexdigest(),
    )
    assert source.is_same(prepared.facts)
    assert not list(folder.rglob("__pycache__"))
    (rows,) = source.held_out(prepared.model, prepared.facts).values()
    np.testing.assert_array_equal(rows, prepared.held_out["x"])
    _write(folder / "own_parts" / "layers.py", "WIDTH = 9\n")
    assert not source.is_same(prepared.facts)
