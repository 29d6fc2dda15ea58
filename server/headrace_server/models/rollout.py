"""Changing what a model serves while it serves: the new versions stand ready before the old ones go.

Whoever asks waits for the versions that are loaded, and never for those that are drained: these end in
threads of their own, since a request may take as long as it likes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from headrace_engines.errors import EngineError
from headrace_engines.memory import give_back
from headrace_engines.printable import printable
from headrace_server.core.catalogue import IsWanted, always
from headrace_server.core.model import Model
from headrace_server.errors import ShuttingDown
from headrace_server.models import long_loads
from headrace_server.models.catalogue import OF_REPOSITORY, WHOLE, ModelCatalogue
from headrace_server.models.model_config_problems import ConfigError
from headrace_server.models.plan import PlanError, Source
from headrace_server.models.rebuilds import Rebuilds
from headrace_server.models.turns import LOOK_SECONDS, Turns
from headrace_server.models.versions import LoadOptions, Version, open_version

_logger = logging.getLogger(__name__)
_STOPPING: Final = "the server is stopping"
_REFUSED: Final = (
    "the plan that was rebuilt could not be loaded beside it; "
    "unload and load the model to have the plan loaded alone"
)


class Rollout:
    """The versions that serve, by model, and the way from these to others. Any thread may call it.

    Changes of one model come one after the other; at most `parallel` models are loaded at a time.
    """

    def __init__(
        self, catalogue: ModelCatalogue, options: LoadOptions, parallel: int, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called, from any thread, whenever the state of a version has changed."""
        self._catalogue = catalogue
        self._options = options
        self._parallel = parallel
        self._turns = Turns(parallel)
        self._on_change = on_change
        self._lock = threading.Lock()
        self._serving: dict[str, dict[int, Version]] = {}
        self._draining: set[Version] = set()
        self._loading = 0
        self._closing = False
        self._rebuilds = Rebuilds(options.replanner, self.renew) if options.replanner else None

    def apply(
        self,
        name: str,
        planned: Callable[[], Mapping[int, Source]],
        loaded: str = OF_REPOSITORY,
        is_wanted: IsWanted = always,
    ) -> dict[int, str]:
        """Make the model serve the planned versions; return the reasons of those that cannot be loaded.

        What serves and is unchanged stays. What is no longer wanted goes when everything new is ready, so
        that a failure leaves it serving. `planned` is called when the model's turn has come and it may be
        loaded, so that the last to ask sees the newest state; `loaded` says in words where it comes from.
        Raises what `planned` raises but for what is wrong with the model, ShuttingDown if the end of the
        server comes between, and DeadlineMissed if it is not wanted any more when its turn comes.
        """
        with self._turns.place(name, is_wanted):
            standing = self._serving.get(name, {})
            try:
                sources = planned()
            except (PlanError, ConfigError) as error:
                reason = printable(str(error))
                _logger.error("model %s is not served as it stands: %s", name, reason)  # noqa: TRY400  # it says all
                self._swap(name, standing, failures := {WHOLE: reason}, loaded)
                return failures
            kept = {
                number: standing[number]
                for number, source in sources.items()
                if number in standing and standing[number].is_from(source.origin)
            }
            wanted = [source for number, source in sources.items() if number not in kept]
            self._tell_loading(name, wanted)
            opened, failures = self._open(name, wanted)
            serving = {**(standing if failures else kept), **opened}
            self._swap(name, serving, failures, loaded)
            if wanted:
                give_back()
            if self._rebuilds is not None:
                for version in opened.values():
                    self._rebuilds.ask(version)
            return failures

    def renew(self, name: str, version: Version) -> Version | None:
        """Load a version again from the same files, since there is something better to serve it with.

        Returns what serves in its place. None if it serves no more, or its files are others by now; or it
        goes on serving, since the load failed or ended at another file than a rebuilt plan. Raises
        ShuttingDown if the end of the server comes between.
        """
        with self._turns.place(name, always):
            standing = self._serving.get(name, {})
            source = version.again() if standing.get(version.number) is version else None
            if source is None:
                return None
            outcome = self._load(name, source)
            if not isinstance(outcome, Version):
                level = _level(outcome)
                _logger.log(level, "model %s version %d serves as before: %s", name, version.number, outcome)
                return None
            if not outcome.is_rebuilt:  # what serves may hold the memory that all the better ones need
                outcome.close()
                outcome.join()
                give_back()
                _logger.warning("model %s version %d serves as before: %s", name, version.number, _REFUSED)
                return None
            old = self._exchange(name, {**standing, version.number: outcome})
            self._catalogue.renewed(outcome.model)
            self._on_change()
            for one in old:
                self._drain(one)
            give_back()
            return outcome

    def withdraw(self, name: str, is_wanted: IsWanted = always) -> list[threading.Thread]:
        """Let no version of the model answer; return the threads that end with its last answers.

        Raises DeadlineMissed if it is not wanted any more when its turn comes.
        """
        with self._turns.turn(name, is_wanted):
            return self._swap(name, {}, {})

    def unload(self, name: str, is_wanted: IsWanted) -> None:
        """Withdraw the model, and wait for its last answers while that is wanted. Raises DeadlineMissed."""
        for thread in self.withdraw(name, is_wanted):
            while thread.is_alive() and is_wanted():
                thread.join(LOOK_SECONDS)

    def models(self) -> list[Model]:
        """Return every model that has engines, also those that answer their last requests."""
        with self._lock:
            serving = [version for one in self._serving.values() for version in one.values()]
            return [version.model for version in (*serving, *self._draining)]

    def close(self, timeout_seconds: float) -> bool:
        """Execute what was accepted, then close every engine; return whether nothing goes on in the end."""
        give_up = time.monotonic() + timeout_seconds
        if self._rebuilds is not None:
            self._rebuilds.close()
        with self._lock:
            self._closing = True
            versions = [version for one in self._serving.values() for version in one.values()]
            versions += self._draining
        for version in versions:
            version.close()
        late = [one for one in versions if not one.join(max(0.0, give_up - time.monotonic()))]
        if late:
            names = ", ".join(sorted(f"{one.model.facts.name} version {one.number}" for one in late))
            _logger.warning("not finished in %.1f s: %s", timeout_seconds, names)
        with self._lock:
            return not late and not self._loading

    def _tell_loading(self, name: str, wanted: Iterable[Source]) -> None:
        self._catalogue.announce(name, [source.number for source in wanted])
        self._on_change()

    def _open(self, name: str, wanted: Iterable[Source]) -> tuple[dict[int, Version], dict[int, str]]:
        opened: dict[int, Version] = {}
        failures: dict[int, str] = {}
        for source in wanted:
            outcome = self._load(name, source)
            if isinstance(outcome, Version):
                opened[source.number] = outcome
            else:
                level = _level(outcome)
                _logger.log(level, "model %s version %d is not served: %s", name, source.number, outcome)
                failures[source.number] = outcome
        return opened, failures

    def _load(self, name: str, source: Source) -> Version | str:
        """Return the version, or why it cannot be loaded."""
        with self._lock:
            if self._closing:
                return _STOPPING
            self._loading += 1
        try:
            with long_loads.watched(name, source.number, self._parallel):
                return open_version(name, source, self._options, self._model_lost)
        except (EngineError, ConfigError) as error:
            reason = str(error)
        except BaseException as error:  # whatever a library or a program does must not stop the others
            _logger.exception("model %s version %d: unexpected error", name, source.number)
            reason = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._loading -= 1
        return printable(reason)

    def _swap(
        self,
        name: str,
        serving: dict[int, Version],
        failures: Mapping[int, str],
        loaded: str = OF_REPOSITORY,
    ) -> list[threading.Thread]:
        """Let these versions answer, and drain those that did until now."""
        old = self._exchange(name, serving)
        models = {number: version.model for number, version in serving.items()}
        self._catalogue.serve(name, models, failures, loaded)
        self._on_change()
        return [self._drain(version) for version in old]

    def _exchange(self, name: str, serving: dict[int, Version]) -> list[Version]:
        """Note that these versions serve; return those to be drained. Closes them for ShuttingDown."""
        with self._lock:
            before = self._serving.get(name, {})
            old = [version for version in before.values() if version not in serving.values()]
            is_late = self._closing
            if not is_late:
                self._draining.update(old)
                self._serving.pop(name, None)
                if serving:
                    self._serving[name] = serving
        if is_late:
            for version in serving.values():
                version.close()
            raise ShuttingDown(_STOPPING)
        return old

    def _drain(self, version: Version) -> threading.Thread:
        version.close()
        facts = version.model.facts

        def end() -> None:
            version.join()
            give_back()
            with self._lock:
                self._draining.discard(version)
            self._catalogue.drained(version.model)
            _logger.info("model %s version %s is unloaded", facts.name, facts.version)
            self._on_change()

        thread = threading.Thread(target=end, name=f"drain-{facts.name}-{facts.version}", daemon=True)
        thread.start()
        return thread

    def _model_lost(self) -> None:
        self._catalogue.note_loss()
        self._on_change()


def _level(failure: str) -> int:
    """How loudly a load that failed is told of."""
    # A stop is no fault: what it leaves out may be told after "stopped", and is nobody's error.
    return logging.DEBUG if failure == _STOPPING else logging.ERROR
