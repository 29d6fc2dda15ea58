"""What NVIDIA's libraries say, into Python's log.

A library keeps the first logger that it is given for all that it does later, so there is one for each.
Its errors come beside a call that returns nothing: whoever makes such a call collects them for the
exception that tells them (`collected`), and the log has the others.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Final

_log = logging.getLogger(__name__)

_MEMORY: Final = re.compile(r"out.?of.?memory|insufficient memory", re.IGNORECASE)

_loggers: Final[dict[str, Any]] = {}
_making: Final = threading.Lock()
_collecting: Final[dict[int, list[str]]] = {}
"""What is said during the call that each thread makes."""


def logger_of(tensorrt: ModuleType) -> Any:
    """Return the library's logger: one of its own kind, which lives as long as the process."""
    with _making:
        if tensorrt.__name__ not in _loggers:
            _loggers[tensorrt.__name__] = _made(tensorrt)
        return _loggers[tensorrt.__name__]


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Collect the errors that are said meanwhile, on this thread or on the libraries' own."""
    thread = threading.get_ident()
    outer = _collecting.get(thread)
    said: list[str] = []
    _collecting[thread] = said
    try:
        yield said
    finally:
        if outer is None:
            del _collecting[thread]
        else:
            _collecting[thread] = outer


def is_of_memory(said: Sequence[str]) -> bool:
    """Whether errors tell of memory that does not suffice; there is no other sign of it."""
    return any(_MEMORY.search(line) for line in said)


def _error(message: str) -> None:
    own = _collecting.get(threading.get_ident())
    listeners = [own] if own is not None else list(_collecting.values())
    for said in listeners:
        said.append(message)
    _log.log(logging.DEBUG if listeners else logging.ERROR, "%s", message)


def _made(tensorrt: ModuleType) -> Any:
    severity = tensorrt.ILogger.Severity
    levels = {
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(tensorrt.ILogger):  # type: ignore[misc, name-defined]  # the library has no types
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity)
            if level is None:
                _error(message)
            else:
                _log.log(level, "%s", message)

    return Logger()
