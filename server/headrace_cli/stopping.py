"""How long work ends that is told to: it is undone, and one line says what is left of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from headrace_cli.failure import CommandError, ExitCode


class _Terminated(BaseException):
    """SIGTERM came; no failure, so that nothing that copes with failures copes with it."""


@contextmanager
def stoppable(outcome: Callable[[], str]) -> Iterator[None]:
    """Have SIGTERM, as SIGINT, leave the block by its way out, on which it undoes what it has begun.

    Raises CommandError with what is left then, as `outcome` says. A second SIGTERM ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # the system tells the main thread alone
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except _Terminated as stop:
        raise CommandError(f"stopped by SIGTERM: {outcome()}", ExitCode.TERMINATED) from stop
    except KeyboardInterrupt as stop:
        raise CommandError(f"interrupted: {outcome()}", ExitCode.INTERRUPTED) from stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Terminated
