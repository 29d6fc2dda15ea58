"""The few functions that every protocol calls: gRPC unary calls, streams, and whatever comes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace_server.core.catalogue import Catalogue, Entry
from headrace_server.core.model import Model
from headrace_server.core.request import Request, Sink, Work
from headrace_server.errors import DeadlineMissed, ModelNotReady, ShuttingDown


class Service:
    """Answers questions about models, and passes requests to the one that they name."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._leaving = False
        self._stopping = False

    def infer(
        self, request: Request, deadline: float, sink: Sink, reply: Any, now_ns: int, *, hold: bool = False
    ) -> Work:
        """Check the request and let it wait for its model; the answer comes through `sink`.

        `deadline` is on the monotonic clock in seconds, `now_ns` that clock in nanoseconds, `reply` the
        sink's own note of whom to answer; `hold` keeps the request from the engine until `Model.release`.
        Raises an InferenceError if the request is not accepted.
        """
        if self._stopping:
            raise ShuttingDown("the server is stopping")
        model = self._catalogue.find(request.model, request.version)
        rows, data, shapes, wanted, timeout_us = model.admission.admit(request)
        now = now_ns * 1e-9
        if timeout_us:
            deadline = min(deadline, now + timeout_us * 1e-6)
        if deadline <= now:
            raise DeadlineMissed("the deadline had passed when the request came")
        work = Work(model, request.id, rows, data, shapes, wanted, deadline, sink, reply, now_ns)
        model.submit(work, hold=hold)
        return work

    def leave(self) -> None:
        """Say from now on that the server is not ready; requests are still accepted."""
        self._leaving = True

    def stop_accepting(self) -> None:
        """Refuse new requests; those accepted are still answered."""
        self._leaving = True
        self._stopping = True

    def is_ready(self) -> bool:
        """Whether to send requests here: all is loaded, something can answer, and no stop has begun."""
        return not self._leaving and self._catalogue.complete and bool(self._catalogue.ready())

    def is_model_ready(self, name: str, version: str) -> bool:
        """Whether this version, or any if none is named, answers. Raises ModelNotFound, InvalidInput."""
        if self._leaving:
            return False
        try:
            return self._catalogue.find(name, version).lost is None
        except ModelNotReady:
            return False

    def model(self, name: str, version: str) -> Model:
        """Return the model that would answer. Raises as `Catalogue.find` does."""
        return self._catalogue.find(name, version)

    def models(self, name: str, version: str) -> Sequence[Model]:
        """Return the models that are ready: all, or those of a name, or one version."""
        if version:
            return [self._catalogue.find(name, version)]
        ready = self._catalogue.ready()
        if not name:
            return ready
        self._catalogue.find(name, "")
        return [model for model in ready if model.facts.name == name]

    def index(self) -> Sequence[Entry]:
        """Return every version in the repository with its state."""
        return self._catalogue.index()
