"""What callers load and unload, and what of it fails."""

from __future__ import annotations

import re
import shutil
import threading
import tracemalloc
from pathlib import Path

import pytest
from hosted_server import eventually
from model_folders import put
from onnx_models import Models
from repositories import ALL_VERSIONS, answer, explicit, serving, states
from scripted_engines import PATIENCE_SECONDS

from headrace_server.core.catalogue import Entry, ModelState, Override
from headrace_server.errors import ControlDisabled, InvalidInput, ModelNotFound, ModelNotReady, NotSupported
from headrace_server.models.layout import RepositoryError
from headrace_server.models.repository import Mode, Repository, RepositoryOptions

READY, UNAVAILABLE = ModelState.READY, ModelState.UNAVAILABLE


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.POLL])
def test_callers_control_models_only_where_they_may(tmp_path: Path, models: Models, mode: Mode) -> None:
    put(tmp_path, "m", models.adding(1))
    with serving(tmp_path, mode=mode) as repository:
        for control in (repository.load_model, repository.unload_model):
            with pytest.raises(
                ControlDisabled, match=f"--model-control-mode {mode.value}, and this needs explicit"
            ):
                control("m")
        assert answer(repository) == 1


@pytest.mark.parametrize(
    ("load", "expected"), [((), []), (("b",), ["b"]), (("b", "a"), ["a", "b"]), (("*",), ["a", "b", "c"])]
)
def test_what_is_loaded_at_an_explicit_start(
    tmp_path: Path, models: Models, load: tuple[str, ...], expected: list[str]
) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path, name, models.adding(1))
    with explicit(tmp_path, load=load) as repository:
        assert [model.facts.name for model in repository.catalogue.ready()] == expected
        assert repository.catalogue.is_ready
        told = [entry for entry in repository.index() if entry.name not in expected]
        assert told == [Entry(name, "", ModelState.NOT_LOADED) for name in "abc" if name not in expected]


def test_a_model_to_load_that_is_not_there_is_told_at_the_start(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "digits", models.adding(1))
    repository = Repository(RepositoryOptions((tmp_path,), Mode.EXPLICIT, ("digit",)))
    with pytest.raises(RepositoryError, match=r"--load-model: .* 'digit'; did you mean 'digits'"):
        repository.open()


def test_loading_and_unloading(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1))
    with explicit(tmp_path) as repository:
        with pytest.raises(ModelNotReady, match="model 'm' is not loaded"):
            answer(repository)
        repository.load_model("m")
        assert answer(repository) == 1
        repository.unload_model("m")
        assert repository.index() == [Entry("m", "1", UNAVAILABLE, "unloaded")]
        with pytest.raises(ModelNotReady, match="model 'm' is not served: unloaded"):
            answer(repository)
        repository.unload_model("m")
        put(tmp_path, "late", models.adding(7))
        repository.load_model("late")
        assert answer(repository, "late") == 7
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-m-")]


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_a_model_that_nobody_knows_is_told_with_those_near_it(
    tmp_path: Path, models: Models, call: str
) -> None:
    put(tmp_path, "digits", models.adding(1))
    with explicit(tmp_path) as repository, pytest.raises(ModelNotFound, match="did you mean 'digits'"):
        getattr(repository, call)("digts")


def test_names_that_nobody_knows_are_not_kept(tmp_path: Path) -> None:
    with explicit(tmp_path) as repository:
        tracemalloc.start()
        for number in range(20):
            with pytest.raises(ModelNotFound):
                repository.load_model(f"{number}{'x' * 1_000_000}")
        kept_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept_bytes < 10_000_000


def test_a_load_replaces_what_changed_and_leaves_the_rest_alone(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    put(tmp_path, "m", models.adding(2), 2)
    (tmp_path / "m" / "config.pbtxt").write_text(ALL_VERSIONS)
    with explicit(tmp_path, load=("m",)) as repository:
        first, second = repository.catalogue.ready()
        repository.load_model("m")
        assert repository.catalogue.ready() == [first, second], "nothing changed, nothing is loaded"
        put(tmp_path, "m", models.adding(22.5), 2)
        put(tmp_path, "m", models.adding(3), 3)
        repository.load_model("m")
        assert repository.catalogue.ready()[0] is first
        assert [answer(repository, version=str(number)) for number in (1, 2, 3)] == [1, 22.5, 3]
        shutil.rmtree(tmp_path / "m" / "1")
        (tmp_path / "m" / "config.pbtxt").write_text(f"{ALL_VERSIONS} max_batch_size: 4")
        repository.load_model("m")
        assert [model.facts.version for model in repository.catalogue.ready()] == ["2", "3"]
        assert {model.facts.spec.max_batch_size for model in repository.catalogue.ready()} == {4}


def test_a_load_of_what_has_no_version_any_more_leaves_the_old_serving(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1))
    with explicit(tmp_path, load=("m",)) as repository:
        shutil.rmtree(tmp_path / "m" / "1")
        with pytest.raises(InvalidInput, match="has no version: a folder named 1, 2, …"):
            repository.load_model("m")
        assert answer(repository) == 1
        (entry,) = repository.index()
        assert entry.state is READY
        assert "has no version" in entry.reason


def test_a_configuration_in_json_stands_for_the_file_until_the_next_load(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1))
    with explicit(tmp_path, load=("m",)) as repository:
        repository.load_model("m", Override('{"max_batch_size": 2}'))
        assert repository.catalogue.find("m", "").facts.spec.max_batch_size == 2
        with pytest.raises(InvalidInput, match="max_batch"):
            repository.load_model("m", Override('{"max_batch": 2}'))
        assert repository.catalogue.find("m", "").facts.spec.max_batch_size == 2
        repository.load_model("m")
        assert repository.catalogue.find("m", "").facts.spec.max_batch_size == 64


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (
            Override('{"max_batch_size": "many"}'),
            "config override: max_batch_size: many is not a whole number",
        ),
        (Override("{}", {"1/model.onnx": b"no model"}), "model.onnx: ONNX Runtime cannot load it"),
    ],
    ids=["configuration", "files"],
)
def test_the_index_does_not_blame_the_repository_for_what_a_caller_sent(
    tmp_path: Path, models: Models, override: Override, reason: str
) -> None:
    put(tmp_path, "m", models.adding(1))
    with explicit(tmp_path, load=("m",)) as repository:
        with pytest.raises(InvalidInput, match=reason):
            repository.load_model("m", override)
        (entry,) = repository.index()
        assert entry.reason.startswith(
            f"serves as it was loaded before; a load with what a caller sent along failed: {reason}"
        )


def test_batches_of_rows_that_change_each_other_are_refused_or_executed_row_by_row(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.normalised_over_batch())
    with explicit(tmp_path) as repository:
        (tmp_path / "m" / "config.pbtxt").write_text('name: "m"\nmax_batch_size: 8\n')
        with pytest.raises(
            InvalidInput, match=r"config\.pbtxt:2: max_batch_size: .* rows cannot share a batch"
        ):
            repository.load_model("m")
        (tmp_path / "m" / "config.pbtxt").unlink()
        repository.load_model("m")
        facts = repository.catalogue.find("m", "").facts
        assert facts.spec.max_batch_size == 1
        assert facts.settings.why_alone.startswith("output 'y' changes")


WRONG_TYPES = {
    "3": "a JSON object is expected, int came",
    "[]": "a JSON object is expected, list came",
    '{"max_batch_size": "four"}': "max_batch_size",
    '{"max_batch_size": 1.5}': "max_batch_size",
    '{"max_batch_size": true}': "max_batch_size",
    '{"max_batch_size": 99999999999}': "max_batch_size",
    '{"input": {}}': "input: {} is not a list",
    '{"input": [3]}': "input[0]: 3 is not an object",
    '{"version_policy": "all"}': "version_policy",
    '{"max_batch_size": 4, "max_batch_size": 5}': "given twice: max_batch_size",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("config", WRONG_TYPES, ids=lambda config: config[:40])
def test_a_configuration_of_wrong_types_is_told_and_changes_nothing(
    tmp_path: Path, models: Models, config: str
) -> None:
    put(tmp_path, "m", models.adding(1))
    with explicit(tmp_path, load=("m",)) as repository:
        served = repository.catalogue.find("m", "")
        with pytest.raises(InvalidInput, match=re.escape(WRONG_TYPES[config])):
            repository.load_model("m", Override(config))
        assert repository.catalogue.find("m", "") is served
        assert answer(repository) == 1


def test_files_that_a_caller_sent_are_served_instead_of_the_repositorys(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1))
    files = {"3/model.onnx": models.adding(3).read_bytes(), "5/model.onnx": models.adding(5).read_bytes()}
    config = '{"version_policy": {"all": {}}}'
    with explicit(tmp_path, load=("m",)) as repository:
        repository.load_model("m", Override(config, files))
        assert [answer(repository, version=number) for number in ("3", "5")] == [3, 5]
        repository.load_model("new", Override("{}", files))
        assert answer(repository, "new") == 5
        expected = {
            ("m", "3"): READY, ("m", "5"): READY, ("m", "1"): UNAVAILABLE, ("new", "5"): READY,
        }  # fmt: skip
        eventually(lambda: states(repository) == expected, "what served before is closed")
        repository.load_model("m")
        assert answer(repository) == 1
        repository.unload_model("new")
        assert ("new", "5") not in states(repository), "it was never in a repository"


def test_a_model_that_is_forgotten_is_told_as_a_change(tmp_path: Path, models: Models) -> None:
    changes: list[set[str]] = []

    def note() -> None:
        changes.append({entry.name for entry in repository.catalogue.index()})

    repository = Repository(RepositoryOptions((tmp_path,), Mode.EXPLICIT), note)
    repository.open()
    repository.load_all()
    repository.load_model("made up", Override("{}", {"1/model.onnx": models.adding(1).read_bytes()}))
    repository.unload_model("made up")
    assert changes[-1] == {"made up"}
    repository.index()
    assert changes[-1] == set()
    told = len(changes)
    repository.index()
    assert len(changes) == told, "nothing changed"
    assert repository.close(PATIENCE_SECONDS)


def test_files_without_a_configuration_are_refused(tmp_path: Path) -> None:
    with explicit(tmp_path) as repository, pytest.raises(InvalidInput, match="files came without a config"):
        repository.load_model("m", Override(None, {"1/model.onnx": b""}))


def test_a_repository_is_named_by_its_folder(tmp_path: Path, models: Models) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    put(first, "a", models.adding(1))
    put(second, "b", models.adding(2))
    with explicit(first, second) as repository:
        repository.load_model("b", repository="second")
        repository.load_model("a", repository=str(first))
        assert [entry.name for entry in repository.index("first")] == ["a"]
        assert [entry.name for entry in repository.index()] == ["a", "b"]
        with pytest.raises(ModelNotFound, match=f"model 'a' is in {first}, and not in {second}"):
            repository.unload_model("a", "second")
        for call in (repository.index, lambda name: repository.load_model("a", repository=name)):
            with pytest.raises(NotSupported, match=r"there is no repository 'third'.*'first' and 'second'"):
                call("third")
