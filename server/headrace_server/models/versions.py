"""The life of one version: loaded and warmed up beside whatever serves, then serving, then drained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from headrace_engines.engine import Engine
from headrace_engines.load import Loaded
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.renewal import with_renewal
from headrace_engines.steps import StepEngine
from headrace_server.core.model import Limits, Model
from headrace_server.core.workers import EngineWorker, worker_for
from headrace_server.models.effective import effective
from headrace_server.models.layout import read_model
from headrace_server.models.model_config import GivenConfig
from headrace_server.models.plan import Origin, Source
from headrace_server.models.settlement import load_declared, settle
from headrace_server.models.warmup import warm_up

if TYPE_CHECKING:
    from headrace_engines.plan_order import PlanOrder
    from headrace_engines.replan import Replanner

_logger = logging.getLogger(__name__)

AnyEngine: TypeAlias = Engine | StepEngine


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the server allows every model."""

    max_batch_size: int = 64
    limits: Limits = Limits()
    allow_python: bool = False
    machine: Machine = THIS_MACHINE
    replanner: Replanner | None = None
    """Builds plans that fit this machine, where none does."""


class Version:
    """A version that is served: its model, and the threads that execute it."""

    def __init__(
        self,
        source: Source,
        model: Model,
        workers: list[EngineWorker],
        rebuilds: tuple[PlanOrder, ...] = (),
        *,
        is_rebuilt: bool = False,
    ) -> None:
        """`rebuilds` are plans that would serve better and can be built, best first.

        `is_rebuilt` says that a plan serves which this machine has built.
        """
        self.number = source.number
        self.model = model
        self.rebuilds = rebuilds
        self.is_rebuilt = is_rebuilt
        self._source: Source | None = source
        self._workers = workers
        for worker in workers:
            worker.start()

    def again(self) -> Source | None:
        """Return what the version was loaded from, if the files there are still the same."""
        source = self._source
        if source is None or not self.is_from(source.origin):
            return None
        found = read_model(self.model.facts.name, source.folder.parent).versions.get(source.number)
        return source if found is not None and found.stamp == source.origin.version else None

    def is_from(self, origin: Origin) -> bool:
        """Whether this is what would be loaded from there, and still answers."""
        return self._source is not None and self._source.origin == origin and self.model.lost is None

    def close(self) -> None:
        """Accept nothing more; what was accepted is still executed."""
        self.model.close(drain=True)

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until everything is answered and the engines are closed; return whether they are."""
        give_up = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for worker in self._workers:
            if not worker.join(None if give_up is None else max(0.0, give_up - time.monotonic())):
                return False
        self._source = None  # and with it the files that nobody else serves from
        return True


def open_version(name: str, source: Source, options: LoadOptions, on_lost: Callable[[], None]) -> Version:
    """Load a version, execute it for the first times, and have it wait for requests.

    Takes seconds. Raises EngineError, ConfigError, or whatever a library makes of a broken file.
    """
    begun = time.monotonic()
    version = str(source.number)
    given = source.given
    loaded = load_declared(
        source.folder,
        given,
        max_batch_size=options.max_batch_size,
        allow_python=options.allow_python and source.upload is None,
        machine=options.machine,
        replanner=options.replanner,
    )
    for line in [line for line in loaded.why if line not in loaded.warned]:
        _logger.info("model %s version %s: %s", name, version, line)
    with ExitStack() as unfinished:
        unfinished.callback(loaded.close)
        given = settle(given, loaded.engine)
        engines = _instances(loaded, unfinished)
        for engine in engines:
            _warm_up(engine, given)
        spec, platform = loaded.engine.spec, loaded.engine.platform
        model = Model(
            name,
            version,
            spec,
            platform,
            options.limits,
            on_lost,
            settings=replace(given.settings, why_alone=loaded.why_alone, instances=len(engines)),
            config=effective(given, name, spec, platform, options.limits, loaded.places),
            memory_bytes=loaded.held.host_bytes,
            gpu_memory_bytes=loaded.held.gpu_bytes,
            takes_device_rows=spec.is_staged and all(gpu is not None for gpu, _ in loaded.places),
        )
        workers = [worker_for(model, engine, instance) for instance, engine in enumerate(engines)]
        unfinished.pop_all()
    model.places = loaded.places
    model.load_seconds = time.monotonic() - begun
    _logger.info("model %s version %s is ready after %.2f s", name, version, model.load_seconds)
    return Version(source, model, workers, loaded.rebuilds, is_rebuilt=loaded.is_rebuilt)


def _warm_up(engine: AnyEngine, given: GivenConfig) -> None:
    """Execute it for the first times, once more where its GPU was spoilt meanwhile, by whatever model."""
    device = None if isinstance(engine, StepEngine) else engine.device
    with_renewal(device, lambda: warm_up(engine, given.warmups, given.settings.sequences))


def _instances(loaded: Loaded, unfinished: ExitStack) -> list[AnyEngine]:
    """Return the engines and their replicas, which `unfinished` closes if something fails on the way."""
    engines: list[AnyEngine] = []
    for engine, count in zip(loaded.engines, loaded.counts, strict=True):
        engines.append(engine)
        for _ in range(count - 1):
            engines.append(engine.replicate())
            unfinished.callback(engines[-1].close)
    return engines
