"""The calls that have come and are open: how many there may be, and how long each waits for its client.

A call has its place from its beginning, and one whose message never comes, or whose answer is never taken,
would keep it for as long as its client likes. So every so often it is looked which of them still wait, and
that is all: a call whose message comes at once and whose answer is taken, as nearly all do, costs nothing but
its place.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

import grpc

from headrace_server.errors import DeadlineMissed, Overloaded
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.seam import Reactor, Timer
from headrace_server.transport.status import Status, status_of

_logger = logging.getLogger(__name__)

_LOOKS: Final = 4
"""In the time that a message has."""

NO_MESSAGE: Final = Status(grpc.StatusCode.UNIMPLEMENTED, "a unary call needs one message")


class ArrivedCall(Protocol):
    """A call or stream of either transport."""

    def is_unsent(self) -> bool:
        """Whether the call needs a message, and has none yet."""

    def is_untaken(self) -> bool:
        """Whether the call has its end, which has not left. Always False where that cannot be helped."""

    def give_up(self, status: Status) -> None:
        """End the call with this status, if it is unsent or untaken."""


C = TypeVar("C", bound=ArrivedCall)


class Arrived(Generic[C]):
    """What is open on one server, whichever procedure it is for."""

    def __init__(self, reactor: Reactor, options: TransportOptions) -> None:
        self._reactor = reactor
        self._max_calls = options.inference.max_calls
        self._timeout_seconds = options.message_timeout_seconds
        self._timer: Timer | None = None
        self._is_over = False
        self.most_calls = options.most_calls
        self.calls: dict[C, int] = {}
        """The transport's to fill and empty: with each call how many `looks` had been made when it came."""
        self.looks = 0
        self._untaken: weakref.WeakKeyDictionary[C, int] = weakref.WeakKeyDictionary()
        """With each such call how many looks had been made when it was first seen."""

    @property
    def unsent(self) -> int:
        """How many wait for their message. Any thread may ask."""
        return sum(call.is_unsent() for call in self.calls.copy())

    def refusal(self) -> Status:
        """Return what one call too many is told."""
        unsent = "those that wait for their message included"
        limit = f"--max-concurrent-calls, {self._max_calls}, and {self.most_calls - self._max_calls} beside"
        return status_of(Overloaded(f"{len(self.calls)} calls are open, {unsent}; the limit is {limit}"))

    def watch(self) -> None:
        """Begin to look. For whoever may touch calls."""
        if not self._is_over:
            self._timer = self._reactor.later(self._timeout_seconds / _LOOKS, self._look)

    def end(self) -> None:
        """Look no more."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        unsent: list[C] = []
        untaken: list[C] = []
        for call, came in self.calls.copy().items():
            if call.is_untaken():
                if self._is_late(self._untaken.setdefault(call, self.looks)):
                    untaken.append(call)
            elif self._is_late(came) and call.is_unsent():
                unsent.append(call)
        self.looks += 1
        if not self._is_over:
            self._end(unsent, "message did not come")
            self._end(untaken, "answer was not taken")
        self.watch()

    def _is_late(self, look: int) -> bool:
        return self.looks - look >= _LOOKS

    def _end(self, calls: Sequence[C], what: str) -> None:
        seconds = f"{self._timeout_seconds:g} s (--message-timeout-secs)"
        told = status_of(DeadlineMissed(f"the call's {what} within {seconds}"))
        for call in calls:
            call.give_up(told)
        if calls:
            _logger.warning("%d calls were ended whose %s in time", len(calls), what)
