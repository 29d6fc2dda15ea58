"""Finding a model for a request, and saying how every version stands.

Finding reads one dictionary that is never changed, only replaced: it needs no lock, and sees each change
of a model whole.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace_engines.near import near
from headrace_server.core.catalogue import UNLOADED, Entry, ModelState
from headrace_server.core.model import Model
from headrace_server.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady
from headrace_server.models.layout import FoundModel, is_number

WHOLE: Final = 0
"""Stands for the version where something is said of a model as a whole."""
OF_REPOSITORY: Final = "what the repository holds now"
"""What was loaded, in the words that tell of its failure."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """How a version stands; `model` is what answers, or answers the last of its requests."""

    state: ModelState
    reason: str = ""
    model: Model | None = None


class ModelCatalogue:
    """Implements `core.catalogue.Catalogue`. Any thread may call it."""

    def __init__(self, *, may_be_empty: bool) -> None:
        """`may_be_empty` says that a server without models is as it should be."""
        self._may_be_empty = may_be_empty
        self._lock = threading.Lock()
        self._models: Mapping[tuple[str, str], Model] = {}
        self._standings: dict[str, dict[int, _Standing]] = {}
        self._found: Mapping[str, FoundModel] = {}
        self.is_complete = False
        """Whether everything that is loaded at the start was, or failed to be."""

    def find(self, name: str, version: str) -> Model:
        """Return the model that answers: see `Catalogue.find`."""
        model = self._models.get((name, version))
        if model is None:
            raise self._not_found(name, version)
        return model

    def answers(self, name: str, version: str) -> bool:
        """Whether `find` would return a model that can answer: see `Catalogue.answers`."""
        model = self._models.get((name, version))
        if model is None:
            _check_version(version)
            return False
        return model.lost is None

    def ready(self) -> Sequence[Model]:
        """Return every version that answers, ordered by name and number."""
        models = [model for (_, version), model in self._models.items() if version and model.lost is None]
        return sorted(models, key=lambda model: (model.facts.name, int(model.facts.version)))

    def index(self) -> Sequence[Entry]:
        """Return how every version stands, and the names of the models that nothing has asked for."""
        with self._lock:
            standings = {name: dict(versions) for name, versions in self._standings.items()}
            names = sorted({*self._found, *standings})
        return [entry for name in names for entry in _entries(name, standings.get(name, {}))]

    @property
    def is_ready(self) -> bool:
        """Whether the first loads are over, and what should answer does."""
        if not self.is_complete:
            return False
        models = self._models.values()
        return any(model.lost is None for model in models) or (self._may_be_empty and not models)

    def know(self, found: Mapping[str, FoundModel]) -> bool:
        """Take note of what the repositories hold; forget what neither they hold nor anybody serves.

        Returns whether a model was forgotten.
        """
        with self._lock:
            before = {*self._found, *self._standings}
            self._found = found
            for name in list(self._standings):
                there = found[name].versions if name in found else ()
                kept = {
                    number: standing
                    for number, standing in self._standings[name].items()
                    if standing.state is not ModelState.UNAVAILABLE
                    or (number in there if number else name in found)
                }
                self._put(name, kept)
            return not before <= {*found, *self._standings}

    def announce(self, name: str, numbers: Iterable[int]) -> None:
        """Say that these versions are being loaded; one that serves already goes on to be ready."""
        with self._lock:
            standings = self._of(name)
            for number in numbers:
                if number not in standings or standings[number].state is not ModelState.READY:
                    standings[number] = _Standing(ModelState.LOADING)
            self._put(name, standings)

    def serve(
        self, name: str, models: Mapping[int, Model], failures: Mapping[int, str], loaded: str = OF_REPOSITORY
    ) -> None:
        """Let these versions answer from now on, and no other ones; say why those that failed did.

        `loaded` says in words what failed, where it was anything else than the repository's.

        Versions that answered until now are to be drained by the caller, who then tells `drained`.
        """
        with self._lock:
            standings = self._of(name)
            for number, standing in standings.items():
                if standing.state is ModelState.READY and number not in models:
                    standings[number] = _Standing(ModelState.UNLOADING, model=standing.model)
            for number, model in models.items():
                standings[number] = _Standing(ModelState.READY, model=model)
            standings.pop(WHOLE, None)
            for number, reason in failures.items():
                for concerned in models if number == WHOLE and models else (number,):
                    standings[concerned] = _failed(standings.get(concerned), reason, loaded)
            self._put(name, standings)
            self._publish()

    def renewed(self, model: Model) -> None:
        """Let this model answer for its version, which answered until now; all that was told stands."""
        name, number = model.facts.name, int(model.facts.version)
        with self._lock:
            standings = self._of(name)
            standings[number] = replace(standings[number], model=model)
            self._put(name, standings)
            self._publish()

    def drained(self, model: Model) -> None:
        """Say that a model which answers no more has answered its last request."""
        name, number = model.facts.name, int(model.facts.version)
        with self._lock:
            standings = self._of(name)
            standing = standings.get(number)
            if standing is not None and standing.model is model and standing.state is ModelState.UNLOADING:
                standings[number] = _Standing(ModelState.UNAVAILABLE, UNLOADED)
                self._put(name, standings)

    def note_loss(self) -> None:
        """Let another version answer for one whose device is gone."""
        with self._lock:
            self._publish()

    def known(self) -> Collection[str]:
        """Return the names of all models."""
        with self._lock:
            return {*self._found, *self._standings}

    def unknown(self, name: str) -> ModelNotFound:
        """Return the error for a name that no model has, with those that are near it."""
        if not name:
            return ModelNotFound("the request names no model")
        meant = near(name, self.known(), 3)
        hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
        return ModelNotFound(f"there is no model {name!r}{hint}")

    def _of(self, name: str) -> dict[int, _Standing]:
        return dict(self._standings.get(name, {}))

    def _put(self, name: str, standings: dict[int, _Standing]) -> None:
        if standings:
            self._standings[name] = standings
        else:
            self._standings.pop(name, None)

    def _publish(self) -> None:
        models: dict[tuple[str, str], Model] = {}
        for name, standings in self._standings.items():
            serving = [
                standings[number].model
                for number in sorted(standings)
                if standings[number].state is ModelState.READY
            ]
            # Ascending, so that the newest one wins; one that is lost answers only where no other can.
            for model in sorted(filter(None, serving), key=lambda model: model.lost is None):
                models[name, model.facts.version] = models[name, ""] = model
        self._models = models

    def _not_found(self, name: str, version: str) -> InferenceError:
        _check_version(version)
        with self._lock:
            standings = {str(number or ""): one for number, one in self._of(name).items()}
            is_known = name in self._found or bool(standings)
        if not is_known:
            return self.unknown(name)
        if not standings:
            return ModelNotReady(f"model {name!r} is not loaded")
        if version and "" not in standings and version not in standings:
            return ModelNotFound(f"model {name!r} has no version {version!r}; {_served(standings)}")
        return _not_ready(name, version, standings)


def _check_version(version: str) -> None:
    if version and not is_number(version):
        raise InvalidInput(f"model version {version!r} came, a whole number from 1 expected")


def _entries(name: str, standings: Mapping[int, _Standing]) -> list[Entry]:
    if not standings:
        return [Entry(name, "", ModelState.NOT_LOADED)]
    entries = []
    for number, standing in sorted(standings.items()):
        state, reason = standing.state, standing.reason
        if state is ModelState.READY and standing.model is not None and standing.model.lost is not None:
            state, reason = ModelState.UNAVAILABLE, standing.model.lost
        entries.append(Entry(name, str(number or ""), state, reason))
    return entries


def _failed(standing: _Standing | None, reason: str, loaded: str) -> _Standing:
    """Return how a version stands after a load that failed: what it was loaded as before goes on serving."""
    if standing is None or standing.state is not ModelState.READY:
        return _Standing(ModelState.UNAVAILABLE, reason)
    told = f"serves as it was loaded before; {loaded} failed: {reason}"
    return _Standing(ModelState.READY, told, standing.model)


def _served(standings: Mapping[str, _Standing]) -> str:
    served = [repr(number) for number, one in standings.items() if one.state is ModelState.READY]
    return f"{' and '.join(served) or 'none'} {'are' if len(served) > 1 else 'is'} served"


def _not_ready(name: str, version: str, standings: Mapping[str, _Standing]) -> ModelNotReady:
    """Say how the version stands, or all of them if none is named."""
    told = {number: one for number, one in standings.items() if number == version} or standings
    what = f"model {name!r} version {version}" if version in told and version else f"model {name!r}"
    states = {one.state for one in told.values()}
    if ModelState.LOADING in states:
        return ModelNotReady(f"{what} is being loaded")
    if ModelState.UNLOADING in states:
        return ModelNotReady(f"{what} is being unloaded")
    reasons = {number: one.reason for number, one in told.items()}
    if len(reasons) == 1:
        return ModelNotReady(f"{what} is not served: {next(iter(reasons.values()))}")
    listed = "; ".join(f"version {number}: {reason}" for number, reason in reasons.items())
    return ModelNotReady(f"{what} is not served: {listed}")
