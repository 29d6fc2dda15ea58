"""What polling makes of folders that are being written, or are gone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosted_server import eventually
from model_folders import place, put
from onnx_models import Models
from repositories import ALL_VERSIONS, answer, serving, states
from scripted_engines import PATIENCE_SECONDS

from headrace_server.core.catalogue import ModelState
from headrace_server.errors import ModelNotFound
from headrace_server.models.layout import scan
from headrace_server.models.polling import Watch
from headrace_server.models.repository import Mode, Repository, RepositoryOptions

READY = ModelState.READY


class Polled:
    """A repository that looks at its folders when the test says so."""

    def __init__(self, repository: Repository, *folders: Path) -> None:
        self.repository = repository
        self._watch = Watch(scan(folders))

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.repository.poll(self._watch)


@contextmanager
def polled(*folders: Path) -> Iterator[Polled]:
    with serving(*folders, mode=Mode.POLL) as repository:
        yield Polled(repository, *folders)


class Stumbling(Repository):
    """A repository whose first look meets what nobody thought of."""

    def __init__(self, options: RepositoryOptions) -> None:
        super().__init__(options)
        self.looks = 0
        self.looked_again = threading.Event()

    def poll(self, watch: Watch) -> None:
        self.looks += 1
        if self.looks == 1:
            raise ZeroDivisionError
        self.looked_again.set()


def test_a_look_that_fails_unexpectedly_is_not_the_last(
    tmp_path: Path, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "m", models.adding(1))
    repository = Stumbling(RepositoryOptions((tmp_path,), Mode.POLL, poll_seconds=0.001))
    repository.open()
    repository.start()
    assert repository.looked_again.wait(PATIENCE_SECONDS)
    assert "a look at the models failed; what is served goes on" in caplog.text
    assert answer(repository) == 1
    assert repository.close(PATIENCE_SECONDS)


def test_an_entry_that_cannot_be_looked_at_costs_the_other_models_nothing(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "m", models.adding(1))
    with polled(tmp_path) as server:
        (tmp_path / "bad").symlink_to("n" * 300)
        server.look(2)
        place(tmp_path, "late", models.adding(2))
        server.look(2)
        assert (answer(server.repository), answer(server.repository, "late")) == (1, 2)
        assert [entry.reason for entry in server.repository.index() if entry.name == "bad"] == [
            f"{tmp_path / 'bad'} cannot be read: File name too long"
        ]


def test_versions_come_and_go_and_the_newest_one_answers(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    with polled(tmp_path) as server:
        place(tmp_path, "m", models.adding(2), 2)
        server.look()
        assert answer(server.repository) == 2, "what was renamed into its place is not waited for"
        put(tmp_path, "m", models.adding(22.5), 2)
        server.look(2)
        assert answer(server.repository) == 22.5
        shutil.rmtree(tmp_path / "m" / "2")
        server.look(2)
        assert answer(server.repository) == 1
        shutil.rmtree(tmp_path / "m")
        server.look(2)
        eventually(lambda: not states(server.repository), "the last version is drained")
        with pytest.raises(ModelNotFound):
            answer(server.repository)
        assert server.repository.catalogue.is_ready, "an empty repository is as it should be"


def test_a_version_is_not_touched_while_it_is_being_copied(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    content = models.adding(2).read_bytes()
    with polled(tmp_path) as server:
        for end in range(0, len(content), len(content) // 4):
            put(tmp_path, "m", content[:end], 2)
            server.look()
            assert states(server.repository) == {("m", "1"): READY}, "nothing was tried"
        put(tmp_path, "m", content, 2)
        server.look()
        assert answer(server.repository) == 1
        server.look()
        assert answer(server.repository) == 2


def test_a_copy_that_comes_to_a_halt_is_tried_told_of_and_tried_again(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    content = models.adding(2).read_bytes()
    with polled(tmp_path) as server:
        put(tmp_path, "m", content[:-9], 2)
        server.look(2)
        assert answer(server.repository) == 1
        assert states(server.repository)["m", "2"] is ModelState.UNAVAILABLE
        put(tmp_path, "m", content, 2)
        server.look(2)
        assert answer(server.repository) == 2


def test_what_is_beside_a_version_in_the_making_is_acted_on(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "m", models.adding(1), 1)
    (tmp_path / "m" / "config.pbtxt").write_text(ALL_VERSIONS)
    with polled(tmp_path) as server:
        put(tmp_path, "m", b"half of it", 2)
        place(tmp_path, "m", models.adding(3), 3)
        server.look()
        assert answer(server.repository) == 3
        assert set(states(server.repository)) == {("m", "1"), ("m", "3")}


GONE = {
    "is removed": lambda root: shutil.move(root, root.with_name("aside")),
    "is a file": lambda root: (shutil.move(root, root.with_name("aside")), root.touch()),
    "is a link to nothing": lambda root: (
        shutil.move(root, root.with_name("aside")),
        root.symlink_to("nothing"),
    ),
}


@pytest.mark.parametrize("what", GONE)
def test_a_repository_that_cannot_be_read_changes_nothing_until_it_is_back(
    tmp_path: Path, models: Models, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    put(root, "m", models.adding(1))
    with polled(root) as server:
        GONE[what](root)
        server.look(3)
        assert answer(server.repository) == 1
        assert states(server.repository) == {("m", "1"): READY}
        assert f"there is no model repository at {root}" in caplog.text
        assert "what is served goes on" in caplog.text
        root.unlink(missing_ok=True)
        shutil.move(tmp_path / "aside", root)
        server.look(2)
        served = server.repository.catalogue.find("m", "")
        assert answer(server.repository) == 1
        place(root, "m", models.adding(2), 2)
        server.look()
        assert answer(server.repository) == 2
        assert served is not server.repository.catalogue.find("m", "")
