"""The catalogue of the models in a repository: loads them, finds them, closes them."""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace_engines.errors import EngineError
from headrace_engines.load import load
from headrace_server.core.catalogue import Entry, ModelState
from headrace_server.core.model import Limits, Model
from headrace_server.core.worker import Worker
from headrace_server.errors import InvalidInput, ModelNotFound, ModelNotReady
from headrace_server.models.layout import Found, is_version, scan
from headrace_server.models.warmup import warm_up

_logger = logging.getLogger(__name__)

_MOST_NAME_CHARACTERS = 256
"""Looking for near names costs time that grows with their length."""


class Repository:
    """Implements `core.catalogue.Catalogue` over a folder. Loading may happen in several threads."""

    def __init__(
        self, folder: Path, max_batch_size: int, limits: Limits, on_change: Callable[[], None] = lambda: None
    ) -> None:
        """`on_change` is called, from any thread, when a model is lost."""
        self._folder = folder
        self._max_batch_size = max_batch_size
        self._limits = limits
        self._on_change = on_change
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self._workers: list[Worker] = []

    def scan(self) -> list[Found]:
        """Read the folder, and list what it holds as loading. Raises RepositoryError."""
        found = scan(self._folder)
        with self._lock:
            for model in found:
                self._entries[model.name] = Entry(model.name, model.version, ModelState.LOADING)
        return found

    def load(self, found: Found) -> None:
        """Make one model ready; if that fails, its entry says why, and everything else goes on."""
        begun = time.monotonic()
        try:
            model = self._load(found)
        except EngineError as error:
            self._refuse(found, str(error))
        except Exception as error:  # whatever a library makes of a broken file must not stop the others
            _logger.exception("model %s: unexpected error", found.name)
            self._refuse(found, f"{type(error).__name__}: {error}")
        else:
            with self._lock:
                self._models = {**self._models, (found.name, ""): model, (found.name, found.version): model}
                self._entries[found.name] = Entry(found.name, found.version, ModelState.READY)
            seconds = time.monotonic() - begun
            _logger.info("model %s version %s is ready after %.2f s", found.name, found.version, seconds)

    def find(self, name: str, version: str) -> Model:
        """Return the model that answers: see `Catalogue.find`."""
        model = self._models.get((name, version))
        if model is None:
            raise self._not_found(name, version)
        return model

    def ready(self) -> Sequence[Model]:
        """Return every version that answers."""
        models = self._models
        return [models[key] for key in sorted(models) if key[1] and models[key].lost is None]

    def index(self) -> Sequence[Entry]:
        """Return every model with its state."""
        with self._lock:
            entries = sorted(self._entries.values(), key=lambda entry: entry.name)
        return [self._as_it_stands(entry) for entry in entries]

    @property
    def complete(self) -> bool:
        """Whether everything has been loaded or has failed to."""
        with self._lock:
            return all(entry.state is not ModelState.LOADING for entry in self._entries.values())

    def close(self, timeout_seconds: float) -> bool:
        """Execute what was accepted, then close every engine; return whether all were closed in time."""
        for model in set(self._models.values()):
            model.close(drain=True)
        give_up = time.monotonic() + timeout_seconds
        in_time = [worker.join(max(0.0, give_up - time.monotonic())) for worker in self._workers]
        if not all(in_time):
            _logger.warning("%d engines did not finish in %.1f s", in_time.count(False), timeout_seconds)
        return all(in_time)

    def _load(self, found: Found) -> Model:
        if found.problem:
            raise EngineError(found.problem)
        loaded = load(found.folder, max_batch_size=self._max_batch_size)
        engine = loaded.engine
        for line in loaded.why:
            _logger.info("model %s version %s: %s", found.name, found.version, line)
        try:
            warm_up(loaded.engine)
            engine = loaded.engine
            model = Model(
                found.name, found.version, engine.spec, engine.platform, self._limits, self._on_change
            )
            worker = Worker(model, engine)
        except BaseException:
            loaded.engine.close()
            raise
        with self._lock:
            self._workers.append(worker)
        worker.start()
        return model

    def _refuse(self, found: Found, reason: str) -> None:
        _logger.error("model %s is not served: %s", found.name, reason)
        with self._lock:
            self._entries[found.name] = Entry(found.name, found.version, ModelState.UNAVAILABLE, reason)

    def _as_it_stands(self, entry: Entry) -> Entry:
        model = self._models.get((entry.name, entry.version))
        if model is None or model.lost is None:
            return entry
        return Entry(entry.name, entry.version, ModelState.UNAVAILABLE, model.lost)

    def _not_found(self, name: str, version: str) -> Exception:
        if version and not is_version(version):
            return InvalidInput(f"model version {version!r} came, a whole number from 1 expected")
        with self._lock:
            entry = self._entries.get(name)
            known = list(self._entries)
        if entry is None:
            near = difflib.get_close_matches(name[:_MOST_NAME_CHARACTERS], known, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            return ModelNotFound(f"there is no model {name!r}{hint}")
        if version and version != entry.version:
            return ModelNotFound(f"model {name!r} has no version {version!r}; {entry.version!r} is served")
        if entry.state is ModelState.LOADING:
            return ModelNotReady(f"model {name!r} is being loaded")
        return ModelNotReady(f"model {name!r} is not served: {entry.reason}")
