"""The few functions that every protocol calls: gRPC unary calls, streams, and whatever comes beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVarTuple

from headrace_server.core.catalogue import Catalogue, Entry, IsWanted, ModelControl, Override, always
from headrace_server.core.model import Model
from headrace_server.core.request import Request, Sink, Work
from headrace_server.errors import (
    ControlDisabled,
    DeadlineMissed,
    InferenceError,
    NotSupported,
    ShuttingDown,
)

Ts = TypeVarTuple("Ts")


class Service:
    """Answers questions about models, and passes requests to the one that they name."""

    def __init__(self, catalogue: Catalogue, control: ModelControl | None = None) -> None:
        self._catalogue = catalogue
        self._control = control
        self._leaving = False
        self._stopping = False

    def prepare(
        self,
        request: Request,
        deadline: float,
        sink: Sink,
        reply: Any,
        now_ns: int,
        *,
        takes_many: bool = False,
    ) -> Work:
        """Check the request, and return the work that `submit` takes. Any thread may call it.

        `deadline` is on the monotonic clock in seconds, `now_ns` that clock in nanoseconds, `reply` the
        sink's own note of whom to answer; `takes_many` says that the caller can be given more than one
        response. Raises an InferenceError if the request is not accepted.
        """
        if self._stopping:
            raise ShuttingDown("the server is stopping")
        model = self._catalogue.find(request.model, request.version)
        try:
            if model.facts.settings.is_decoupled and not takes_many:
                raise NotSupported(
                    f"model {request.model!r} is decoupled: it is reached by streams (ModelStreamInfer) alone"
                )
            admitted = model.admission.admit(request)
            now = now_ns * 1e-9
            if admitted.terms.timeout_us:
                deadline = min(deadline, now + admitted.terms.timeout_us * 1e-6)
            if deadline <= now:
                raise DeadlineMissed("the deadline had passed when the request came")
            work = Work(model, request, admitted, deadline, sink, reply, now_ns)
            if work.rendering is not None:
                work.rendering.check(work)
        except InferenceError as error:
            model.refused(error)
            raise
        return work

    def submit(self, work: Work, again: Callable[[*Ts], Work], *arguments: *Ts, hold: bool = False) -> Work:
        """Let prepared work wait for its model, and return what waits; the answer comes through its sink.

        Another version may have taken over since the work was prepared: it gets what `again` prepares, given
        the arguments. `hold` keeps the work from the engine until `Model.release`. Raises an InferenceError
        if it is not accepted.
        """
        while True:
            refused = work.model
            try:
                refused.submit(work, hold=hold)
            except ShuttingDown:
                work = again(*arguments)
                if work.model is refused:
                    raise
            else:
                return work

    def leave(self) -> None:
        """Say from now on that the server is not ready; requests are still accepted."""
        self._leaving = True

    def stop_accepting(self) -> None:
        """Refuse new requests; those accepted are still answered."""
        self._leaving = True
        self._stopping = True

    def is_ready(self) -> bool:
        """Whether to send requests here: all is loaded, what should answer can, and no stop has begun."""
        return not self._leaving and self._catalogue.is_ready

    def is_model_ready(self, name: str, version: str) -> bool:
        """Whether this version, or any if none is named, answers; no model that is unknown does.

        Callers ask until it is there. Raises InvalidInput where the version is no number.
        """
        return not self._leaving and self._catalogue.answers(name, version)

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

    def check_control(self) -> None:
        """Raise ControlDisabled where callers may not load or unload models, ShuttingDown at the end."""
        self._controlled().check_control()

    def load_model(
        self,
        name: str,
        override: Override | None = None,
        repository: str = "",
        is_wanted: IsWanted = always,
    ) -> None:
        """Load or reload a model: see `ModelControl.load_model`. Blocks until it is done."""
        self._controlled().load_model(name, override, repository, is_wanted)

    def unload_model(self, name: str, repository: str = "", is_wanted: IsWanted = always) -> None:
        """Unload a model: see `ModelControl.unload_model`. Blocks until it is done."""
        self._controlled().unload_model(name, repository, is_wanted)

    def index(self, repository: str = "") -> Sequence[Entry]:
        """Return every version with its state: see `ModelControl.index`. Reads folders, and so may block."""
        if self._control is None:
            return self._catalogue.index()
        return self._control.index(repository)

    def _controlled(self) -> ModelControl:
        if self._stopping:
            raise ShuttingDown("the server is stopping")
        if self._control is None:
            raise ControlDisabled("models cannot be loaded or unloaded here")
        return self._control
