"""What carries an `Exchange`: its legs with their gRPC streams, and the lock under which all meet.

An answer is taken, and what comes next is sent, on the thread that tells of a stream. Whoever makes the call
only feeds it, takes the outcomes and starts legs.
"""

from __future__ import annotations

from collections.abc import Collection
from threading import RLock
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from grpc import StatusCode

from headrace.errors import ClientClosed
from headrace.exchange import Exchange, Key, Leg, Outcome
from headrace.messages import decode_stream_answer
from headrace.pool import Slot
from headrace.retry import CONNECTION_CLOSED, Failure
from headrace.status import Ended, failure_of
from headrace.wire import Guard, Owner, Wire

UNANSWERED: Final = Failure(
    StatusCode.UNAVAILABLE, "the server ended the stream without an answer to this request"
)
GATHER_SECONDS: Final = 0.001
"""How long a caller who takes outcomes one after another waits for several to come, at most."""

ANONYMOUS: Final = Failure(StatusCode.UNKNOWN, "the server answered without saying which request it meant")


class Link(Protocol):
    """A connection, as far as it carries streams."""

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""

    def open_stream(self, lock: Guard, owner: Owner) -> Wire:
        """Begin a stream, with the lock held; ValueError if the connection is closed."""


AnyLink = TypeVar("AnyLink", bound=Link)


class Caller(Protocol[Key, AnyLink]):
    """Whom a carriage tells, on a thread of gRPC's: nothing of this may wait for long."""

    def answered(self) -> None:
        """Take note of what may be an outcome; the lock is held."""

    def alarmed(self) -> None:
        """Take note that the caller has something to do, such as to start a leg; the lock is held."""

    def elsewhere(self, tried: Collection[str]) -> bool:
        """Say whether a server other than those tried could be asked; the lock is held."""

    def leg_ended(self, leg: CarriedLeg[Key, AnyLink]) -> None:
        """Give its slot back and `finish` it; the lock is not held."""


class Carriage(Generic[Key, AnyLink]):
    """The legs of one stream call; `lock` is held wherever nothing else is said."""

    def __init__(self, exchange: Exchange[Key], caller: Caller[Key, AnyLink]) -> None:
        self.lock = RLock()  # the garbage collector may end a stream on a thread that holds it
        self.closed = False
        self.exchange = exchange
        self.caller = caller
        self._legs: list[CarriedLeg[Key, AnyLink]] = []

    @property
    def has_legs(self) -> bool:
        """Whether a leg has not come to its end."""
        return bool(self._legs)

    def next_outcome(self, now: float) -> Outcome[Key] | None:
        """Return one outcome, if there is one; ClientClosed after `close`."""
        if self.closed:
            raise ClientClosed("the client was closed during the stream")
        if self.exchange.tick(now):
            self.send()
        was_full = self.exchange.is_full
        outcome = self.exchange.next_outcome()
        if was_full:
            self.resume()
        return outcome

    def start(self, slot: Slot[AnyLink]) -> None:
        """Begin a leg to a server; the lock is not held."""
        with self.lock:
            leg = CarriedLeg(self, self.exchange.start_leg(slot.address), slot)
            if leg.begin():
                self._legs.append(leg)
                return
        self.caller.leg_ended(leg)

    def send(self) -> None:
        """Send what may go now, on every leg."""
        for leg in tuple(self._legs):
            leg.send()

    def resume(self) -> None:
        """Ask for the answers that there was no room for."""
        for leg in self._legs:
            leg.resume()

    def finish(self, leg: CarriedLeg[Key, AnyLink], *, elsewhere: bool) -> None:
        """Take the end of a leg; the lock is not held."""
        with self.lock:
            if leg in self._legs:
                self._legs.remove(leg)
            failure = leg.failure or UNANSWERED
            self.exchange.end_leg(leg.facts, failure, monotonic(), elsewhere=elsewhere)
            self.caller.alarmed()
            self.send()

    def close(self) -> None:
        """Give up what is unanswered."""
        self.closed = True
        for leg in self._legs:
            leg.wire.cancel()


class CarriedLeg(Generic[Key, AnyLink]):
    """One leg and its gRPC stream; the lock is held wherever nothing else is said."""

    __slots__ = ("_asks", "_carriage", "_finished", "_sends", "facts", "failure", "slot", "wire")
    wire: Wire

    def __init__(self, carriage: Carriage[Key, AnyLink], facts: Leg[Key], slot: Slot[AnyLink]) -> None:
        self.facts = facts
        self.slot = slot
        self.failure: Failure | None = None
        self._carriage = carriage
        self._sends = False
        self._finished = False
        self._asks = True

    @property
    def at_fault(self) -> bool:
        """Whether it ended for a fault of the server's; the lock is not held."""
        if self._carriage.closed:
            return False
        return bool(self.facts.unanswered) if self.failure is None else self.failure.server_at_fault

    def begin(self) -> bool:
        """Open the stream, or say that the connection was closed after it was picked."""
        try:
            self.wire = self.slot.link.open_stream(self._carriage.lock, self)
        except ValueError:
            self.failure = CONNECTION_CLOSED
            return False
        self.wire.receive()
        self.send()
        if self._carriage.closed:
            self.wire.cancel()
        return True

    def send(self) -> None:
        """Send the next message, if there is one and none is being sent."""
        if self._sends or self._finished:
            return
        exchange = self._carriage.exchange
        if self.slot.retired_at is not None:
            exchange.retire(self.facts)
        message = exchange.take(self.facts, monotonic())
        if message is not None:
            self._sends = True
            self.wire.send(message)
        elif not self.facts.open:
            self._finished = True
            self.wire.finish()
            self._carriage.caller.alarmed()

    def sent(self) -> None:
        """Send what comes next."""
        self._sends = False
        self.send()

    def resume(self) -> None:
        """Ask for the next answer, if that was put off and there is room."""
        if not self._asks and not self._carriage.exchange.is_full:
            self._asks = True
            self.wire.receive()

    def received(self, message: bytes) -> None:
        """Ask for the next answer, which may come while this one is read, and take this one."""
        if self.failure is not None:
            return
        self._asks = not self._carriage.exchange.is_full
        if self._asks:
            self.wire.receive()
        self.failure = self._accept(message)
        if self.failure is not None:
            self.wire.cancel()

    def _accept(self, message: bytes) -> Failure | None:
        """Pass an answer on; return a failure that names no request, which ends the leg."""
        decoded = decode_stream_answer(message)
        request_id, answer, is_last = decoded.id, decoded.result, decoded.is_last
        if not request_id:
            return answer if isinstance(answer, Failure) else ANONYMOUS
        carriage, facts = self._carriage, self.facts
        elsewhere = isinstance(answer, Failure) and carriage.caller.elsewhere(facts.tried(request_id))
        now = monotonic()
        if carriage.exchange.answer(facts, request_id, answer, now, elsewhere=elsewhere, is_last=is_last):
            carriage.send()
            carriage.caller.alarmed()
        else:
            carriage.caller.answered()
        return None

    def ended(self, status: Ended | None) -> None:
        """Take the end of the stream; the lock is not held."""
        if self.failure is None and status is not None:
            self.failure = failure_of(status, is_secure=self.slot.link.is_secure)
        self._carriage.caller.leg_ended(self)
