"""Plans that are rebuilt while a server serves: what answers meanwhile, afterwards, and after a failure."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_plan_child
import pytest
from fake_cuda import FakeDriver
from fake_machine import INT8_MODEL, NEW, OLD, FakeMachine, machine_with, plan_name, write_version
from fake_onnxruntime import fake_provider
from onnx_models import Models
from repositories import answer
from scripted_engines import PATIENCE_SECONDS

from headrace_engines.engine import Engine
from headrace_engines.errors import MemoryExhausted
from headrace_engines.rebuilt_plans import RebuiltPlans
from headrace_engines.replan import Replanner
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.errors import InvalidInput
from headrace_server.models.repository import Mode, Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions

_LOGGER = logging.getLogger("headrace_server")
PLAN, ONNX = "tensorrt_plan", "onnxruntime_onnx"


class Site:
    """A repository on a machine with a fake GPU, and a folder of caches."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.folder = folder / "models"
        self.version = write_version(self.folder / "m" / "1", models.adding(1), by=OLD)
        self.caches = folder / "caches"
        self.caches.mkdir()
        shutil.copy(models.adding(2), self.caches / "other.onnx")
        self._plans = folder / "plans"
        self._changed = threading.Condition()

    def mode(self, mode: str) -> None:
        (self.caches / "mode").write_text(mode)

    @property
    def builds(self) -> int:
        builds = self.caches / "builds"
        return len(builds.read_text().splitlines()) if builds.exists() else 0

    @contextmanager
    def served(self, machine: FakeMachine, mode: Mode = Mode.EXPLICIT) -> Iterator[Repository]:
        replanner = Replanner(RebuiltPlans(self._plans), self.caches, child=fake_plan_child.__name__)
        load = LoadOptions(machine=machine, replanner=replanner)
        repository = Repository(RepositoryOptions((self.folder,), mode, ("*",), load=load), self._notify)
        repository.open()
        repository.load_all()
        try:
            yield repository
        finally:
            assert repository.close(PATIENCE_SECONDS)

    def await_platform(self, repository: Repository, platform: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.platform(repository) == platform, PATIENCE_SECONDS)

    @staticmethod
    def platform(repository: Repository) -> str:
        (model,) = repository.catalogue.ready()
        return model.facts.platform

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


@pytest.fixture
def site(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_plan_child.__file__).parent))
    return Site(tmp_path, models)


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver() as driver:
        yield driver


@pytest.fixture
def machine(driver: FakeDriver) -> Iterator[FakeMachine]:
    with machine_with(driver) as machine:
        yield machine


class Awaited(logging.Handler):
    """Waits for a line of the log."""

    def __init__(self, text: str, times: int = 1) -> None:
        super().__init__()
        self._text = text
        self._times = times
        self._came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self._times -= 1
            if not self._times:
                self._came.set()

    def __enter__(self) -> Awaited:
        _LOGGER.addHandler(self)
        _LOGGER.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        _LOGGER.removeHandler(self)
        _LOGGER.setLevel(logging.NOTSET)

    def wait(self) -> None:
        assert self._came.wait(PATIENCE_SECONDS)


def test_a_plan_takes_over_when_it_is_built(
    site: Site, driver: FakeDriver, machine: FakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), fake_provider(driver), site.served(machine) as repository:
        assert answer(repository) == 1
        site.await_platform(repository, PLAN)
        assert answer(repository) == 1
        (model,) = repository.catalogue.ready()
        config = config_pb.ModelConfig.FromString(model.facts.config)
        assert [(group.kind, list(group.gpus)) for group in config.instance_group] == [(1, [0])]
        assert model.places == ((0, 1),)
    assert f"m version 1: {plan_name(INT8_MODEL)} is rebuilt from {INT8_MODEL}" in caplog.text
    assert f"{plan_name(INT8_MODEL)} was rebuilt in" in caplog.text
    with site.served(machine) as repository:
        assert site.platform(repository) == PLAN
    assert site.builds == 1


@pytest.mark.parametrize("mode", ["crash", "wrong"])
def test_what_cannot_be_built_is_told_once_and_the_next_best_serves_on(
    site: Site, machine: FakeMachine, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    site.mode(mode)
    last = plan_name("model.onnx")
    with Awaited(f"{last} could not be rebuilt") as awaited, site.served(machine) as repository:
        awaited.wait()
        assert (site.platform(repository), answer(repository)) == (ONNX, 1)
        assert site.builds == 2
        caplog.clear()
        (site.folder / "m" / "config.pbtxt").write_text("max_batch_size: 4")
        repository.load_model("m")
        assert "it could not be rebuilt: " in caplog.text
    assert site.builds == 2


def test_where_no_plan_can_be_kept_that_is_told_with_the_folder_and_no_other_is_tried(
    site: Site, machine: FakeMachine
) -> None:
    site.mode("full")
    with (
        Awaited(f"m version 1: no plan can be rebuilt: {site.caches.parent}") as awaited,
        site.served(machine) as repository,
    ):
        awaited.wait()
        assert answer(repository) == 1
    assert site.builds == 1


def test_the_cpu_takes_nothing_over_from_the_gpu(
    site: Site, driver: FakeDriver, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, provider = FakeMachine.plan_engine, FakeMachine.provider_engine
    opened: list[None] = []

    def plan_engine(*args: Any, **options: Any) -> Engine:
        plan(*args, **options).close()
        raise MemoryExhausted("what serves holds it")

    def provider_engine(*args: Any, **options: Any) -> Engine:
        opened.append(None)
        if len(opened) > 1:
            raise MemoryExhausted("what serves holds it")
        return provider(*args, **options)

    monkeypatch.setattr(FakeMachine, "plan_engine", plan_engine)
    monkeypatch.setattr(FakeMachine, "provider_engine", provider_engine)
    kept = Awaited("could not be loaded beside it", times=2)
    with kept, fake_provider(driver), site.served(machine) as repository:
        (model,) = repository.catalogue.ready()
        kept.wait()
        assert repository.catalogue.ready() == [model]
        assert answer(repository) == 1
    assert site.builds == 2


def test_what_was_told_of_a_model_stands_when_its_plan_takes_over(site: Site, machine: FakeMachine) -> None:
    site.mode("wait")
    os.mkfifo(site.caches / "gate")
    with site.served(machine) as repository:
        (site.folder / "m" / "config.pbtxt").write_text("max_batch_size: x")
        with (site.caches / "gate").open("wb"), pytest.raises(InvalidInput):  # once the child reads it
            repository.load_model("m")
        (before,) = repository.catalogue.index()
        site.await_platform(repository, PLAN)
        assert repository.catalogue.index() == [before]
        assert "serves as it was loaded before" in before.reason


def test_a_stop_ends_what_is_being_built(site: Site, machine: FakeMachine) -> None:
    site.mode("hang")
    with Awaited("is rebuilt from") as awaited, site.served(machine) as repository:
        awaited.wait()
        assert answer(repository) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "rebuilds"]


def test_a_model_that_is_gone_meanwhile_is_not_loaded_again(site: Site, machine: FakeMachine) -> None:
    site.mode("wait")
    os.mkfifo(site.caches / "gate")
    with Awaited("was rebuilt in") as awaited, site.served(machine) as repository:
        with (site.caches / "gate").open("wb"):  # once the child reads it
            repository.unload_model("m")
        awaited.wait()
        assert repository.catalogue.ready() == []
        repository.load_model("m")
        assert site.platform(repository) == PLAN


def test_files_that_have_changed_meanwhile_are_left_to_the_next_load(
    site: Site, machine: FakeMachine, models: Models
) -> None:
    with site.served(machine) as repository:
        (version,) = repository._rollout._serving["m"].values()
        assert version.again() is not None
        shutil.copy(models.adding(5), site.version / "model.onnx")
        assert version.again() is None
        repository._rollout.renew("m", version)
        assert answer(repository) == 1


def test_on_a_machine_of_the_right_kind_nothing_is_built(
    site: Site, machine: FakeMachine, models: Models
) -> None:
    write_version(site.version, models.adding(1), by=NEW)
    with site.served(machine) as repository:
        assert (site.platform(repository), answer(repository)) == (PLAN, 1)
    assert site.builds == 0


def test_models_are_loaded_beside_each_other_on_one_gpu(
    site: Site, machine: FakeMachine, models: Models
) -> None:
    names = ("m", "n", "o", "p")
    for name in names:
        write_version(site.folder / name / "1", models.adding(1), by=NEW)
    with site.served(machine) as repository:
        assert [model.facts.platform for model in repository.catalogue.ready()] == [PLAN] * 4
        assert [answer(repository, name) for name in names] == [1] * 4


def test_what_spoils_the_gpu_while_a_plan_is_warmed_up_does_not_keep_it_from_serving(
    site: Site, driver: FakeDriver, machine: FakeMachine, models: Models
) -> None:
    write_version(site.version, models.adding(1), by=NEW)
    with site.served(machine):
        launches = driver.calls["launch"]
    driver.fail("launch", "CUDA_ERROR_ILLEGAL_ADDRESS", after=launches - 2)
    with site.served(machine) as repository:
        assert (site.platform(repository), answer(repository)) == (PLAN, 1)
    assert driver.calls["reset"] == 1
