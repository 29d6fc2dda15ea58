"""Processes that the demo starts, and stops on every way out."""

from __future__ import annotations

import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace_cli.failure import CommandError

_STOP_SECONDS = 20.0
_LOG_LINES = 3


class Child:
    """One process; what it writes goes to a log file, but for its output if that is `read`.

    It gets a session of its own, so that Ctrl-C reaches the demo alone, which then stops its children in
    the right order.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *, read: bool = False) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read else file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def line(self, timeout_seconds: float) -> str:
        """Return the next line of its output; CommandError if it ends or says nothing in time."""
        output = self._process.stdout
        if output is None:
            raise ValueError(f"the output of {self.name} goes to its log")
        readable, _, _ = select.select([output], [], [], timeout_seconds)
        line = output.readline().decode() if readable else ""
        if not line:
            raise self.failed("ended" if readable else f"said nothing for {timeout_seconds:.0f} s")
        return line

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it ends; False if it still runs after the time."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> int:
        """Ask it to end, wait, and return its exit code; one that does not end is killed."""
        try:
            if self.is_running:
                self._process.send_signal(signal.SIGTERM)
                self.wait(_STOP_SECONDS)
        finally:
            # Also when somebody is in a hurry and interrupts the wait.
            if self.is_running:
                self._process.kill()
            if self._process.stdout:
                self._process.stdout.close()
        return self._process.wait()

    def failed(self, what: str) -> CommandError:
        """Return the error that tells what happened to it, with the end of its log."""
        tail = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return CommandError(f"{self.name} {what}; the end of {self._log}: {' / '.join(tail) or 'empty'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
