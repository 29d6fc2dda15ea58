"""Which signals stop the server: the first in order, a second one at once, unless it comes with the first."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Final

_logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SAME_SECONDS: Final = 0.5
"""Signals that come so close are one: `timeout` and others send theirs to a child and to its group."""


def catch(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Have the first signal call `stop` on the loop, and one that comes later end the process."""
    signals = 0

    def caught() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            _logger.info("a signal so soon after the first is taken for the same")
            return
        stop()
        loop.call_later(_SAME_SECONDS, let_the_next_one_end)
        _logger.info("stopping")

    def let_the_next_one_end() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        _logger.info("still stopping; a second signal ends the process at once")

    for number in _SIGNALS:
        loop.add_signal_handler(number, caught)
