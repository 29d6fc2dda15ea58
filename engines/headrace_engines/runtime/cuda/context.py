"""A GPU as all engines on it share it: whose context it is, whether it can be used, what it has given.

An error that spoils the context spoils what every engine has in it. So the context has a generation: `use`
names the one that an engine's memory, streams and plans are of, and is refused once that has passed, until
the engine has renewed itself in the next one. The first engine that asks for it (`renew`) has the context
reset and the GPU proved; the others find it done.

A reset beneath a library that is at work ends the process. So whoever is at work is counted: those who
execute, and come back in moments once the context is spoilt, and those who load, and may be at work on the
host for minutes before the GPU tells them.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Final

from headrace_engines.errors import DeviceError, EngineError, EngineSpoilt, ExecutionError, MemoryExhausted
from headrace_engines.runtime.cuda.driver import CudaError, Driver, Fault, GpuFacts
from headrace_engines.runtime.cuda.memory import GpuMemory
from headrace_engines.runtime.cuda.pools import Pools
from headrace_engines.runtime.cuda.proof import prove
from headrace_engines.runtime.cuda.twins import Twins

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 10.0
"""How long a reset waits for threads that execute; each meets the error that spoilt the context."""
_LOADING_PATIENCE_SECONDS: Final = 300.0
"""How long it waits, after them, for a step of a load: reading a plan in, or compiling for one batch size."""


class Gpu:
    """One GPU of this process, used by any number of engines and threads."""

    def __init__(self, driver: Driver, pools: Pools) -> None:
        """The driver has retained the context. There is one user, who closes it."""
        self.facts: Final[GpuFacts] = driver.facts
        self.twins: Final = Twins()
        """Which pinned memory has its bytes on the GPU as well."""
        self.memory: Final = GpuMemory(driver, pools)
        """What engines take of it."""
        self._driver = driver
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._users = 1
        self._executing = 0
        self._loading = 0
        """How many threads are inside `use` and inside `load`."""
        self._renewing = False
        self._spoilt: str | None = None
        self._lost: str | None = None
        self._use = Use(self, 1)

    @property
    def generation(self) -> int:
        """How many contexts there have been: what was made in an earlier one is gone."""
        return self._use.generation

    @property
    def lost(self) -> str | None:
        """Why the GPU will not be used again; None as long as it may be."""
        return self._lost

    def use(self, generation: int) -> Use:
        """Return the way to the driver, for a `with` statement; see `Use`."""
        use = self._use
        return use if use.generation == generation else Use(self, generation)

    def load(self, generation: int) -> Use:
        """Return the way to the driver for a step of a load, in which a library may be at work on the host.

        A context that is spoilt meanwhile is reset when the step has come back: so a load takes many.
        """
        return Use(self, generation, loads=True)

    def renew(self, generation: int) -> int:
        """Return the generation that follows `generation`, in a context that was proved to work.

        The first caller makes it, others wait for it. Not from inside `use` or `load`: it waits until no
        thread is. Raises DeviceError if the GPU does not answer, and from then on everything does.
        """
        with self._lock:
            while self._renewing and self._lost is None:
                self._changed.wait()
            self._check_not_lost()
            if generation != self.generation:
                return self.generation
            self._renewing = True
            self._spoilt = self._spoilt or "a fresh context was asked for"
            stuck = self._await_others()
        try:
            self._start_afresh(stuck)
        finally:
            with self._lock:
                self._renewing = False
                self._changed.notify_all()
        return self.generation

    def declare_lost(self, reason: str) -> None:
        """Have everything raise DeviceError from now on. Returns at once, whatever threads are inside."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = reason
            self._changed.notify_all()
        logger.error("GPU %d (%s) is lost: %s", self.facts.index, self.facts.name, reason)

    def share(self) -> bool:
        """Count another user, who closes it too; False, and none is counted, if the last has closed it."""
        with self._lock:
            if self._users:
                self._users += 1
            return bool(self._users)

    def close(self) -> None:
        """Count one user out; with the last the context is given up. A lost GPU might not return."""
        with self._lock:
            self._users -= 1
            if self._users or self._lost is not None:
                return
        try:
            self._driver.release()
        except CudaError as error:
            logger.warning("GPU %d: the context could not be given up: %s", self.facts.index, error)
        self.memory.forget()

    def _await_others(self) -> str:
        """Wait, with the lock, until no thread is inside; return what has not come back, "" if all has."""
        if not self._changed.wait_for(lambda: not self._executing or self._lost, _PATIENCE_SECONDS):
            return f"a call has not returned for {_PATIENCE_SECONDS:g} s"
        if self._loading:
            logger.warning("GPU %d: a model is being loaded: the reset waits for it", self.facts.index)
        if not self._changed.wait_for(lambda: not self._loading or self._lost, _LOADING_PATIENCE_SECONDS):
            return f"a step of a load has not returned for {_LOADING_PATIENCE_SECONDS:g} s"
        return ""

    def _start_afresh(self, stuck: str) -> None:
        if stuck:
            self.declare_lost(stuck)
        self._check_not_lost()
        logger.warning("GPU %d: the context is reset: %s", self.facts.index, self._spoilt)
        try:
            self._driver.reset()
            prove(self._driver)
        except CudaError as error:
            self.declare_lost(f"after {self._spoilt}: a fresh context does not work: {error}")
        with self._lock:
            self._check_not_lost()
            self.memory.forget()
            self._use = Use(self, self.generation + 1)
            self._spoilt = None

    def _refusal(self) -> EngineError:
        """Return why nothing can be done in a generation that has passed, or was spoilt, or on a lost GPU."""
        if self._lost is not None:
            return DeviceError(self._loss())
        why = f": {self._spoilt}" if self._spoilt else ""
        return EngineSpoilt(
            f"GPU {self.facts.index}: the engine's context has ended{why}", was_executed=False
        )

    def _enter(self, *, loads: bool) -> None:
        """Count the thread in; the lock is held."""
        if loads:
            self._loading += 1
        else:
            self._executing += 1

    def _leave(self, *, loads: bool) -> None:
        with self._lock:
            if loads:
                self._loading -= 1
            else:
                self._executing -= 1
            if self._renewing:
                self._changed.notify_all()

    def _met(self, error: CudaError, *, was_executed: bool) -> EngineError:
        """Return what an error of the driver is to an engine, and remember what it says of the GPU."""
        text = f"GPU {self.facts.index}: {error}"
        if error.fault is Fault.DEVICE:
            self.declare_lost(str(error))
        if self._lost is not None:
            return DeviceError(self._loss())
        if error.fault is Fault.CONTEXT:
            with self._lock:
                self._spoilt = self._spoilt or str(error)
            return EngineSpoilt(text, was_executed=was_executed)
        return MemoryExhausted(text) if error.fault is Fault.MEMORY else ExecutionError(text)

    def _check_not_lost(self) -> None:
        if self._lost is not None:
            raise DeviceError(self._loss())

    def _loss(self) -> str:
        return f"GPU {self.facts.index} ({self.facts.name}) is lost: {self._lost}"


class Use:
    """Inside the `with` statement the GPU's context is the thread's, and the driver is what it gives.

    Entering raises EngineSpoilt, with nothing executed inside, if the generation has passed or an error has
    spoilt it; DeviceError if the GPU is lost. A CudaError that leaves the statement becomes what it is to an
    engine: ExecutionError, MemoryExhausted, EngineSpoilt or DeviceError. Threads may be inside at once, and
    one may be inside itself.
    """

    __slots__ = ("_gpu", "_loads", "generation")

    def __init__(self, gpu: Gpu, generation: int, *, loads: bool = False) -> None:
        self._gpu = gpu
        self._loads = loads
        self.generation = generation

    def __enter__(self) -> Driver:
        gpu = self._gpu
        with gpu._lock:
            is_past = gpu._use.generation != self.generation
            if is_past or gpu._spoilt is not None or gpu._lost is not None:
                raise gpu._refusal()
            gpu._enter(loads=self._loads)
        driver = gpu._driver
        try:
            driver.push()
        except CudaError as error:
            gpu._leave(loads=self._loads)
            raise gpu._met(error, was_executed=False) from error
        return driver

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gpu = self._gpu
        try:
            gpu._driver.pop()
        except CudaError as popping:
            # What the work met tells more than that the context could not be put away after it.
            error = error or popping
        finally:
            gpu._leave(loads=self._loads)
        if error is not None and isinstance(error, CudaError):
            raise gpu._met(error, was_executed=True) from error
