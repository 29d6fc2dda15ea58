"""`headrace serve` as a child process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_PATIENCE_SECONDS = 30.0

transport = "auto"
"""What serves, as the option --grpc-transport of the tests says."""
_CONTAINERS = [str(Path(__file__).parents[2] / name) for name in ("proto", "engines", "server", "client")]
_PROGRAM = f"import sys; sys.path[:0] = {_CONTAINERS!r}; from headrace_cli.main import main; main()"
_SUPPORT = str(Path(__file__).parent)


class ServerProcess:
    """A server that is ended with the block; `ready` is its ready line."""

    def __init__(
        self,
        repository: Path,
        *arguments: str,
        port: int = 0,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] = subprocess.PIPE,
        open_files: int | None = None,
        prelude: str = "",
    ) -> None:
        """`open_files` is the limit on them where it is another one than the test's own.

        A `prelude` is a module of this folder, whose `install` is called in the child before it serves.

        The log is empty where `stderr` goes elsewhere.
        """
        program = _PROGRAM
        if prelude:
            installed = (
                f"sys.path.append({_SUPPORT!r}); import {prelude}; {prelude}.install(); from headrace_cli"
            )
            program = program.replace("from headrace_cli", installed)
        command = [
            sys.executable, "-c", program, "serve", "--model-repository", str(repository),
            "--grpc-port", str(port), "--metrics-port", "0", "--grpc-transport", transport, *arguments,
        ]  # fmt: skip
        if open_files is not None:
            command = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *command]
        self._process = subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True)
        self.log: list[str] = []
        self._seen = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(_PATIENCE_SECONDS)
        self._reader.join(_PATIENCE_SECONDS)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def ready(self) -> dict[str, Any]:
        """Wait for the ready line; a server that ends first fails the test with its log."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._reader.join(_PATIENCE_SECONDS)
            raise AssertionError("the server did not start:\n" + "\n".join(self.log))
        ready: dict[str, Any] = json.loads(line)
        return ready

    def await_log(self, text: str) -> str:
        """Wait for a line of the log that holds this text, and return it."""

        def found() -> str | None:
            return next((line for line in self.log if text in line), None)

        with self._seen:
            line = self._seen.wait_for(found, _PATIENCE_SECONDS)
        assert line, f"no line with {text!r} in:\n" + "\n".join(self.log)
        return line

    @property
    def pid(self) -> int:
        """The child's own number."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def memory_bytes(self) -> int:
        """Return the memory that the process has in use."""
        return self._status_bytes("VmRSS:")

    def peak_memory_bytes(self) -> int:
        """Return the most memory that the process ever had in use."""
        return self._status_bytes("VmHWM:")

    def _status_bytes(self, field: str) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith(field))
        return int(kilobytes) * 1024

    def exit_code(self) -> int:
        """Wait for the end."""
        code = self._process.wait(_PATIENCE_SECONDS)
        self._reader.join(_PATIENCE_SECONDS)
        return code

    def rest_of_stdout(self) -> str:
        """Return what was written after the ready line; only after the end."""
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def _read_log(self) -> None:
        for line in self._process.stderr or ():
            with self._seen:
                self.log.append(line.rstrip("\n"))
                self._seen.notify_all()
