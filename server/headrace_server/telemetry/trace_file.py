"""Traces on disk: JSON arrays in Triton's form, written by a thread of their own.

Engines hand over finished traces and never wait: between them and the thread stands a queue of so many
bytes, and what does not fit in is lost, counted and told in the log.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

_logger = logging.getLogger(__name__)

_MOST_WAITING_BYTES: Final = 32 << 20
_TRACE_BYTES: Final = 1 << 10
"""What a trace takes in memory beside its request's id, roughly."""
_LONGEST_END: Final = 16
"""Bytes at a file's end among which the closing bracket is looked for."""
_SILENCE_SECONDS: Final = 10.0
"""Least time between two lines of the log about traces that were lost."""


class TraceFileError(Exception):
    """Traces cannot be written there; the text names the file and the reason."""


class Trace(NamedTuple):
    """When one request was where: moments of the monotonic clock, in nanoseconds, by Triton's names."""

    number: int
    """Tells this trace from all others in its file."""
    model_name: str
    model_version: str
    request_id: str
    moments: tuple[tuple[str, int], ...]

    def entries(self) -> str:
        """Return the two members of the JSON array: whose trace it is, and its moments."""
        whose = {"id": self.number, "model_name": self.model_name, "model_version": int(self.model_version)}
        if self.request_id:
            whose["request_id"] = self.request_id
        moments = [{"name": name, "ns": ns} for name, ns in self.moments]
        return f"{json.dumps(whose)},\n{json.dumps({'id': self.number, 'timestamps': moments})}"


class JsonArrayFile:
    """A file that holds one JSON array, complete whenever nothing is being appended to it."""

    def __init__(self, path: Path) -> None:
        """Open the array that is there, or begin one. Raises TraceFileError."""
        self.path = path
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
            self._end, self._is_empty = self._find_end()
        except OSError as error:
            raise TraceFileError(f"cannot write traces to {path}: {error.strerror}") from error

    def append(self, entries: Sequence[str]) -> None:
        """Add members, given as JSON. Raises OSError, and leaves the array as it was."""
        text = ("" if self._is_empty else ",\n") + ",\n".join(entries)
        data = text.encode()
        try:
            self._write(data + b"]\n")
        except OSError:
            self._file.truncate(self._end)
            self._write(b"]\n")
            raise
        self._end += len(data)
        self._is_empty = False

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _find_end(self) -> tuple[int, bool]:
        """Return where the closing bracket stands, and whether nothing stands in the brackets."""
        size = self._file.seek(0, os.SEEK_END)
        if not size:
            self._file.write(b"[]\n")
            return 1, True
        self._file.seek(max(0, size - _LONGEST_END))
        tail = self._file.read(_LONGEST_END)
        if not tail.rstrip().endswith(b"]"):
            raise TraceFileError(f"cannot write traces to {self.path}: it holds something else than traces")
        return size - len(tail) + len(tail.rstrip()) - 1, tail.strip() == b"[]"

    def _write(self, data: bytes) -> None:
        self._file.seek(self._end)
        while data:
            data = data[self._file.write(data) :]


class TraceWriter:
    """Writes to one file, or where asked to, to a series of files beside it: NAME.0, NAME.1, …"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: queue.SimpleQueue[tuple[list[Trace], int] | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._file: JsonArrayFile
        self._numbered: JsonArrayFile | None = None
        self._number = 0
        self._traces_in_numbered = 0
        self._lost = 0
        self._why_lost = ""
        self._lock = threading.Lock()
        self._next_complaint = 0.0

    def start(self) -> None:
        """Open the file, and begin to write. Raises TraceFileError."""
        self._file = JsonArrayFile(self.path)
        self._thread.start()

    def put(self, traces: list[Trace], log_frequency: int) -> None:
        """Take finished traces, for the one file or for the series of so many traces each; never blocks."""
        size = _size_bytes(traces)
        with self._lock:
            fits = self._waiting_bytes + size <= _MOST_WAITING_BYTES
            if fits:
                self._waiting_bytes += size
        if fits:
            self._waiting.put((traces, log_frequency))
        else:
            self._lose(len(traces), "they came faster than they could be written")

    def close(self, timeout_seconds: float) -> None:
        """Write what waits, for so long at most, and end."""
        if not self._thread.is_alive():
            return
        self._waiting.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (batch := self._waiting.get()) is not None:
            traces, log_frequency = batch
            try:
                self._write(traces, log_frequency)
            except (OSError, TraceFileError) as error:
                self._lose(len(traces), str(error))
            with self._lock:
                self._waiting_bytes -= _size_bytes(traces)
            if time.monotonic() >= self._next_complaint:
                self._complain()
        self._complain()
        self._file.close()
        if self._numbered is not None:
            self._numbered.close()

    def _write(self, traces: list[Trace], log_frequency: int) -> None:
        if not log_frequency:
            self._file.append([trace.entries() for trace in traces])
            return
        while traces:
            file = self._numbered_file(log_frequency)
            room = log_frequency - self._traces_in_numbered
            file.append([trace.entries() for trace in traces[:room]])
            self._traces_in_numbered += len(traces[:room])
            traces = traces[room:]

    def _numbered_file(self, log_frequency: int) -> JsonArrayFile:
        """Return the file of the series that has room."""
        if self._numbered is not None and self._traces_in_numbered < log_frequency:
            return self._numbered
        if self._numbered is not None:
            self._numbered.close()
        while (path := self.path.with_name(f"{self.path.name}.{self._number}")).exists():
            self._number += 1
        self._numbered, self._traces_in_numbered = JsonArrayFile(path), 0
        return self._numbered

    def _lose(self, traces: int, why: str) -> None:
        with self._lock:
            self._lost += traces
            self._why_lost = why

    def _complain(self) -> None:
        with self._lock:
            lost, self._lost = self._lost, 0
        if lost:
            _logger.error("%d traces were lost, not written to %s: %s", lost, self.path, self._why_lost)
            self._next_complaint = time.monotonic() + _SILENCE_SECONDS


def _size_bytes(traces: Sequence[Trace]) -> int:
    return sum(_TRACE_BYTES + sys.getsizeof(trace.request_id) for trace in traces)
