"""Which requests are traced: one in so many, for the whole server or with settings of a model's own.

A model of which nothing is traced has no tracer. Each set of settings in force counts the requests that it
sees in a sampler of its own: the server's is shared by all models that have no settings.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from headrace_server.core.catalogue import Catalogue
from headrace_server.core.request import Work
from headrace_server.core.statistics import Execution
from headrace_server.errors import InvalidInput, ModelNotReady
from headrace_server.telemetry.trace_file import Trace, TraceFileError, TraceWriter
from headrace_server.telemetry.trace_settings import (
    FILE,
    MODE,
    THE_MODE,
    TIMESTAMPS,
    Change,
    TraceSettings,
    parse,
)

Put = Callable[[list[Trace], int], None]
"""Takes finished traces, and how many go into one file of a series."""

_MOST_ID_CHARACTERS: Final = 1024
"""A request's id may be of any length, and in JSON each of its characters may take six."""
_SERVER: Final = ""
"""The place of the server's settings among those of the models."""


class Sampler:
    """Picks requests and hands their traces to the writer, as one set of settings says."""

    def __init__(self, settings: TraceSettings, put: Put, numbers: Iterator[int]) -> None:
        self._settings = settings
        self._put = put
        self._numbers = numbers
        self._lock = threading.Lock()
        self._seen = 0
        self._left = settings.trace_count

    @property
    def settings(self) -> TraceSettings:
        """The settings, with the count of traces that are still to be made."""
        return replace(self._settings, trace_count=self._left)

    def executed(self, works: Sequence[Work], execution: Execution) -> None:
        """Trace those of the requests whose turn it is."""
        picked = self._pick(works)
        if picked:
            traces = [_trace(work, execution, next(self._numbers)) for work in picked]
            self._put(traces, self._settings.log_frequency)

    def _pick(self, works: Sequence[Work]) -> Sequence[Work]:
        rate = self._settings.trace_rate
        with self._lock:
            picked = works[rate - 1 - self._seen % rate :: rate]
            self._seen += len(works)
            if self._left >= 0:
                picked = picked[: self._left]
                self._left -= len(picked)
        return picked


class Tracing:
    """The settings of the server and of single models, and the samplers that follow them."""

    def __init__(self, catalogue: Catalogue, defaults: TraceSettings, writer: TraceWriter | None) -> None:
        """Without a writer nothing can be traced."""
        self._catalogue = catalogue
        self._defaults = defaults
        self._writer = writer
        self._numbers = itertools.count(time.time_ns() // 1000)  # two runs that write to one file differ
        self._lock = threading.Lock()
        self._given: dict[str, dict[str, Change]] = {}
        self._samplers: dict[str, Sampler] = {}

    def start(self) -> None:
        """Open the file, if there is one, and begin to trace. Raises TraceFileError."""
        if self._writer is not None:
            self._writer.start()
        elif self._defaults.is_on:
            raise TraceFileError("--trace-level TIMESTAMPS needs --trace-file as well")
        with self._lock:
            self._renew()

    def close(self, timeout_seconds: float) -> None:
        """Write what was traced, for so long at most."""
        if self._writer is not None:
            self._writer.close(timeout_seconds)

    def attach(self) -> None:
        """Give every model that is ready the sampler that is its own now, and forget those that went."""
        with self._lock:
            if self._given.keys() - {_SERVER}:
                known = {entry.name for entry in self._catalogue.index()}
                for place in self._given.keys() - known - {_SERVER}:
                    del self._given[place], self._samplers[place]
            self._attach()

    def _attach(self) -> None:
        for model in self._catalogue.ready():
            sampler = self._samplers.get(model.facts.name, self._samplers[_SERVER])
            model.tracer = sampler if sampler.settings.is_on else None

    def settings(self, model: str) -> Mapping[str, Sequence[str]]:
        """Return the settings in force for a model, or for the server if none is named.

        Raises ModelNotFound.
        """
        self._check_model(model)
        settings = asdict(self._samplers.get(model, self._samplers[_SERVER]).settings)
        file = "" if self._writer is None else str(self._writer.path)
        return {name: (str(value),) for name, value in (settings | {FILE: file, MODE: THE_MODE}).items()}

    def change(self, model: str, values: Mapping[str, Sequence[str]]) -> None:
        """Change settings of a model, or of the server, at once; those without texts are cleared.

        What a model has no setting for follows the server's, and that the command line's. Raises
        ModelNotFound, InvalidInput, or NotSupported for what cannot be changed; nothing has changed then.
        """
        self._check_model(model)
        changes = parse(values)
        if not changes:
            return
        with self._lock:
            self._note_what_is_left()
            given = self._given.get(model, {}) | changes
            self._check_file(given)
            self._given[model] = {name: value for name, value in given.items() if value is not None}
            if not self._given[model]:
                del self._given[model]
            self._renew()

    def _check_model(self, name: str) -> None:
        if name:
            with contextlib.suppress(ModelNotReady):
                self._catalogue.find(name, "")

    def _check_file(self, given: Mapping[str, Change]) -> None:
        if self._writer is None and given.get("trace_level") == TIMESTAMPS:
            raise InvalidInput(
                "trace_level: TIMESTAMPS came, and there is no file for traces: the server was started "
                "without --trace-file"
            )

    def _note_what_is_left(self) -> None:
        for place, given in self._given.items():
            if "trace_count" in given:
                given["trace_count"] = self._samplers[place].settings.trace_count

    def _renew(self) -> None:
        put = _nowhere if self._writer is None else self._writer.put
        self._samplers = {
            place: Sampler(self._in_force(place), put, self._numbers) for place in (_SERVER, *self._given)
        }
        self._attach()

    def _in_force(self, place: str) -> TraceSettings:
        given: dict[str, Any] = self._given.get(_SERVER, {}) | self._given.get(place, {})
        return replace(self._defaults, **given)


def _nowhere(traces: list[Trace], log_frequency: int) -> None:
    """Stand in for a writer where nothing is traced."""


def _trace(work: Work, execution: Execution, number: int) -> Trace:
    facts = work.model.facts
    moments = (
        ("REQUEST_START", work.queued_ns),
        ("QUEUE_START", work.queued_ns),
        ("COMPUTE_START", execution.begun_ns),
        ("COMPUTE_INPUT_END", execution.started_ns),
        ("COMPUTE_OUTPUT_START", execution.computed_ns),
        ("COMPUTE_END", execution.ended_ns),
        ("REQUEST_END", execution.ended_ns),
    )
    return Trace(number, facts.name, facts.version, work.id[:_MOST_ID_CHARACTERS], moments)
