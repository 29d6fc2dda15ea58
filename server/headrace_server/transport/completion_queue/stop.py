"""How the server ends without losing a call.

Streams are ended first: the core closes a connection with its last call, and a client that is still sending
then may lose what it was told. The core also kills calls that arrive between its shutdown and the moment at
which the client hears of it. So new calls are held for a moment before: clients that wait for answers send
nothing meanwhile. Then the core tells the clients to leave, and what was held is served.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from headrace_server.transport.completion_queue.arrivals import Arrivals
from headrace_server.transport.completion_queue.core import CoreServer, Event
from headrace_server.transport.completion_queue.queue import QueueThread
from headrace_server.transport.endpoint import Endpoint

_logger = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 0.1
"""What a client has been told, and what it sends because of that, has arrived by then."""
_MOST_HOLDING_SECONDS: Final = 1.0
_FAREWELL_SECONDS: Final = 0.5
"""Longest wait for clients that have their answers to leave."""
_CUT_SECONDS: Final = 5.0
"""Longest wait for connections that were cut."""


class Stop:
    """The end of one server; it is run once, and not by the queue's thread."""

    def __init__(
        self, server: CoreServer, thread: QueueThread, arrivals: Arrivals, endpoint: Endpoint
    ) -> None:
        self._server = server
        self._thread = thread
        self._arrivals = arrivals
        self._endpoint = endpoint
        self._is_down = threading.Event()
        self._is_idle = threading.Event()

    def run(self, grace_seconds: float) -> None:
        """Serve what has come, for so long, and end."""
        give_up = time.monotonic() + grace_seconds
        inference = self._endpoint.inference
        self._endpoint.leave()
        inference.finish()
        self._endpoint.end_watches()
        self._arrivals.await_streams(grace_seconds)
        self._arrivals.hold()
        self._await_quiet()
        self._server.shutdown(self._thread.queue, self._went_down)
        time.sleep(_QUIET_SECONDS)
        self._arrivals.let_go()
        if not self._is_down.wait(min(_FAREWELL_SECONDS, grace_seconds)):
            inference.open_calls.when_idle(self._is_idle.set)
            if not self._is_idle.wait(max(give_up - time.monotonic(), 0.0)):
                calls = inference.open_calls.calls
                _logger.warning("%d calls were cut off after %.1f s", calls, grace_seconds)
        self._endpoint.refuse()
        if self._gone_down():
            self._arrivals.abandon()
            self._thread.close()
            self._server.destroy()

    def _await_quiet(self) -> None:
        """Wait until every client waits for an answer, or has nothing to ask."""
        give_up = time.monotonic() + _MOST_HOLDING_SECONDS
        while True:
            now = time.monotonic()
            quiet_at = min(self._arrivals.quiet_since() + _QUIET_SECONDS, give_up)
            if now >= quiet_at:
                return
            time.sleep(quiet_at - now)

    def _gone_down(self) -> bool:
        """Wait for clients that have their answers, cut off what is left, and say whether that worked."""
        if not self._is_down.wait(_FAREWELL_SECONDS if self._is_idle.is_set() else 0.0):
            self._server.cancel_all_calls()
        if self._is_down.wait(_CUT_SECONDS):
            return True
        _logger.error("gRPC did not end its connections within %.0f s", _CUT_SECONDS)
        return False

    def _went_down(self, _: Event) -> None:
        self._is_down.set()
