"""Names what takes long: whoever waits may have no terminal with a status line, and a program may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SlowNotice:
    """Tells of one thing after the other that has taken long, once of each. Ends with its `with` block."""

    def __init__(self, after_seconds: float, tell: Callable[[str], None]) -> None:
        """`tell` is called with what takes long, from a thread of its own."""
        self._after_seconds = after_seconds
        self._tell = tell
        self._timer: threading.Timer | None = None

    def __enter__(self) -> SlowNotice:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()

    def begin(self, what: str) -> None:
        """Say what is being done from now on; what was before is over."""
        self._cancel()
        self._timer = threading.Timer(self._after_seconds, self._tell, (what,))
        self._timer.daemon = True
        self._timer.start()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
