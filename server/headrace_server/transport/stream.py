"""One stream of requests: many in flight, answered as they are done, never more held than allowed.

Requests are let in while fewer than the limit are in work or wait to be sent; so a client that does not read
its answers is not read from either, and a program that makes many responses waits until they have left. The
stream ends when the client has closed its half and everything is answered, with the first error where the
client asked for that, or when the server finishes: then no more is read, and what was accepted is answered
first. One whose client takes nothing while others need its room, or while a program waits for it, is ended
unanswered.

The transport's events, the engine's answers and the server's end come each in a thread of their own. All of
them change the stream under its lock, and tell models and windows of it when they have let go of that.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from headrace_server.core.window import Window
from headrace_server.errors import Overloaded, ShuttingDown, Unread
from headrace_server.transport import answers
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.intake import Intake
from headrace_server.transport.seam import StreamCall
from headrace_server.transport.status import status_of
from headrace_server.transport.stream_request import StreamRequest


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How much may be in flight, and whether the first error ends the stream."""

    max_requests: int
    patience_seconds: float
    """How long a message may wait for its client while others need the room."""
    ends_with_error: bool = False


class _Outgoing(NamedTuple):
    """A message to be sent, and what is free again when it has left."""

    message: bytes
    held_bytes: int
    window: Window | None = None
    """Of a request with several responses, of which this one is not the last."""


class Stream:
    """The requests of one stream."""

    def __init__(
        self,
        call: StreamCall,
        intake: Intake,
        holdings: Holdings,
        limits: StreamLimits,
        on_let_go: Callable[[Stream], None],
    ) -> None:
        """`on_let_go` is called once, when nothing is held any more, which may be before the call's end."""
        self.held = Call()
        self.intake = intake
        self.holdings = holdings
        self._call = call
        self._limits = limits
        self._on_let_go = on_let_go
        self._lock = threading.Lock()
        self._working: set[StreamRequest] = set()
        self._outgoing: collections.deque[_Outgoing] = collections.deque()
        self._sending: _Outgoing | None = None
        self._sending_since = 0.0
        self._is_reading = False
        self._is_half_closed = False
        self._is_finishing = False
        self._error: Exception | None = None
        """What the stream ends with, once all that came before it has been sent."""
        self._has_ended = False
        self._has_let_go = False

    def begin(self) -> None:
        """Let the first request in."""
        with self._lock:
            self._move_on()

    def received(self, message: bytes | None) -> None:
        """Take a request in, and the next one once it has been submitted or refused."""
        if message is None:
            with self._lock:
                self._is_reading = False
                self._is_half_closed = True
                self._move_on()
            return
        request = StreamRequest(self, message)
        with self._lock:
            if self._has_ended or self._is_over_for_requests():
                self._is_reading = False
                self._move_on()
                return
            self._working.add(request)
        request.begin(message, self._call.deadline)

    def sent(self) -> None:
        """Send what comes next."""
        with self._lock:
            outgoing, self._sending = self._sending, None
            if outgoing is not None:
                self.holdings.add(self.held, -outgoing.held_bytes)
            self._move_on()
        if outgoing is not None and outgoing.window is not None:
            outgoing.window.written(outgoing.held_bytes)

    def ended(self) -> None:
        """Give up what is in work, and what was not sent."""
        with self._lock:
            self._has_ended = True
        self._let_go()

    def end_if_stalled(self, now: float) -> None:
        """End the stream if its client has taken nothing for so long that others may have its room."""
        patience_seconds = self._limits.patience_seconds
        with self._lock:
            if self._has_ended or self._sending is None or now - self._sending_since < patience_seconds:
                return
            self._cut(Overloaded(f"the answers were not read for {patience_seconds:g} s"))
        self._let_go()

    def finish(self) -> None:
        """Read no more, and end once what was accepted is answered."""
        with self._lock:
            self._is_finishing = True
            self._move_on()

    def settled(self) -> None:
        """Hear that the request that came last has been submitted or refused."""
        with self._lock:
            self._is_reading = False
            self._move_on()

    def answer(self, request: StreamRequest, message: bytes | None, held_bytes: int) -> None:
        """End a request, with a message or without another one, unless it has ended.

        `held_bytes` are let go of when the message has left.
        """
        with self._lock:
            is_dropped = request not in self._working or self._error is not None
            self._working.discard(request)
            if message is None or is_dropped:
                self.holdings.add(self.held, -held_bytes)
            else:
                self._outgoing.append(_Outgoing(message, held_bytes))
            self._move_on()

    def answer_in_part(
        self, request: StreamRequest, message: bytes, held_bytes: int, window: Window | None
    ) -> None:
        """Send one response of several; `window` is told when it has left."""
        with self._lock:
            is_dropped = request not in self._working or self._error is not None
            if is_dropped:
                self.holdings.add(self.held, -held_bytes)
            else:
                self._outgoing.append(_Outgoing(message, held_bytes, window))
                self._move_on()
        if is_dropped and window is not None:
            window.written(held_bytes)

    def fail(self, request: StreamRequest, error: Exception, request_id: str, held_bytes: int) -> None:
        """End a request with an error, and with it the stream where the client asked for that."""
        if not self._limits.ends_with_error:
            self.answer(request, answers.stream_error(status_of(error), request_id), held_bytes)
            return
        with self._lock:
            if request in self._working:
                self._working.discard(request)
                self._error = self._error or error
            self.holdings.add(self.held, -held_bytes)
            self._move_on()

    def give_up(self, request: StreamRequest, error: Unread) -> None:
        """End the stream, unless the request or the stream has ended: its client does not read."""
        with self._lock:
            if self._has_ended or request not in self._working:
                return
            self._cut(error)
        self._let_go()

    def _cut(self, error: Overloaded) -> None:
        """End the call without an answer to what is on it. The lock is held."""
        self._has_ended = True
        self._call.cut(status_of(error))

    def _let_go(self) -> None:
        """Give up what is in work, and what was not sent; the stream has ended."""
        with self._lock:
            if self._has_let_go:  # the end of a call that was cut comes when its client likes
                return
            self._has_let_go = True
            working, self._working = self._working, set()
            outgoing, self._outgoing = self._outgoing, collections.deque()
            if self._sending is not None:
                outgoing.append(self._sending)
                self._sending = None
        self.holdings.release(self.held)
        for request in working:
            request.give_up()
        for one in outgoing:
            if one.window is not None:
                one.window.written(one.held_bytes)
        self._on_let_go(self)

    def _move_on(self) -> None:
        """Do what can be done next: send, end, let another request in. The lock is held."""
        if self._has_ended:
            return
        if self._sending is None:
            if self._outgoing:
                self._sending = self._outgoing.popleft()
                self._sending_since = time.monotonic()
                self._call.send(self._sending.message)
            elif self._end():
                self._has_ended = True
                return
        if not (self._is_reading or self._is_over_for_requests()) and self._has_room():
            self._is_reading = True
            self._call.receive()

    def _end(self) -> bool:
        """End the call if nothing is left to be sent, and say whether that is so."""
        if self._error is not None:
            self._call.finish(status_of(self._error))
            return True
        if self._working:
            return False
        if self._is_half_closed:
            self._call.finish()
            return True
        if self._is_finishing:
            told = "the server is stopping; requests that were not answered were not executed"
            self._call.finish(status_of(ShuttingDown(told)))
            return True
        return False

    def _is_over_for_requests(self) -> bool:
        return self._is_half_closed or self._is_finishing or self._error is not None

    def _has_room(self) -> bool:
        held = len(self._working) + len(self._outgoing) + (self._sending is not None)
        return held < self._limits.max_requests and (not held or self.holdings.has_room(self.held))
