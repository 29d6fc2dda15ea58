"""Keeps Python's garbage collector from searching what a server holds for good.

Libraries and models are some sixty thousand objects. Under load the collector searches them all every few
tens of thousands of calls, finds nothing, and stops every thread for 30 to 40 ms meanwhile. So they are
frozen: taken out of what it searches. When models change they are given back for a while, so that what an
old model leaves is found.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

_SETTLING_SECONDS: Final = 10.0
"""After a change, until whoever made it has let go of what was replaced."""


class Garbage:
    """What the collector searches; for the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settling_seconds: float = _SETTLING_SECONDS) -> None:
        self._loop = loop
        self._settling_seconds = settling_seconds
        self._timer: asyncio.TimerHandle | None = None

    def freeze(self) -> None:
        """Collect once, and leave out from now on what is still there."""
        gc.collect()
        gc.freeze()

    def models_changed(self) -> None:
        """Search everything again, until nothing has changed for a while."""
        self.close()
        gc.unfreeze()
        self._timer = self._loop.call_later(self._settling_seconds, self.freeze)

    def close(self) -> None:
        """Freeze nothing more."""
        if self._timer is not None:
            self._timer.cancel()
