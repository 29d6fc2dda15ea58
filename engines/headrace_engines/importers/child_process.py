"""A process that does what could take the caller's along, seen from the one that asks it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import headrace_engines
from headrace_engines import processors
from headrace_engines.errors import EngineError
from headrace_engines.importers import messages
from headrace_engines.importers.limits import Limits, Watch
from headrace_engines.printable import printable

_INHERITED: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_THREADS: Final = 4
_LOG_LINES: Final = 3
_EXIT_SECONDS: Final = 10.0
_NO_MORE: Final[Mapping[str, str]] = MappingProxyType({})


class ChildEnded(EngineError):
    """The process ended instead of answering; the text says how, with the last that it wrote."""


class TookTooMuch(ChildEnded):
    """The process was ended because it went beyond its limits; the text says which, and how to raise it."""


class ChildProcess:
    """A module that runs while the context lasts; what it starts in turn is ended with it.

    None of the caller's environment reaches it but what finds programs, modules and a language, and what is
    handed to it. The system ends it with the thread that enters the context.
    """

    def __init__(
        self,
        folder: Path,
        module: str,
        environment: Mapping[str, str] = _NO_MORE,
        limits: Limits | None = None,
    ) -> None:
        """`folder` is private to the process and its caller: it holds what is written, and its home.

        Raises MemoryExhausted where the machine has less to spare than any process takes.
        """
        self.folder = folder
        self._log = folder / "log"
        allowed = limits and limits.settled()
        home = folder / "home"
        home.mkdir()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**_environment(home), **environment},
                start_new_session=True,
            )
        self._watch = Watch(self._process.pid, allowed, self.kill) if allowed else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        with suppress(BrokenPipeError):  # what was left to write has nobody to read it
            self._process.__exit__(None, None, None)

    def kill(self) -> None:
        """End the process, and what it has started, now. Any thread may."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a question; ChildEnded if there is none, as within the limits."""
        asked = self._process.stdin
        if asked is None:
            raise ValueError("the process was started without pipes")
        try:
            messages.send(asked, question)
        except OSError as error:
            raise self._end() from error
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Return what the process says next, where it answers with more than one message; else ChildEnded."""
        answered = self._process.stdout
        if answered is None:
            raise ValueError("the process was started without pipes")
        try:
            with self._watch or nullcontext():
                return messages.receive(answered)
        except (OSError, EOFError, ValueError) as error:
            raise self._end() from error

    def log(self) -> str:
        """Return the last lines that the process wrote."""
        lines = [printable(line.strip()) for line in self._log.read_text(errors="replace").splitlines()]
        return " / ".join([line for line in lines if line][-_LOG_LINES:])

    def _end(self) -> ChildEnded:
        """Return how the process ended, to be raised; one that does not end talks nonsense."""
        if self._watch and self._watch.complaint:
            return TookTooMuch(self._watch.complaint)
        try:
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return ChildEnded("it did not keep to its way of answering")
        last = self.log()
        return ChildEnded(f"{_ending(code)}{f'; the last that it wrote: {last}' if last else ''}")


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed, as the system does where memory runs out"
    if code < 0:
        return f"it crashed with {signal.Signals(-code).name}"
    return f"it left with exit code {code}"


def _environment(home: Path) -> dict[str, str]:
    """Return all of the environment that the process sees: no tokens, no settings of the caller's."""
    own = os.environ  # noqa: TID251  passed on by name, and not read as configuration
    inherited = {name: own[name] for name in _INHERITED if name in own}
    package = str(Path(headrace_engines.__file__).parents[1])
    paths = [package, *filter(None, inherited.get("PYTHONPATH", "").split(os.pathsep))]
    threads = str(min(_THREADS, processors.usable()))
    return inherited | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": str(home),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",  # a GPU may be serving, and answers would depend on it
    }
