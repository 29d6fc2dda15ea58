"""One stream call as a plain data structure: which requests wait, which are where, what they ended with.

A caller's stream outlives the gRPC streams that carry it, called legs here. Requests are sent on one
leg. When that breaks, or its server says that it is going away, a new leg to another
server takes over, and what the old one left unanswered is sent again as far as the retry rules
allow. A request that the server refuses, being full or its model not ready, is no reason to leave: it
is sent again on a spare leg to another server, and only if that one answers do the two legs change
places. So every request that was admitted ends with exactly one outcome: its outputs, or one error.
The requests of a decoupled model alone have any number of outcomes, in the order of its answers: one
for each, and an error at the end if it fails. A request that had one of them is never sent again, and
neither is one of a sequence.

There is no I/O, no clock and no lock here. The owner feeds requests in and asks for the next one to
send, hands over answers and the ends of legs, calls `tick` when something came or `next_look` has,
and passes the outcomes on.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, TypeVar

from grpc import StatusCode

from headrace.answers import Arrays
from headrace.errors import HeadraceError, Unavailable
from headrace.retry import BESIDE_TOO_LARGE, Failure, Retries, error_of
from headrace.stream_requests import Encoded

logger = logging.getLogger(__name__)

Key = TypeVar("Key")
Outcome = tuple[Key, Arrays | HeadraceError]

STALE_SHARE: Final = 0.01
"""What share of a request's time may pass before it is sent without its message saying so."""

REFILL_SECONDS: Final = 0.01
"""How long a feeder that waits for room sleeps at most, so that a few free places are used as well."""


@dataclass(slots=True, eq=False)
class Leg(Generic[Key]):
    """One gRPC stream to one server: `open` while it takes further requests."""

    address: str
    open: bool = True
    unanswered: dict[str, Entry[Key]] = field(default_factory=dict)

    def tried(self, request_id: str) -> Sequence[str]:
        """Return the servers that a request on this leg was sent to, this one included."""
        entry = self.unanswered.get(request_id)
        return () if entry is None else entry.tried


@dataclass(slots=True, eq=False)
class Entry(Generic[Key]):
    """One request of the caller's, until its outcome is known."""

    key: Key
    request: Encoded
    deadline: float
    tried: list[str] = field(default_factory=list)
    leg: Leg[Key] | None = None
    answered: bool = False
    """Whether it had an answer that was not its last, so that sending it again would repeat that one."""
    over: bool = False

    @property
    def is_bound(self) -> bool:
        """Whether it must not be sent again."""
        return self.answered or self.request.is_of_a_sequence


class Exchange(Generic[Key]):
    """The state of one stream call; `max_in_flight` bounds the requests taken and not yet passed on."""

    def __init__(self, retries: Retries, *, max_in_flight: int, timeout_seconds: float | None) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight: {max_in_flight} came, at least 1 expected")
        self._retries = retries
        self._max_in_flight = max_in_flight
        self._timeout_seconds = math.inf if timeout_seconds is None else timeout_seconds
        self._fresh_seconds = self._timeout_seconds * (1 - STALE_SHARE)
        self._numbers = count()
        self._held = 0
        self._source_over = False
        self._entries: dict[str, Entry[Key]] = {}  # oldest first, which is also the order of deadlines
        self._waiting: deque[Entry[Key]] = deque()
        self._refused: deque[Entry[Key]] = deque()  # to be sent again at once, to another server
        self._delayed: list[tuple[float, int, Entry[Key]]] = []
        self._outcomes: deque[tuple[Outcome[Key], bool]] = deque()  # and whether it makes room
        self._leg: Leg[Key] | None = None
        self._spare: Leg[Key] | None = None
        self.source_error: BaseException | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more request may be taken from the caller."""
        return self._held < self._max_in_flight

    @property
    def is_thirsty(self) -> bool:
        """Whether a feeder that waits for room is worth waking at once: a quarter of it, or all, is free.

        Waking it for every single place costs more than sending the request; `REFILL_SECONDS` is for
        the places that stay free because the other requests are slow.
        """
        free = self._max_in_flight - self._held
        return free * 4 >= self._max_in_flight

    @property
    def is_newsworthy(self) -> bool:
        """Whether a caller who waits for outcomes is worth waking at once.

        That is so for an eighth of the room, or while less than half of it is on the way. A thread that is
        woken for every single outcome costs more than the outcome.
        """
        return len(self._outcomes) * 8 >= self._max_in_flight or len(self._entries) * 2 < self._max_in_flight

    @property
    def has_outcomes(self) -> bool:
        """Whether there is one to take."""
        return bool(self._outcomes)

    @property
    def is_full(self) -> bool:
        """Whether answers had better wait at the server until the caller has taken some outcomes.

        Only a decoupled model can bring it about: of all others there is one answer for each place.
        """
        return len(self._outcomes) > self._max_in_flight

    def admit(self, key: Key, request: Encoded, now: float) -> None:
        """Take a request over; no other one of this stream has its id."""
        entry = Entry(key, request, now + self._timeout_seconds)
        self._entries[request.id] = entry
        self._waiting.append(entry)
        self._held += 1

    def refuse(self, key: Key, error: HeadraceError) -> None:
        """Take over a request that cannot be sent."""
        self._outcomes.append(((key, error), True))
        self._held += 1

    def end_source(self, error: BaseException | None = None) -> None:
        """Note that no further request comes, because of `error` if the caller's own iterator failed."""
        self._source_over = True
        self.source_error = error

    @property
    def needs_leg(self) -> bool:
        """Whether something waits to be sent and no leg would take it."""
        return self._stranded() is not None

    @property
    def tried(self) -> list[str]:
        """The servers that a new leg had better not go to."""
        entry = self._stranded()
        return [] if entry is None else entry.tried

    def _stranded(self) -> Entry[Key] | None:
        if self._leg is not None and self._leg.open and not self._refused:
            return None
        for queue in (self._waiting, self._refused):
            while queue and queue[0].over:
                queue.popleft()
        if self._waiting and (self._leg is None or not self._leg.open):
            return self._waiting[0]
        if self._refused and not any(
            leg is not None and leg.open and leg.address not in self._refused[0].tried
            for leg in (self._leg, self._spare)
        ):
            return self._refused[0]
        return None

    def start_leg(self, address: str) -> Leg[Key]:
        """Note that requests are sent on a new leg from now on."""
        leg: Leg[Key] = Leg(address)
        if self._leg is None or not self._leg.open:
            self._leg = leg
        else:
            if self._spare is not None:
                self._spare.open = False
            self._spare = leg
        if self._refused and address in self._refused[0].tried:  # no other server is left
            self._waiting.extend(self._refused)
            self._refused.clear()
        return leg

    def take(self, leg: Leg[Key], now: float) -> bytes | None:
        """Return the next message to send on a leg, or None if there is none at the moment.

        Closes the leg when none can come any more.
        """
        entry = self._next_for(leg) if leg.open else None
        if entry is not None:
            entry.leg = leg
            entry.tried.append(leg.address)
            leg.unanswered[entry.request.id] = entry
            left_seconds = entry.deadline - now
            if left_seconds < self._fresh_seconds:
                return entry.request.with_timeout(left_seconds)
            return entry.request.message
        if self._source_over and not (self._delayed or self._waiting or self._refused):
            leg.open = False
        return None

    def _next_for(self, leg: Leg[Key]) -> Entry[Key] | None:
        while self._refused and (self._refused[0].over or leg.address not in self._refused[0].tried):
            entry = self._refused.popleft()
            if not entry.over:
                return entry
        while leg is self._leg and self._waiting:
            entry = self._waiting.popleft()
            if not entry.over:
                return entry
        return None

    def answer(
        self,
        leg: Leg[Key],
        request_id: str,
        answer: Arrays | Failure | HeadraceError | None,
        now: float,
        *,
        elsewhere: bool,
        is_last: bool = True,
    ) -> bool:
        """Take an answer; one to a request that is over already, or was never sent, changes nothing.

        None is an answer that says only that it `is_last`: that the request gets no other one.
        `elsewhere` says whether a server could be asked that the request was not sent to yet. Says
        whether there may be something to send because of it, or a leg to end.
        """
        entry = leg.unanswered.get(request_id)
        if entry is None:
            logger.debug("dropped an answer of %s: no request %r waits for it", leg.address, request_id)
            return False
        entry.answered = entry.answered or not is_last
        if not isinstance(answer, Failure):
            if is_last:
                self._retries.budget.deposit()
            self._deliver(entry, answer, is_last=is_last)
            return self._prefer(leg, entry)
        delay = self._retry_delay_seconds(entry, answer, now, elsewhere=elsewhere)
        if delay is None or not self._retries.pay(answer, elsewhere=elsewhere):
            self._deliver(entry, error_of(answer, entry.tried), is_last=is_last)
            return False
        if answer.refused and elsewhere:
            self._detach(entry)
            self._refused.append(entry)
        else:
            self._send_again(entry, now, delay)
        if not answer.refused:
            leg.open = False
        return True

    def _prefer(self, leg: Leg[Key], entry: Entry[Key]) -> bool:
        """Let the legs change places if the spare one answered what the other had refused."""
        if leg is not self._spare or self._leg is None or self._leg.address not in entry.tried:
            return False
        self._leg, self._spare = leg, self._leg
        return True

    def end_leg(self, leg: Leg[Key], failure: Failure, now: float, *, elsewhere: bool) -> None:
        """Take the end of a leg: what it left unanswered is sent again or fails with `failure`.

        A leg costs the retry budget once, however many of its requests are sent again.
        """
        leg.open = False
        if failure.too_large and leg.unanswered:
            self._blame_largest(leg, failure)
            return
        paid: bool | None = None
        for entry in tuple(leg.unanswered.values()):
            delay = self._retry_delay_seconds(entry, failure, now, elsewhere=elsewhere)
            if delay is not None and paid is None:
                paid = self._retries.budget.withdraw()
            if delay is None or not paid:
                self._give_up(entry, failure)
            else:
                self._send_again(entry, now, delay)

    def retire(self, leg: Leg[Key]) -> None:
        """Send nothing more on a leg, whose server leaves; its answers are still waited for."""
        leg.open = False

    def fail_waiting(self, error: Unavailable) -> None:
        """Fail what waits to be sent: there is no server."""
        for queue in (self._waiting, self._refused):
            while queue:
                entry = queue.popleft()
                if not entry.over:
                    self._give_up(entry, Failure(error.code, error.message))

    def tick(self, now: float) -> bool:
        """Fail the requests whose time is over, and let those go whose delay before a retry is.

        Says whether one was let go, so that there is something to send.
        """
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if oldest.deadline > now:
                break
            what = "not the last answer" if oldest.answered else "no answer"
            text = f"{what} within {self._timeout_seconds:g} s"
            self._give_up(oldest, Failure(StatusCode.DEADLINE_EXCEEDED, text))
        released = False
        while self._delayed and (self._delayed[0][0] <= now or self._delayed[0][2].over):
            self._waiting.append(heapq.heappop(self._delayed)[2])
            released = True
        return released

    @property
    def wake_at(self) -> float:
        """When `tick` is due."""
        oldest = next(iter(self._entries.values()), None)
        deadline = math.inf if oldest is None else oldest.deadline
        return min(deadline, self._delayed[0][0]) if self._delayed else deadline

    def next_look(self, now: float) -> float:
        """Return when to `tick` again though nothing happens, whatever is admitted until then."""
        return min(self.wake_at, now + self._timeout_seconds)

    def next_outcome(self) -> Outcome[Key] | None:
        """Return a request's key and what it ended with, which makes room for another one.

        Or one of the answers of a request that goes on, which makes none.
        """
        if not self._outcomes:
            return None
        outcome, makes_room = self._outcomes.popleft()
        self._held -= makes_room
        return outcome

    @property
    def finished(self) -> bool:
        """Whether every request has ended, and none can come."""
        return self._source_over and not self._entries and not self._outcomes

    def _blame_largest(self, leg: Leg[Key], failure: Failure) -> None:
        """Fail the request that ended a leg by its size; the others go again as if never sent.

        Those that must not be sent again fail for no fault of their own.
        """
        entries = list(leg.unanswered.values())
        largest = max(entries, key=lambda entry: len(entry.request.message))
        for entry in entries:
            if entry is largest:
                self._give_up(entry, failure)
            elif entry.is_bound:
                self._give_up(entry, BESIDE_TOO_LARGE)
            else:
                self._detach(entry)
                entry.tried.pop()
                self._waiting.append(entry)

    def _retry_delay_seconds(
        self, entry: Entry[Key], failure: Failure, now: float, *, elsewhere: bool
    ) -> float | None:
        if entry.is_bound:
            return None
        left_seconds = entry.deadline - now
        return self._retries.delay_seconds(
            failure, len(entry.tried), left_seconds=left_seconds, elsewhere=elsewhere
        )

    def _send_again(self, entry: Entry[Key], now: float, delay: float) -> None:
        self._detach(entry)
        if delay > 0:
            heapq.heappush(self._delayed, (now + delay, next(self._numbers), entry))
        else:
            self._waiting.append(entry)

    def _give_up(self, entry: Entry[Key], failure: Failure) -> None:
        self._deliver(entry, error_of(failure, entry.tried), is_last=True)

    def _deliver(self, entry: Entry[Key], result: Arrays | HeadraceError | None, *, is_last: bool) -> None:
        """Pass an answer on; None is the word that no other one comes."""
        if is_last:
            self._detach(entry)
            entry.over = True
            del self._entries[entry.request.id]
        if result is not None:
            self._outcomes.append(((entry.key, result), is_last))
        else:
            self._held -= 1

    def _detach(self, entry: Entry[Key]) -> None:
        if entry.leg is not None:
            del entry.leg.unanswered[entry.request.id]
            entry.leg = None
