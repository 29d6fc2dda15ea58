"""How many calls are open, how many may be, and when the last one has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from headrace_server.errors import Overloaded


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    """What clients may have open, and what is held for them."""

    max_calls: int
    max_streams: int
    max_stream_requests: int
    max_in_flight_bytes: int
    stream_patience_seconds: float = 10.0
    """How long a stream may hold what others need without reading."""


class OpenCalls:
    """The calls that infer; a stream is a call as well."""

    def __init__(self, limits: InferenceLimits) -> None:
        self._most_calls = limits.max_calls
        self._lock = threading.Lock()
        self._on_idle: Callable[[], None] | None = None
        self.calls = 0

    def enter(self) -> None:
        """Count one more call, or raise Overloaded."""
        with self._lock:
            if self.calls >= self._most_calls:
                raise Overloaded(f"{self.calls} calls are open, which is the limit")
            self.calls += 1

    def leave(self) -> None:
        """Count one call less."""
        with self._lock:
            self.calls -= 1
            on_idle = self._gone_idle()
        if on_idle is not None:
            on_idle()

    def when_idle(self, function: Callable[[], None]) -> None:
        """Call the function once when no call is open; at once, if there is none."""
        with self._lock:
            self._on_idle = function
            on_idle = self._gone_idle()
        if on_idle is not None:
            on_idle()

    def _gone_idle(self) -> Callable[[], None] | None:
        if self.calls:
            return None
        on_idle, self._on_idle = self._on_idle, None
        return on_idle
