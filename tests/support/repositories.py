"""Repositories that a test opens, asks and closes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from scripted_engines import PATIENCE_SECONDS, Answers, infer

from headrace_server.core.catalogue import ModelState
from headrace_server.core.request import InputTensor, Request
from headrace_server.core.service import Service
from headrace_server.models.repository import Mode, Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions

ALL_VERSIONS = "version_policy { all {} }"


@contextmanager
def serving(
    *folders: Path, mode: Mode = Mode.NONE, load: tuple[str, ...] = (), allow_python: bool = False
) -> Iterator[Repository]:
    options = LoadOptions(allow_python=allow_python)
    repository = Repository(RepositoryOptions(folders, mode, load, load=options))
    repository.open()
    repository.load_all()
    try:
        yield repository
    finally:
        assert repository.close(PATIENCE_SECONDS)


def explicit(*folders: Path, load: tuple[str, ...] = ()) -> AbstractContextManager[Repository]:
    return serving(*folders, mode=Mode.EXPLICIT, load=load)


def answer(repository: Repository, name: str = "m", version: str = "") -> float:
    """Ask for a row of zeros; return its first element."""
    service, answers = Service(repository.catalogue, repository), Answers()
    row = InputTensor("x", "FP32", (1, 3), bytes(12))
    infer(service, Request(name, version, "", [row]), answers, "key")
    (came,) = answers.wait_for("key")
    assert isinstance(came, bytes), repr(came)
    return float(np.frombuffer(came, np.float32)[0])


def states(repository: Repository) -> dict[tuple[str, str], ModelState]:
    return {(entry.name, entry.version): entry.state for entry in repository.index()}
