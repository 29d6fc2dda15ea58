"""The models of some folders: which are loaded, when, and at whose word.

One thread loads what is wanted at the start and then, where it should, looks at the folders every so often;
callers who load and unload bring threads of their own.
"""

from __future__ import annotations

import enum
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines.publication import check_name
from headrace_server.core.catalogue import Entry, IsWanted, Override, always
from headrace_server.core.model import Model
from headrace_server.errors import ControlDisabled, InvalidInput, ModelNotFound, NotSupported, ShuttingDown
from headrace_server.models.catalogue import OF_REPOSITORY, WHOLE, ModelCatalogue
from headrace_server.models.layout import FoundModel, RepositoryError, read_model, scan
from headrace_server.models.overrides import Upload
from headrace_server.models.plan import Source, plan
from headrace_server.models.polling import Watch
from headrace_server.models.rollout import Rollout
from headrace_server.models.scratch import remove_abandoned
from headrace_server.models.versions import LoadOptions

_logger = logging.getLogger(__name__)


class Mode(enum.Enum):
    """What changes the models that are served; the values are those of --model-control-mode."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


EVERYTHING: Final = "*"
_OF_CALLER: Final = "a load with what a caller sent along"


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """Which folders, and how they are kept up with."""

    folders: tuple[Path, ...]
    mode: Mode = Mode.NONE
    load_at_start: tuple[str, ...] = ()
    """With Mode.EXPLICIT; else everything is."""
    poll_seconds: float = 15.0
    parallel: int = 2
    """Models that are loaded at the same time."""
    load: LoadOptions = LoadOptions()


class Repository:
    """Implements `core.catalogue.ModelControl`; `catalogue` finds what it loaded."""

    def __init__(self, options: RepositoryOptions, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called, from any thread, whenever the state of a version has changed."""
        self._options = options
        self._on_change = on_change
        self.catalogue = ModelCatalogue(may_be_empty=options.mode is not Mode.NONE)
        self._rollout = Rollout(self.catalogue, options.load, options.parallel, on_change)
        self._first: dict[str, FoundModel] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="models", daemon=True)

    def open(self) -> list[str]:
        """Look at the folders; return the names of the models that `start` will load.

        Files that callers sent to servers that were killed are removed first.
        Raises RepositoryError if there is nothing to serve, or a model that should be loaded is not there.
        """
        remove_abandoned()
        found = self._look()
        options = self._options
        if not found and options.mode is Mode.NONE:
            example = options.folders[0] / "mymodel" / "1" / "model.onnx"
            raise RepositoryError(
                f"the model repository {', '.join(map(str, options.folders))} is empty: "
                f"MODEL/VERSION/model.onnx is expected, for example {example}"
            )
        if options.mode is not Mode.EXPLICIT or EVERYTHING in options.load_at_start:
            self._first = found
        else:
            try:
                self._first = {name: self._named(name, found) for name in options.load_at_start}
            except ModelNotFound as error:
                raise RepositoryError(f"--load-model: {error}") from None
        for name in self._first:
            self.catalogue.announce(name, (WHOLE,))
        return list(self._first)

    def start(self) -> None:
        """Begin to load what `open` found, and go on to look for changes where the mode says so."""
        self._thread.start()

    def load_all(self) -> None:
        """Load what `open` found. Returns when everything stands or has failed."""
        self._all(self._first)
        self.catalogue.is_complete = True
        self._on_change()

    def check_control(self) -> None:
        """Raise ControlDisabled where callers may neither load nor unload."""
        if self._options.mode is not Mode.EXPLICIT:
            raise ControlDisabled(
                "models are not loaded or unloaded by callers: the server runs with --model-control-mode "
                f"{self._options.mode.value}, and this needs explicit"
            )

    def load_model(
        self,
        name: str,
        override: Override | None = None,
        repository: str = "",
        is_wanted: IsWanted = always,
    ) -> None:
        """Load or reload a model: see `ModelControl.load_model`."""
        self.check_control()
        folders = self._folders(repository)
        config = override.config if override is not None else None
        planned: Callable[[], Mapping[int, Source]]
        if override is not None and override.files:
            _check_upload(name, override)
            planned = functools.partial(_plan_upload, name, override)
        else:
            if name not in self.catalogue.known():
                self._found_in(name, folders)  # what is misspelt need not wait until a load could begin
            planned = functools.partial(self._plan_own, name, folders, config)
        loaded = OF_REPOSITORY if override is None else _OF_CALLER
        failures = self._rollout.apply(name, planned, loaded, is_wanted)
        if failures:
            reasons = (f"version {number}: {why}" if number else why for number, why in failures.items())
            raise InvalidInput(f"model {name!r} cannot be loaded: {'; '.join(reasons)}")

    def unload_model(self, name: str, repository: str = "", is_wanted: IsWanted = always) -> None:
        """Unload a model: see `ModelControl.unload_model`."""
        self.check_control()
        folders = self._folders(repository)
        if repository or name not in self.catalogue.known():
            self._found_in(name, folders)
        self._rollout.unload(name, is_wanted)

    def index(self, repository: str = "") -> Sequence[Entry]:
        """Return how every version stands: see `ModelControl.index`."""
        folders = self._folders(repository)
        try:
            found = self._look()
        except RepositoryError as error:
            _logger.warning("%s", error)  # how the models stand is told all the same
            found = {}
        entries = self.catalogue.index()
        if not repository:
            return entries
        held = {name for name, model in found.items() if model.folder.parent in folders}
        return [entry for entry in entries if entry.name in held]

    def models(self) -> Sequence[Model]:
        """Return every model that has engines, also those that answer their last requests."""
        return self._rollout.models()

    def poll(self, watch: Watch) -> None:
        """Look once, and act on the changes that are over."""
        try:
            changes = watch.compare(self._look())
        except RepositoryError as error:
            _logger.warning("%s; what is served goes on", error)
            return
        gone = [name for name, found in changes.items() if found is None]
        for name in gone:
            self._rollout.withdraw(name)
        self._all({name: found for name, found in changes.items() if found is not None})

    def close(self, timeout_seconds: float) -> bool:
        """Execute what was accepted, then close every engine; return whether nothing goes on in the end."""
        self._stop.set()
        return self._rollout.close(timeout_seconds)

    def _live(self) -> None:
        try:
            self.load_all()
            watch = Watch(self._first)
            while self._options.mode is Mode.POLL and not self._stop.wait(self._options.poll_seconds):
                self._look_again(watch)
        except ShuttingDown:
            _logger.debug("the server stopped while models were changing")
        except Exception:
            _logger.critical("the models are not looked after any more", exc_info=True)

    def _look_again(self, watch: Watch) -> None:
        try:
            self.poll(watch)
        except ShuttingDown:
            raise
        except Exception:
            _logger.exception("a look at the models failed; what is served goes on, the next one tries again")

    def _all(self, found: Mapping[str, FoundModel]) -> None:
        """Load these models beside each other."""

        def load(model: FoundModel) -> None:
            self._rollout.apply(model.name, lambda: plan(model))

        with ThreadPoolExecutor(self._options.parallel, "load") as pool:
            for _ in pool.map(load, found.values()):
                pass

    def _look(self) -> dict[str, FoundModel]:
        found = scan(self._options.folders)
        if self.catalogue.know(found):
            self._on_change()
        return found

    def _plan_own(self, name: str, folders: Sequence[Path], config: str | None) -> Mapping[int, Source]:
        return plan(self._found_in(name, folders), config)

    def _found_in(self, name: str, folders: Sequence[Path]) -> FoundModel:
        try:
            model = self._named(name, self._look())
        except RepositoryError as error:
            raise InvalidInput(f"model {name!r} cannot be loaded: {error}") from error
        if model.folder.parent not in folders:
            raise ModelNotFound(f"model {name!r} is in {model.folder.parent}, and not in {folders[0]}")
        return model

    def _named(self, name: str, found: Mapping[str, FoundModel]) -> FoundModel:
        if name not in found:
            raise self.catalogue.unknown(name)
        return found[name]

    def _folders(self, repository: str) -> tuple[Path, ...]:
        """Return the folders that a caller means. Raises NotSupported for one that is not served."""
        folders = self._options.folders
        if not repository:
            return folders
        for folder in folders:
            if repository in (str(folder), str(folder.resolve()), folder.resolve().name):
                return (folder,)
        names = " and ".join(repr(folder.resolve().name) for folder in folders)
        raise NotSupported(
            f"there is no repository {repository!r} here, and none can be added: there is {names}"
        )


def _plan_upload(name: str, override: Override) -> Mapping[int, Source]:
    """Write what a caller sent to where it is served from, now that its turn has come."""
    upload = Upload(override.files)
    return plan(read_model(name, upload.folder), override.config, upload)


def _check_upload(name: str, override: Override) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if override.config is None:
        raise InvalidInput(
            f"model {name!r}: files came without a configuration, which says that the repository's own are "
            'not meant; where there is nothing to say, it is "{}"'
        )
