"""One blocking stream call: the caller's thread takes outcomes and starts legs, another one feeds.

That other thread runs the caller's iterator, which may block for as long as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator
from threading import Condition, Thread
from time import monotonic
from typing import Generic

from headrace.carriage import GATHER_SECONDS, Carriage, CarriedLeg
from headrace.channels import Connection
from headrace.errors import InvalidInput, Unavailable
from headrace.exchange import REFILL_SECONDS, Exchange, Key, Outcome
from headrace.servers import Servers
from headrace.stream_requests import Encoded, Given, pair_of

Encode = Callable[[Given], Encoded]


class StreamCall(Generic[Key]):
    """A stream that is being answered."""

    def __init__(self, servers: Servers, exchange: Exchange[Key], encode: Encode) -> None:
        self._servers = servers
        self._exchange = exchange
        self._encode = encode
        self._carriage: Carriage[Key, Connection] = Carriage(exchange, self)
        self._lock = self._carriage.lock
        self._room = Condition(self._lock)
        self._news = Condition(self._lock)
        self._gathers = False

    def outcomes(self, requests: Iterator[tuple[Key, Given]]) -> Generator[Outcome[Key], None, None]:
        """Yield each request's outcome as soon as it is known, then raise what `requests` raised."""
        Thread(target=self._feed, args=(requests,), name="headrace-feeder", daemon=True).start()
        try:
            while (outcome := self._next()) is not None:
                yield outcome
            if self._exchange.source_error is not None:
                raise self._exchange.source_error
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is unanswered; any thread may do that."""
        with self._lock:
            self._carriage.close()
            self._room.notify_all()
            self._news.notify_all()

    def _next(self) -> Outcome[Key] | None:
        while True:
            with self._lock:
                now = monotonic()
                outcome = self._carriage.next_outcome(now)
                if outcome is not None:
                    self._gathers = True
                    if self._exchange.is_thirsty:
                        self._room.notify()
                    return outcome
                if self._exchange.finished:
                    return None
                if not self._exchange.needs_leg:
                    self._wait_for_news(self._exchange.next_look(now) - now)
                    continue
                tried, deadline = tuple(self._exchange.tried), self._exchange.wake_at
            self._start_leg(tried, deadline)

    def _wait_for_news(self, seconds: float) -> None:
        """Wait until something came, but no longer than that."""
        if self._gathers:
            seconds = min(seconds, GATHER_SECONDS)
        if not self._news.wait(None if seconds == math.inf else max(seconds, 0.0)):
            self._gathers = False

    def _start_leg(self, tried: tuple[str, ...], deadline: float) -> None:
        try:
            slot = self._servers.pick(tried, deadline)
        except Unavailable as error:
            with self._lock:
                self._exchange.fail_waiting(error)
            return
        self._carriage.start(slot)

    def answered(self) -> None:
        """Wake the caller's thread if that is worth it; the lock is held."""
        if self._exchange.is_newsworthy or not self._gathers:
            self._news.notify()

    def alarmed(self) -> None:
        """Wake the caller's thread; the lock is held."""
        self._news.notify()

    def elsewhere(self, tried: Collection[str]) -> bool:
        """Say whether a server other than those tried could be asked."""
        return self._servers.elsewhere(tried)

    def leg_ended(self, leg: CarriedLeg[Key, Connection]) -> None:
        """Give the slot of a leg back; the lock is not held."""
        self._servers.done(leg.slot, failed=leg.at_fault)
        self._carriage.finish(leg, elsewhere=self._servers.elsewhere((leg.slot.address,)))

    def _feed(self, requests: Iterator[tuple[Key, Given]]) -> None:
        error: BaseException | None = None
        try:
            while self._wait_for_room():
                self._admit(next(requests))
        except StopIteration:
            pass
        except BaseException as raised:  # raised again where the caller waits for outcomes
            error = raised
        with self._lock:
            self._exchange.end_source(error)
            self._news.notify()
            self._carriage.send()

    def _wait_for_room(self) -> bool:
        with self._lock:
            while not (self._carriage.closed or self._exchange.has_room):
                self._room.wait(REFILL_SECONDS)
            return not self._carriage.closed

    def _admit(self, item: object) -> None:
        key, inputs = pair_of(item)
        try:
            request = self._encode(inputs)
        except InvalidInput as error:
            with self._lock:
                self._exchange.refuse(key, error)
                self._news.notify()
            return
        with self._lock:
            self._exchange.admit(key, request, monotonic())
            if self._exchange.needs_leg:
                self._news.notify()
            self._carriage.send()
