from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from onnx_models import Models
from scripted_engines import PATIENCE_SECONDS, Answers

from headrace_server.core.catalogue import Entry, ModelState
from headrace_server.core.model import Limits
from headrace_server.core.request import NO_DEADLINE, InputTensor, Request
from headrace_server.core.service import Service
from headrace_server.errors import InvalidInput, ModelNotFound, ModelNotReady, ShuttingDown
from headrace_server.models.repository import Repository

ROW = InputTensor("x", "FP32", (1, 4), bytes(16))


def put(folder: Path, name: str, contents: bytes | Path, version: str = "1") -> None:
    version_folder = folder / name / version
    version_folder.mkdir(parents=True)
    data = contents.read_bytes() if isinstance(contents, Path) else contents
    (version_folder / "model.onnx").write_bytes(data)


def opened(folder: Path) -> Repository:
    repository = Repository(folder, 8, Limits())
    for found in repository.scan():
        repository.load(found)
    return repository


def test_what_is_loading_is_not_ready_and_what_is_loaded_answers(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "a", models.mlp(), version="2")
    put(tmp_path, "b", models.mlp())
    repository = Repository(tmp_path, 8, Limits())
    first, second = repository.scan()
    assert [entry.state for entry in repository.index()] == [ModelState.LOADING, ModelState.LOADING]
    assert not repository.complete
    with pytest.raises(ModelNotReady, match="model 'a' is being loaded"):
        repository.find("a", "")
    repository.load(first)
    assert repository.find("a", "") is repository.find("a", "2")
    assert not repository.complete
    repository.load(second)
    assert repository.complete
    assert [model.facts.name for model in repository.ready()] == ["a", "b"]
    repository.close(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("name", "version", "error", "text"),
    [
        ("digit", "", ModelNotFound, "there is no model 'digit'; did you mean 'digits'?"),
        ("zzz", "", ModelNotFound, "there is no model 'zzz'$"),
        ("digits", "1", ModelNotFound, "model 'digits' has no version '1'; '2' is served"),
        ("digits", "02", InvalidInput, "model version '02' came, a whole number from 1 expected"),
        ("digits", "latest", InvalidInput, "model version 'latest' came"),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, models: Models, name: str, version: str, error: type[Exception], text: str
) -> None:
    put(tmp_path, "digits", models.mlp(), version="2")
    repository = opened(tmp_path)
    with pytest.raises(error, match=text):
        repository.find(name, version)
    repository.close(PATIENCE_SECONDS)


def test_a_broken_model_leaves_the_rest_serving_and_tells_why(
    tmp_path: Path, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "bad", b"no model")
    put(tmp_path, "good", models.mlp())
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "unversioned").mkdir()
    repository = opened(tmp_path)
    entries = {entry.name: entry for entry in repository.index()}
    assert {name: entry.state for name, entry in entries.items()} == {
        "bad": ModelState.UNAVAILABLE,
        "empty": ModelState.UNAVAILABLE,
        "good": ModelState.READY,
        "unversioned": ModelState.UNAVAILABLE,
    }
    assert "model.onnx" in entries["bad"].reason
    assert "expected model.onnx" in entries["empty"].reason
    assert "has no version" in entries["unversioned"].reason
    with pytest.raises(ModelNotReady, match=r"model 'bad' is not served: .*model.onnx"):
        repository.find("bad", "")
    assert "model bad is not served" in caplog.text
    assert Service(repository).is_ready()
    repository.close(PATIENCE_SECONDS)


def test_closing_executes_what_was_accepted_and_ends_the_threads(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.mlp())
    repository = opened(tmp_path)
    service, answers = Service(repository), Answers()
    request = Request("m", "", "", [ROW])
    for number in range(50):
        service.infer(request, NO_DEADLINE, answers, number, time.monotonic_ns())
    repository.close(PATIENCE_SECONDS)
    assert all(isinstance(answer, bytes) for answer in answers.wait_for(*range(50)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-m-1")]
    with pytest.raises(ShuttingDown):
        service.infer(request, NO_DEADLINE, answers, 50, time.monotonic_ns())


def test_a_model_that_was_lost_is_unavailable_and_told_of(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.mlp())
    told = threading.Event()
    repository = Repository(tmp_path, 8, Limits(), told.set)
    for found in repository.scan():
        repository.load(found)
    repository.find("m", "").lose("Xid 79", [])
    assert told.is_set()
    assert repository.index() == [Entry("m", "1", ModelState.UNAVAILABLE, "Xid 79")]
    assert repository.ready() == []
    assert not Service(repository).is_ready()
    repository.close(PATIENCE_SECONDS)
