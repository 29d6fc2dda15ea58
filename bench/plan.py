"""What is to be measured, and in which steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.load import GENERATOR, Loader, Traffic
from bench.models import Network
from bench.report import Mode
from bench.servers import Kind, traffic

CORE_BATCHES: Final = (1, 8, 32, 64)
_CORE_ENGINES: Final = 2
_LARGEST_BYTES: Final = 4 << 20
"""Requests of more are left out: gRPC refuses them unless it is told not to."""


@dataclass(frozen=True, slots=True)
class Step:
    """Servers that take turns under one load: the lines of a table that stand together.

    The `load` of an open loop is a share of what the slowest server answers in the closed loop.
    """

    model: Network
    kinds: Sequence[Kind]
    mode: Mode
    load: float
    loader: Loader
    rows: int = 1

    def __str__(self) -> str:
        rows = f", {self.rows} rows a request" if self.rows > 1 else ""
        return f"{self.model.name}, {self.mode} by {self.loader.name}{rows}, {self.load:g}"

    def traffic(self, kind: Kind) -> Traffic:
        """Return what that server is sent."""
        return traffic(kind, self.model, self.rows, is_stream=self.mode is Mode.STREAM)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `rates` are shares of the slowest gRPC server's closed-loop capacity."""

    models: Sequence[Network]
    kinds: Sequence[Kind]
    loaders: Sequence[Loader]
    in_flight: Sequence[int]
    rows: Sequence[int]
    stream_in_flight: Sequence[int]
    rates: Sequence[float]
    repeats: int
    seconds: float
    with_core: bool

    @property
    def runs(self) -> int:
        """How many times a server is loaded in all."""
        return self.repeats * sum(len(step.kinds) for model in self.models for step in self.steps(model))

    @property
    def core_runs(self) -> int:
        """How many times the core is measured in all."""
        core = len(CORE_BATCHES) * _CORE_ENGINES if self.with_core else 0
        return self.repeats * len(self.models) * core

    def steps(self, model: Network) -> Iterator[Step]:
        """Return the steps of a model in their order; each with the servers that it is possible for."""
        for rows, loader, load in itertools.product(self.rows, self.loaders, self.in_flight):
            yield from self._possible(Step(model, self.kinds, Mode.CLOSED, load, loader, rows))
        streaming = [kind for kind in self.kinds if kind.has_streams]
        for loader, load in itertools.product(
            dict.fromkeys((GENERATOR, *self.loaders)), self.stream_in_flight
        ):
            yield from self._possible(Step(model, streaming, Mode.STREAM, load, loader))
        for rate in self.rates:
            yield from self._possible(Step(model, self.kinds, Mode.OPEN, rate, GENERATOR))

    def _possible(self, step: Step) -> Iterator[Step]:
        possible = []
        for kind in step.kinds:
            sent = step.traffic(kind)
            if sent.body_bytes <= _LARGEST_BYTES and step.loader.can_load(sent):
                possible.append(kind)
        if possible:
            yield Step(step.model, possible, step.mode, step.load, step.loader, step.rows)
