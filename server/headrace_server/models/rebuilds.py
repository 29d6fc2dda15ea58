"""Plans that are built anew beside the server, for versions that serve without them until then.

One thread builds one plan at a time, in a process of its own; then the version is loaded again, and takes its
own place as any new one does.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Final

from headrace_engines.errors import EngineError, FolderError
from headrace_engines.printable import printable
from headrace_server.errors import ShuttingDown
from headrace_server.models.versions import Version

if TYPE_CHECKING:
    from headrace_engines.plan_order import PlanOrder
    from headrace_engines.replan import Replanner

_logger = logging.getLogger(__name__)

_TELL_SECONDS: Final = 10.0
"""Between two lines about one build."""
_END_SECONDS: Final = 1.0
"""Longest wait on stop for the thread: its process has been ended, but another's lock may hold it up."""


class Rebuilds:
    """Has built what versions order, one after the other. Any thread may call it."""

    def __init__(self, replanner: Replanner, renew: Callable[[str, Version], Version | None]) -> None:
        """`renew` loads a version again, which finds the new plan then, and returns what serves instead."""
        self._replanner = replanner
        self._renew = renew
        self._asked: queue.SimpleQueue[Version | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="rebuilds", daemon=True)
        self._lock = threading.Lock()

    def ask(self, version: Version) -> None:
        """Have the version's plans built, if it has ordered any, and the version renewed."""
        if version.rebuilds:
            with self._lock:
                if self._thread.ident is None:
                    self._thread.start()
            self._asked.put(version)

    def close(self) -> None:
        """Give up what is being built, and build nothing more."""
        self._replanner.stop()
        self._asked.put(None)
        with self._lock:
            if self._thread.ident is not None:
                self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (version := self._asked.get()) is not None:
            try:
                self._rebuild(version)
            except ShuttingDown:
                return
            except Exception:  # one that cannot be rebuilt must not stop the others
                name = version.model.facts.name
                _logger.exception("model %s version %d: rebuilding its plan failed", name, version.number)

    def _rebuild(self, version: Version) -> None:
        """Build what the version orders until it serves with the best that can be built and loaded.

        A plan that was built may be refused when it is loaded; then what serves orders the next best. Each
        order is fulfilled once, so this ends.
        """
        tried: set[tuple[str, str]] = set()
        try:
            while (order := _untried(version, tried)) is not None and version.again() is not None:
                tried.add((order.sha256, order.key))
                if self._is_built(version, order):
                    version = self._renew(version.model.facts.name, version) or version
        except FolderError as error:  # the next order would meet it again
            name, reason = version.model.facts.name, printable(str(error))
            _logger.warning("model %s version %d: no plan can be rebuilt: %s", name, version.number, reason)

    def _is_built(self, version: Version, order: PlanOrder) -> bool:
        """Build a plan; return whether it could be built. Raises FolderError where none can be kept."""
        from headrace_engines.replan import Stopped

        told = _Told(version.model.facts.name, version.number, order)
        try:
            plan = self._replanner.build(order, told)
        except Stopped:
            raise ShuttingDown("the server is stopping") from None
        except FolderError:
            raise
        except EngineError as error:
            told.failed(error)
            return False
        told.built(str(plan.likeness))
        return True


def _untried(version: Version, tried: Container[tuple[str, str]]) -> PlanOrder | None:
    """Return the best of what the version orders that was not tried."""
    return next((order for order in version.rebuilds if (order.sha256, order.key) not in tried), None)


class _Told:
    """Tells the log how far a build is; as a `Progress`, not more often than people read."""

    def __init__(self, name: str, number: int, order: PlanOrder) -> None:
        self._what = f"model {name} version {number}: {order.file}"
        self._begun = self._told_at = time.monotonic()
        _logger.info("%s is rebuilt from %s; until then the next best serves", self._what, order.model.name)

    def __call__(self, step: str, fraction: float) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            _logger.info("%s is rebuilt: %s, %.0f %%", self._what, step, 100 * fraction)

    def built(self, likeness: str) -> None:
        _logger.info("%s was rebuilt in %.1f s: %s", self._what, time.monotonic() - self._begun, likeness)

    def failed(self, error: EngineError) -> None:
        reason = printable(str(error))
        _logger.warning("%s could not be rebuilt, and is not tried again: %s", self._what, reason)
