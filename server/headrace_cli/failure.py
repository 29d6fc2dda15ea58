"""How a command ends: its exit codes, and failures as one line for a person."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell is told."""

    OK = 0
    FAILED = 1
    """The work was tried and failed, or a check did not hold."""
    USAGE = 2
    """The command line is wrong, or asks for what this installation does not support."""
    INTERRUPTED = 130
    TERMINATED = 143
    """Stopped by SIGTERM."""


class CommandError(Exception):
    """A command cannot go on; the text is the line that is shown."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Tell in a sentence how to mend an import that fails because an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0].startswith("headrace"):
            raise
        raise CommandError(
            f"this needs {error.name}, which is not installed; "
            f"in a clone of Headrace: pip install '.[{extra}]'",
            ExitCode.USAGE,
        ) from error


@contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Keep warnings from being logged that are shown or raised as well."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def failing(*kinds: type[Exception], exit_code: ExitCode = ExitCode.FAILED) -> Iterator[None]:
    """Show failures of these kinds by their own text, which was written for a person."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output left: an end, and no failure to tell anybody
    except kinds as error:
        raise CommandError(told(error), exit_code) from error


def told(error: Exception) -> str:
    """Return what a person is told of an error that speaks for itself; of a file, which one it is."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror.lower()}"
    return str(error) or type(error).__name__
