"""Log lines on stderr: for people, or a JSON object each for machines. Stdout is for the ready line.

What is logged can be changed while the server runs: one handler takes every line, and lets through those
that its settings name.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
from dataclasses import dataclass
from typing import Final

from headrace_engines.printable import printable
from headrace_server.telemetry.log_handler import Handler
from headrace_server.telemetry.repeats import Repeats

_QUIET: Final = ("asyncio", "grpc", "httpx", "httpcore", "urllib3")
"""Libraries that would fill the log with lines about each of their calls."""
_CALLER_LEFT: Final = ("grpc._cython.cygrpc", "ExecuteBatchError raised in core")
"""Where and how gRPC complains, with a traceback, of an answer that its caller did not wait for."""
_REPEATING: Final = ("grpc.", "headrace_server.transport.aio.renewal")
"""Whose lines any caller can bring about, as often as it likes."""

_TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"
_NOTHING: Final = logging.CRITICAL + 1


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Which lines are logged, and how lines of text tell the time; the names are the protocol's."""

    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    """From 1 on, debugging lines."""
    log_format: str = "default"
    """"default": local time of day; "ISO8601": date and time in UTC."""

    def admits(self, level: int) -> bool:
        """Whether a line of this level of `logging` is written."""
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        return self.log_info if level >= logging.INFO else self.log_verbose_level > 0

    @property
    def least_level(self) -> int:
        """The least severe level that is written, below which no line need be made."""
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        return next(filter(self.admits, levels), _NOTHING)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC, ISO 8601), level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for a message, whatever it quotes, and a traceback after it if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base's name
        """Return the record's first line."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class Log:
    """The process's log, and what it lets through now."""

    def __init__(self, settings: LogSettings, *, is_json: bool) -> None:
        self.is_json = is_json
        """Whether lines are objects, whose times are ISO 8601 whatever the settings say."""
        self.settings = settings
        self._repeats = Repeats()
        self._handler = Handler(sys.stderr)
        self._handler.addFilter(self._admits)

    def begin(self) -> None:
        """Take over what the process logs."""
        logging.getLogger().handlers[:] = [self._handler]
        self.change(self.settings)

    def change(self, settings: LogSettings) -> None:
        """Follow these settings from the next line on."""
        self.settings = settings
        self._handler.setFormatter(JsonFormatter() if self.is_json else _text(settings.log_format))
        logging.getLogger().setLevel(settings.least_level)
        for name in _QUIET:
            logging.getLogger(name).setLevel(max(logging.WARNING, settings.least_level))

    def _admits(self, record: logging.LogRecord) -> bool:
        name, beginning = _CALLER_LEFT
        if record.name == name and record.getMessage().startswith(beginning):
            return False
        if not self.settings.admits(record.levelno):
            return False
        return not record.name.startswith(_REPEATING) or self._repeats.admits(record)


def set_up(level: str, form: str) -> Log:
    """Log lines of this level and above to stderr, as "text" or "json"."""
    least = logging.getLevelNamesMapping()[level.upper()]
    settings = LogSettings(
        log_info=least <= logging.INFO,
        log_warning=least <= logging.WARNING,
        log_verbose_level=int(least <= logging.DEBUG),
        log_format="ISO8601" if form == "json" else "default",
    )
    log = Log(settings, is_json=form == "json")
    log.begin()
    return log


def _text(log_format: str) -> logging.Formatter:
    if log_format == "default":
        return TextFormatter(_TEXT, "%H:%M:%S")
    formatter = TextFormatter(_TEXT, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    return formatter
