"""One blocking stream call: the threads that move an `Exchange`.

The caller's thread waits for outcomes and starts legs; a feeder thread runs the caller's iterator,
which may block for as long as it likes; each leg has the thread in which gRPC sends and one that
receives. They meet under one lock, each waiting for its own condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, Final, Generic

import grpc
from grpc import StatusCode

from headrace.channels import Connection
from headrace.errors import ClientClosed, InvalidInput, Unavailable
from headrace.exchange import REFILL_SECONDS, Exchange, Key, Leg, Outcome
from headrace.messages import decode_stream_answer
from headrace.pool import Slot
from headrace.retry import CONNECTION_CLOSED, Failure
from headrace.servers import Servers
from headrace.status import failure_of
from headrace.stream_requests import Encoded, Given, pair_of

Encode = Callable[[Given], Encoded]

UNANSWERED: Final = Failure(
    StatusCode.UNAVAILABLE, "the server ended the stream without an answer to this request"
)
GATHER_SECONDS: Final = 0.001
"""How long a caller who takes outcomes one after another waits for several to come, at most."""

ANONYMOUS: Final = Failure(StatusCode.UNKNOWN, "the server answered without saying which request it meant")


class StreamCall(Generic[Key]):
    """A stream that is being answered."""

    def __init__(self, servers: Servers, exchange: Exchange[Key], encode: Encode) -> None:
        self._servers = servers
        self._exchange = exchange
        self._encode = encode
        self._lock = Lock()
        self._room = Condition(self._lock)
        self._work = Condition(self._lock)
        self._news = Condition(self._lock)
        self._space = Condition(self._lock)
        self._calls: set[grpc.Call] = set()
        self._closed = False
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
            self._closed = True
            calls = tuple(self._calls)
            for condition in (self._room, self._work, self._news, self._space):
                condition.notify_all()
        for call in calls:
            call.cancel()

    def _next(self) -> Outcome[Key] | None:
        while True:
            with self._lock:
                if self._closed:
                    raise ClientClosed("the client was closed during the stream")
                now = monotonic()
                if self._exchange.tick(now):
                    self._work.notify_all()
                if self._exchange.is_full:
                    self._space.notify_all()
                outcome = self._exchange.next_outcome()
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
        with self._lock:
            leg = self._exchange.start_leg(slot.address)
            self._work.notify_all()
        try:
            call = slot.link.stream(self._outgoing(leg, slot))
        except ValueError:  # the connection was closed after it was picked
            self._end_leg(leg, slot, CONNECTION_CLOSED, at_fault=False)
            return
        with self._lock:
            self._calls.add(call)
            closed = self._closed
        if closed:
            call.cancel()
        Thread(target=self._receive, args=(leg, slot, call), name="headrace-receiver", daemon=True).start()

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
            self._work.notify_all()

    def _wait_for_room(self) -> bool:
        with self._lock:
            while not (self._closed or self._exchange.has_room):
                self._room.wait(REFILL_SECONDS)
            return not self._closed

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
            self._work.notify_all()

    def _outgoing(self, leg: Leg[Key], slot: Slot[Connection]) -> Iterator[bytes]:
        """Yield what is to be sent on a leg; gRPC runs this in a thread of its own."""
        while True:
            with self._lock:
                while (request := self._take(leg, slot)) is None:
                    if not leg.open or self._closed:
                        self._news.notify()
                        return
                    self._work.wait()
            yield request

    def _take(self, leg: Leg[Key], slot: Slot[Connection]) -> bytes | None:
        if slot.retired_at is not None:
            self._exchange.retire(leg)
        return self._exchange.take(leg, monotonic())

    def _receive(self, leg: Leg[Key], slot: Slot[Connection], call: Any) -> None:
        failure: Failure | None = None
        try:
            for message in call:
                failure = self._accept(leg, message)
                if failure is not None:
                    call.cancel()
                    break
        except grpc.RpcError as error:
            failure = failure_of(error, is_secure=slot.link.is_secure)
        with self._lock:
            self._calls.discard(call)
            at_fault = bool(leg.unanswered) if failure is None else failure.server_at_fault
            at_fault = at_fault and not self._closed
        self._end_leg(leg, slot, failure or UNANSWERED, at_fault=at_fault)

    def _accept(self, leg: Leg[Key], message: bytes) -> Failure | None:
        """Pass an answer on; return a failure that names no request, which ends the leg."""
        decoded = decode_stream_answer(message)
        request_id, answer, is_last = decoded.id, decoded.result, decoded.is_last
        if not request_id:
            return answer if isinstance(answer, Failure) else ANONYMOUS
        failed = isinstance(answer, Failure)
        with self._lock:
            elsewhere = failed and self._servers.elsewhere(leg.tried(request_id))
            now = monotonic()
            if self._exchange.answer(leg, request_id, answer, now, elsewhere=elsewhere, is_last=is_last):
                self._work.notify_all()
            if self._exchange.is_newsworthy or not self._gathers:
                self._news.notify()
            while self._exchange.is_full and not self._closed:
                self._space.wait()
        return None

    def _end_leg(self, leg: Leg[Key], slot: Slot[Connection], failure: Failure, *, at_fault: bool) -> None:
        self._servers.done(slot, failed=at_fault)
        elsewhere = self._servers.elsewhere((leg.address,))
        with self._lock:
            self._exchange.end_leg(leg, failure, monotonic(), elsewhere=elsewhere)
            self._news.notify()
            self._work.notify_all()
