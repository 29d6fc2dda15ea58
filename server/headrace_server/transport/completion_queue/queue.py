"""The thread that polls the completion queue and runs what its events are tagged with.

It also reads the sockets while it polls, so nothing that it runs may block or compute for long. What asks to
be run `soon` is run once there is no further event: messages that have come together are so found together.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVarTuple

from headrace_server.transport.completion_queue import core
from headrace_server.transport.completion_queue.core import Queue
from headrace_server.transport.completion_queue.timers import DueTimer, Timers

_logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")

_AT_ONCE: Final = 0.0
"""A moment that has passed."""
_SOON_SECONDS: Final = 0.002
"""Soon is not later than that, though events go on coming."""
_EVENTS_BETWEEN_READS: Final = 64
"""A queue reads the sockets only when it has no event. Streams that have sent thousands of messages at once
would otherwise be all that is heard until the last of these is done."""


class QueueThread:
    """A completion queue with its thread; as a reactor it lets every thread touch calls."""

    quiet_turns = 1
    """What is run soon is run when no event is left."""

    def __init__(self, queue: Queue | None = None, sockets: Queue | None = None) -> None:
        """`sockets` is a queue that never has an event, so that polling it reads what has come."""
        self.queue = queue or core.queue()
        self._sockets = sockets or core.queue()
        self._soon_by = 0.0
        self._soon: list[Callable[[], object]] = []
        self._timers = Timers()
        self._thread = threading.Thread(target=self._serve, name="grpc", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def close(self) -> None:
        """End the queue, and wait for its last event. No batch may be begun from here on."""
        self._timers.close()
        self.queue.shutdown()
        self._thread.join()
        self._sockets.shutdown()

    def run(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Run it here and now: calls may be touched by every thread."""
        function(*arguments)

    def soon(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Run it when no event is left. For this thread."""
        if not self._soon:
            self._soon_by = time.monotonic() + _SOON_SECONDS
        self._soon.append(functools.partial(function, *arguments))

    def later(self, seconds: float, function: Callable[[*Ts], object], *arguments: *Ts) -> DueTimer:
        """Run it on the timers' thread."""
        return self._timers.add(seconds, functools.partial(function, *arguments))

    def _serve(self) -> None:
        poll = self.queue.poll
        events = 0
        while True:
            events += 1
            if events % _EVENTS_BETWEEN_READS == 0:
                self._sockets.poll(_AT_ONCE)
            event = poll(_AT_ONCE) if self._soon else poll()
            tag = event.tag
            try:
                if tag is not None:
                    tag(event)
                elif event.completion_type == core.QUEUE_TIMEOUT:
                    self._run_soon()
                elif event.completion_type == core.QUEUE_SHUTDOWN:
                    return
            except Exception:
                _logger.exception("what an event led to has failed")
            if self._soon and time.monotonic() >= self._soon_by:
                self._run_soon()
            # An event that is kept keeps its call, and so its connection.
            del event, tag

    def _run_soon(self) -> None:
        soon, self._soon = self._soon, []
        for function in soon:
            try:
                function()
            except Exception:  # the others are to have their turn
                _logger.exception("what was to be done soon has failed")
