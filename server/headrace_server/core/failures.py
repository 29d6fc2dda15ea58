"""What callers are told of an engine's failure: its text where that is meant for them, and always an id."""

from __future__ import annotations

import logging
import secrets

from headrace_engines.errors import ExecutionError
from headrace_server.errors import EngineFailed

_logger = logging.getLogger(__name__)


def report(model: str, what: str, error: Exception) -> EngineFailed:
    """Log the error under an id, in full unless its text says it all; return the one for the callers."""
    error_id = secrets.token_hex(4)
    trace = None if isinstance(error, ExecutionError) else error
    _logger.error("model %s: %s (error %s)", model, what, error_id, exc_info=trace)
    return EngineFailed(f"model {model!r}: {what}", error_id)


def report_execution(model: str, error: Exception) -> EngineFailed:
    """Return what an execution failed of; only a text that is meant for callers leaves the log."""
    return report(model, told(error) if isinstance(error, ExecutionError) else "the engine failed", error)


def told(error: ExecutionError) -> str:
    """Return the error's text, never an empty one: clients of streams know an error by its text alone."""
    try:
        text = str(error)
    except Exception:  # a program may have made the class
        _logger.exception("an error's own text cannot be told")
        text = ""
    return text or f"the program raised {type(error).__name__} without a text"
