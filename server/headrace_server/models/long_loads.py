"""Warns of a load that goes on for long: a program or a model that never ends raises nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_logger = logging.getLogger(__name__)

AFTER_SECONDS: Final = 30.0


@contextmanager
def watched(name: str, number: int, places: int) -> Iterator[None]:
    """Warn while the block loads a version: after half a minute, and whenever it has taken twice as long.

    Loads hold one of so many `places`.
    """
    begun = time.monotonic()
    is_over = threading.Event()

    def watch() -> None:
        wait_seconds = AFTER_SECONDS
        while not is_over.wait(wait_seconds):
            seconds = time.monotonic() - begun
            _logger.warning(
                "model %s version %d has been loading for %.0f s; until it ends, which nothing can force, "
                "it holds one of %d places for loads",
                name, number, seconds, places,
            )  # fmt: skip
            wait_seconds = seconds

    threading.Thread(target=watch, name=f"load-{name}-{number}", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
