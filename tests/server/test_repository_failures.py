"""Invariant 7: what cannot be loaded or warmed up leaves the old serving, and the index says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hosted_server import eventually
from model_folders import put
from onnx import TensorProto, helper
from onnx_models import Models
from repositories import answer
from scripted_engines import PATIENCE_SECONDS

from headrace_server.core.catalogue import ModelState
from headrace_server.errors import InvalidInput
from headrace_server.models.layout import scan
from headrace_server.models.polling import Watch
from headrace_server.models.repository import Mode, Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions

READY = ModelState.READY

_PROGRAM = """
from headrace_engines.python_model import Tensor

class Model:
    inputs = [Tensor("x", "FP32", [3])]
    outputs = [Tensor("y", "FP32", [3])]

    def load(self, context):
        {load}

    def execute(self, batch):
        {execute}
"""
_NO_MODEL = "model.onnx: ONNX Runtime"
_SAMPLE = """
model_warmup {{
  name: "w" batch_size: 1
  inputs {{ key: "{}" value {{ data_type: TYPE_FP32 dims: 3 zero_data: true }} }}
}}
"""


class Acting:
    """Has a repository take note of what its folder holds now, until it stands; returns why that failed."""

    def __init__(self, repository: Repository, folder: Path, mode: Mode) -> None:
        self._repository = repository
        self._watch = Watch(scan([folder]))
        self._mode = mode

    def __call__(self) -> str:
        if self._mode is Mode.POLL:
            for _ in range(2):
                self._repository.poll(self._watch)
            return ""
        try:
            self._repository.load_model("m")
        except InvalidInput as error:
            return str(error).removeprefix("model 'm' cannot be loaded: ")
        return ""


@contextmanager
def acting(folder: Path, mode: Mode) -> Iterator[tuple[Repository, Acting]]:
    load_at_start = ("m",) if mode is Mode.EXPLICIT else ()
    repository = Repository(
        RepositoryOptions((folder,), mode, load_at_start, load=LoadOptions(allow_python=True))
    )
    repository.open()
    repository.load_all()
    yield repository, Acting(repository, folder, mode)
    assert repository.close(PATIENCE_SECONDS)


def configured(text: str) -> Callable[[Path, Models], object]:
    return lambda root, _: (root / "m" / "config.pbtxt").write_text(text)


def programmed(
    load: str = "pass", execute: str = "pass", config: str = ""
) -> Callable[[Path, Models], object]:
    def write(root: Path, _: Models) -> None:
        folder = root / "m" / "2"
        folder.mkdir()
        (folder / "model.py").write_text(_PROGRAM.format(load=load, execute=execute))
        (root / "m" / "config.pbtxt").write_text(config)

    return write


def devouring(models: Models) -> Path:
    """A model that asks for 16 TiB whenever it is executed, and not earlier: it looks at its rows first."""
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], end=1),
        helper.make_node("Sub", ["rows", "rows"], ["zero"]),
        helper.make_node("Add", ["zero", "elements"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["many"], value=one),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return models.save(nodes, weights={"elements": np.array([1 << 42])})


BROKEN: dict[str, tuple[Callable[[Path, Models], object], str, str]] = {
    # what is written, the version that it concerns, and what is told of it
    "a new version is no model": (lambda root, _: put(root, "m", b"no model", 2), "2", _NO_MODEL),
    "a new version is cut off": (
        lambda root, models: put(root, "m", models.mlp().read_bytes()[:-9], 2), "2", _NO_MODEL
    ),
    "a new version is empty": (lambda root, _: (root / "m" / "2").mkdir(), "2", "expected model.onnx"),
    "the file that serves is spoilt": (lambda root, _: put(root, "m", b"no model"), "1", _NO_MODEL),
    "a field that nobody knows": (configured("nonsense: 1"), "1", "nonsense"),
    "a text that is no configuration": (configured("{{"), "1", "config.pbtxt"),
    "a policy that chooses nothing": (
        configured("version_policy { specific { versions: 9 } }"), "1", "there is no version 9; there are: 1"
    ),
    "an output that the model has not": (
        configured('output { name: "z" data_type: TYPE_FP32 dims: 3 }'), "1", "'z'"
    ),
    "a sample for another model": (configured(_SAMPLE.format("other")), "1", "'other'"),
    "a sample that the model fails on": (
        programmed(execute="raise ValueError('too cold')", config=_SAMPLE.format("x")),
        "2", "warm-up sample 'w' failed: ValueError: too cold",
    ),
    "a program that does not load": (programmed(load="raise OSError('no weights')"), "2", "no weights"),
    "a program whose complaint is no text": (
        programmed(load=r"raise OSError('caf\udce9\n')"), "2", r"OSError: caf\xe9\n"
    ),
    "a program that leaves the process": (programmed(load="raise SystemExit(3)"), "2", "SystemExit"),
    "a program that finds no memory": (programmed(load="raise MemoryError"), "2", "MemoryError"),
    "batches that fill the machine": (
        configured("max_batch_size: 2000000000"), "1", "more than half of this machine's memory"
    ),
    "an execution that fills the machine": (
        lambda root, models: put(root, "m", devouring(models), 2),
        "2", "ONNX Runtime: not enough memory: 17592186044416 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", [Mode.EXPLICIT, Mode.POLL])
@pytest.mark.parametrize("what", BROKEN)
def test_invariant_7_what_fails_leaves_the_old_serving_and_tells_why(
    tmp_path: Path, models: Models, what: str, mode: Mode
) -> None:
    write, concerned, expected = BROKEN[what]
    put(tmp_path, "m", models.adding(1))
    with acting(tmp_path, mode) as (repository, act):
        served = repository.catalogue.find("m", "")
        write(tmp_path, models)
        told = act()
        assert repository.catalogue.find("m", "") is served
        assert answer(repository) == 1
        entries = {entry.version: entry for entry in repository.index()}
        assert entries["1"].state is READY
        assert concerned == "1" or entries[concerned].state is ModelState.UNAVAILABLE
        assert expected in entries[concerned].reason
        if mode is Mode.EXPLICIT:
            assert told.removeprefix(f"version {concerned}: ") in entries[concerned].reason
        shutil.rmtree(tmp_path / "m")
        put(tmp_path, "m", models.adding(5), 3)
        assert act() == ""
        assert answer(repository) == 5
        eventually(lambda: told_of(repository) == {"3": ""}, "the old version is drained, and forgotten")


def told_of(repository: Repository) -> dict[str, str]:
    """Return the reasons by version."""
    return {entry.version: entry.reason for entry in repository.index()}
