"""What is served of some folders from the start."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from model_folders import put
from onnx_models import Models
from repositories import ALL_VERSIONS, answer, serving, states
from scripted_engines import PATIENCE_SECONDS, Answers, infer

from headrace_server.core.catalogue import Entry, ModelState
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.service import Service
from headrace_server.errors import InvalidInput, ModelNotFound, ModelNotReady, ShuttingDown
from headrace_server.models.layout import RepositoryError
from headrace_server.models.repository import Mode, Repository, RepositoryOptions

READY, UNAVAILABLE = ModelState.READY, ModelState.UNAVAILABLE


def test_what_waits_to_be_loaded_is_not_ready_and_what_is_loaded_answers(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "a", models.adding(2), version=2)
    put(tmp_path, "b", models.adding(1))
    repository = Repository(RepositoryOptions((tmp_path,)))
    assert repository.open() == ["a", "b"]
    catalogue = repository.catalogue
    assert [entry.state for entry in catalogue.index()] == [ModelState.LOADING, ModelState.LOADING]
    assert not catalogue.is_ready
    with pytest.raises(ModelNotReady, match="model 'a' is being loaded"):
        catalogue.find("a", "2")
    repository.load_all()
    assert catalogue.is_ready
    assert catalogue.find("a", "") is catalogue.find("a", "2")
    assert [model.facts.name for model in catalogue.ready()] == ["a", "b"]
    assert repository.close(PATIENCE_SECONDS)


POLICIES = {
    "": [10],
    "version_policy { latest { num_versions: 2 } }": [9, 10],
    ALL_VERSIONS: [2, 9, 10],
    "version_policy { specific { versions: [9, 2] } }": [2, 9],
}


@pytest.mark.parametrize("config", POLICIES)
def test_the_versions_that_the_policy_chooses_are_served(tmp_path: Path, models: Models, config: str) -> None:
    for number in (2, 9, 10):
        put(tmp_path, "m", models.adding(number), number)
    if config:
        (tmp_path / "m" / "config.pbtxt").write_text(config)
    with serving(tmp_path) as repository:
        served = POLICIES[config]
        assert [int(model.facts.version) for model in repository.catalogue.ready()] == served
        assert states(repository) == {("m", str(number)): READY for number in served}
        assert answer(repository) == served[-1], "the newest one answers where none is named"
        assert [answer(repository, version=str(number)) for number in served] == served
        for number in {2, 9, 10} - {*served}:
            with pytest.raises(ModelNotFound, match=f"has no version '{number}'; '{served[0]}'"):
                repository.catalogue.find("m", str(number))


@pytest.mark.parametrize(
    ("name", "version", "error", "text"),
    [
        ("digit", "", ModelNotFound, "there is no model 'digit'; did you mean 'digits'?"),
        ("zzz", "", ModelNotFound, "there is no model 'zzz'$"),
        ("digits", "1", ModelNotFound, "model 'digits' has no version '1'; '2' is served"),
        ("digits", "02", InvalidInput, "model version '02' came, a whole number from 1 expected"),
        ("digits", "latest", InvalidInput, "model version 'latest' came"),
        ("digits", "9" * 5000, ModelNotFound, "has no version"),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, models: Models, name: str, version: str, error: type[Exception], text: str
) -> None:
    put(tmp_path, "digits", models.adding(2), version=2)
    with serving(tmp_path) as repository:
        with pytest.raises(error, match=text):
            repository.catalogue.find(name, version)
        if error is InvalidInput:
            with pytest.raises(error, match=text):
                repository.catalogue.answers(name, version)
        else:
            assert not repository.catalogue.answers(name, version)
        assert repository.catalogue.answers("digits", "2")


def test_a_broken_model_leaves_the_rest_serving_and_tells_why(
    tmp_path: Path, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "bad", b"no model")
    put(tmp_path, "good", models.adding(1))
    put(tmp_path, "misconfigured", models.adding(1))
    (tmp_path / "misconfigured" / "config.pbtxt").write_text("max_batch_sizes: 3")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "unversioned").mkdir()
    with serving(tmp_path) as repository:
        entries = {entry.name: entry for entry in repository.index()}
        assert {name for name, entry in entries.items() if entry.state is READY} == {"good"}
        assert "model.onnx" in entries["bad"].reason
        assert "expected model.onnx" in entries["empty"].reason
        assert "has no version: a folder named 1, 2, …" in entries["unversioned"].reason
        assert "max_batch_size" in entries["misconfigured"].reason
        with pytest.raises(ModelNotReady, match=r"model 'bad' version 1 is not served: .*model.onnx"):
            repository.catalogue.find("bad", "1")
        with pytest.raises(ModelNotReady, match=r"model 'unversioned' is not served: .*has no version"):
            repository.catalogue.find("unversioned", "")
        assert "model bad version 1 is not served" in caplog.text
        assert Service(repository.catalogue).is_ready()


def test_a_broken_version_costs_no_other_version(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    put(tmp_path, "m", b"no model", 2)
    (tmp_path / "m" / "config.pbtxt").write_text(ALL_VERSIONS)
    with serving(tmp_path) as repository:
        assert states(repository) == {("m", "1"): READY, ("m", "2"): UNAVAILABLE}
        assert answer(repository) == 1


def test_a_name_in_two_repositories_is_not_served_and_both_folders_are_told(
    tmp_path: Path, models: Models
) -> None:
    for folder, name in (("first", "m"), ("second", "m"), ("second", "n")):
        put(tmp_path / folder, name, models.adding(1))
    with serving(tmp_path / "first", tmp_path / "second") as repository:
        entries = {entry.name: entry for entry in repository.index()}
        assert entries["n"].state is READY
        assert entries["m"].state is UNAVAILABLE
        assert str(tmp_path / "first" / "m") in entries["m"].reason
        assert str(tmp_path / "second" / "m") in entries["m"].reason


def test_closing_executes_what_was_accepted_and_ends_the_threads(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1))
    (tmp_path / "m" / "config.pbtxt").write_text("instance_group { count: 2 }")
    with serving(tmp_path) as repository:
        service, answers = Service(repository.catalogue, repository), Answers()
        request = Request("m", "", "", [InputTensor("x", "FP32", (1, 3), bytes(12))])
        engines = {thread.name for thread in threading.enumerate() if thread.name.startswith("engine-m-1")}
        assert len(engines) == 2, "an instance has a thread"
        for number in range(50):
            infer(service, request, answers, number)
        assert repository.close(PATIENCE_SECONDS)
        assert all(isinstance(answer, bytes) for answer in answers.wait_for(*range(50)))
        assert not [thread for thread in threading.enumerate() if thread.name in engines]
        with pytest.raises(ShuttingDown):
            infer(service, request, answers, 50)


def test_a_version_that_was_lost_is_unavailable_told_of_and_another_one_answers(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    put(tmp_path, "m", models.adding(2), 2)
    (tmp_path / "m" / "config.pbtxt").write_text(ALL_VERSIONS)
    told = threading.Event()
    repository = Repository(RepositoryOptions((tmp_path,)), told.set)
    repository.open()
    repository.load_all()
    told.clear()
    repository.catalogue.find("m", "2").lose("Xid 79", [])
    assert told.is_set()
    assert repository.index() == [Entry("m", "1", READY), Entry("m", "2", UNAVAILABLE, "Xid 79")]
    assert answer(repository) == 1
    assert repository.catalogue.is_ready
    repository.catalogue.find("m", "1").lose("Xid 79", [])
    assert repository.catalogue.ready() == []
    assert not repository.catalogue.is_ready
    assert repository.close(PATIENCE_SECONDS)


def test_memory_is_told_of_each_model_and_grows_with_its_instances(tmp_path: Path, models: Models) -> None:
    for name in ("one", "two"):
        put(tmp_path, name, models.mlp((64, 64, 8)))
    (tmp_path / "two" / "config.pbtxt").write_text("instance_group { count: 2 }")
    with serving(tmp_path) as repository:
        one, two = (repository.catalogue.find(name, "").memory_bytes for name in ("one", "two"))
        assert one >= (tmp_path / "one" / "1" / "model.onnx").stat().st_size
        assert two - one == 64 * (64 + 8) * 4, "buffers for a full batch, in and out"


@pytest.mark.parametrize(
    ("mode", "error"),
    [(Mode.NONE, "is empty: MODEL/VERSION/model.onnx"), (Mode.POLL, ""), (Mode.EXPLICIT, "")],
)
def test_an_empty_repository_is_an_error_where_nothing_can_come(
    tmp_path: Path, mode: Mode, error: str
) -> None:
    repository = Repository(RepositoryOptions((tmp_path,), mode))
    if error:
        with pytest.raises(RepositoryError, match=error):
            repository.open()
        return
    assert repository.open() == []
    repository.load_all()
    assert repository.catalogue.is_ready
    assert repository.close(PATIENCE_SECONDS)
