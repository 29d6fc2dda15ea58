"""How the server ends without losing a call.

Streams are ended first: the core closes a connection with its last call, and a client that is still sending
then may lose what it was told. The core also kills calls that arrive between its shutdown and the moment at
which the client hears of it. So new calls are held for a moment before: clients that wait for answers send
nothing meanwhile. Then the core tells the clients to leave, and what was held is served.

All of this is taken out of the grace, and most of it is left to calls that were accepted. So streams that
last are waited for in its first part alone; what was held then is refused, because a call that is cut off
might have been executed, and one that is refused was not.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from headrace_server.transport.completion_queue.arrivals import Arrivals
from headrace_server.transport.completion_queue.core import CoreServer, Event
from headrace_server.transport.completion_queue.grace import Grace
from headrace_server.transport.completion_queue.queue import QueueThread
from headrace_server.transport.endpoint import Endpoint

_logger = logging.getLogger(__name__)

_STREAMS_END: Final = 1 / 4
_HOLDING_ENDS: Final = 3 / 8
_CLIENTS_KNOW: Final = 1 / 2
"""Latest ends of what comes before calls are drained, in parts of the grace."""
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

    def run(self, grace: Grace) -> None:
        """Serve what has come, for so long, and end."""
        self._endpoint.leave()
        self._endpoint.inference.finish()
        self._endpoint.end_watches()
        are_streams_over = self._await_streams(grace)
        self._arrivals.hold()
        if not are_streams_over:
            self._endpoint.refuse()
        self._await_quiet(grace)
        self._server.shutdown(self._thread.queue, self._went_down)
        grace.pass_by(_CLIENTS_KNOW, _QUIET_SECONDS)
        self._arrivals.let_go()
        self._drain(grace)
        self._endpoint.refuse()
        if self._gone_down():
            self._arrivals.abandon()
            self._thread.close()
            self._server.destroy()

    def _await_streams(self, grace: Grace) -> bool:
        """Wait until the streams have ended, and return whether all have."""
        no_stream = self._arrivals.no_stream
        if grace.wait(no_stream, _STREAMS_END, _FAREWELL_SECONDS):
            return True
        self._endpoint.cut_watches()
        return grace.wait(no_stream, _STREAMS_END)

    def _await_quiet(self, grace: Grace) -> None:
        """Wait until every client waits for an answer, or has nothing to ask."""
        least_left = grace.left() - grace.left(_HOLDING_ENDS, _MOST_HOLDING_SECONDS)
        while (seconds := _QUIET_SECONDS - self._arrivals.quiet_for()) > 0:
            further = grace.left() - least_left
            if further <= 0:
                return
            grace.pass_by(_HOLDING_ENDS, min(seconds, further))

    def _drain(self, grace: Grace) -> None:
        """Wait until what was accepted is answered, and the clients have left with their answers."""
        # What was held is not open before its messages have come.
        if grace.wait(self._is_down, most_seconds=_FAREWELL_SECONDS):
            return
        open_calls = self._endpoint.inference.open_calls
        open_calls.when_idle(self._is_idle.set)
        if grace.wait(self._is_idle):
            grace.wait(self._is_down, most_seconds=_FAREWELL_SECONDS)
        else:
            _logger.warning("%d calls were cut off after %.1f s", open_calls.calls, grace.seconds)

    def _gone_down(self) -> bool:
        """Cut off what is left, and say whether that worked."""
        if not self._is_down.is_set():
            self._server.cancel_all_calls()
        if self._is_down.wait(_CUT_SECONDS):
            return True
        _logger.error("gRPC did not end its connections within %.0f s", _CUT_SECONDS)
        return False

    def _went_down(self, _: Event) -> None:
        self._is_down.set()
