"""Builds plans anew beside a server: each in a process of its own, and judged before it is kept."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from headrace_engines import manifest, store
from headrace_engines.errors import EngineError, FolderError, ModelFileError
from headrace_engines.importers.child_process import ChildEnded, ChildProcess
from headrace_engines.plan_gate import Likeness
from headrace_engines.plan_order import PlanOrder
from headrace_engines.progress import Progress
from headrace_engines.rebuilt_plans import FOLDER, RebuiltPlan, RebuiltPlans

_CHILD: Final = f"{__package__}.plan_child"
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class Stopped(EngineError):
    """The work was given up because it is not wanted any more."""


class Replanner:
    """Builds what is ordered, until it is stopped."""

    def __init__(self, rebuilt: RebuiltPlans, caches: Path, child: str = _CHILD) -> None:
        """What TensorRT measures of kernels is kept in `caches`; `child` is the module that builds."""
        self.rebuilt = rebuilt
        self._caches = caches
        self._child = child
        self._lock = threading.Lock()
        self._process: ChildProcess | None = None
        self._stopped = False

    @classmethod
    def of(cls, store_folder: Path) -> Self:
        """Return one that keeps what it builds in the folder that builds are kept in."""
        return cls(RebuiltPlans(store_folder / FOLDER), store_folder / store.CACHES)

    def build(self, order: PlanOrder, progress: Progress) -> RebuiltPlan:
        """Return the plan of the order, built now unless it is there; takes from seconds to many minutes.

        Raises Stopped after `stop`, else EngineError saying why there is no such plan, FolderError where none
        can be kept; that is remembered, and only another order is tried.
        """
        try:
            return self.rebuilt.find_or_make(
                order,
                lambda into: self._made(order, into, progress),
                lambda: progress("waiting for another process that rebuilds it", 0.0),
            )
        except Stopped:
            raise
        except EngineError as error:
            self.rebuilt.note_failure(order, str(error))
            raise

    def stop(self) -> None:
        """Give up what is being built, and build nothing more. Any thread may call it."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _made(self, order: PlanOrder, into: Path, progress: Progress) -> Likeness:
        """Have a child build the plan as this file; return how it was judged."""
        _verify(order)
        self._caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="headrace-", ignore_cleanup_errors=True) as folder:
            environment = {_VISIBLE: order.gpu.uuid}
            with ChildProcess(Path(folder), self._child, environment) as process, self._stoppable(process):
                try:
                    answer = process.ask(self._question(order, into))
                    while "step" in answer:
                        progress(str(answer["step"]), float(answer["fraction"]))
                        answer = process.hear()
                except ChildEnded as error:
                    self._check_not_stopped()
                    raise ModelFileError(f"{order.file}: the process that built it ended: {error}") from error
        if answer.get("is_of_folder"):
            raise FolderError(str(answer["error"]))
        if "error" in answer:
            raise ModelFileError(str(answer["error"]))
        return Likeness(**answer["likeness"])

    def _question(self, order: PlanOrder, into: Path) -> Mapping[str, Any]:
        return {
            "model": str(order.model.absolute()),
            "into": str(into.absolute()),
            "caches": str(self._caches.absolute()),
            "settings": asdict(order.settings),
            "library": asdict(order.library),
        }

    @contextmanager
    def _stoppable(self, process: ChildProcess) -> Iterator[None]:
        """Let `stop` end the process in the block."""
        with self._lock:
            self._process = process
        try:
            self._check_not_stopped()
            yield
        finally:
            with self._lock:
                self._process = None

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise Stopped("the server is stopping")


def _verify(order: PlanOrder) -> None:
    """Raise ModelFileError unless the ONNX file, with its weights, is still the one that was ordered."""
    folder = order.model.parent
    for name, expected in {order.model.name: order.sha256, **order.weights}.items():
        manifest.verify_file(folder / name, expected)
