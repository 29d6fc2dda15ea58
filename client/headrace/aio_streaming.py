"""One asynchronous stream call: the caller's task takes outcomes and starts legs, another one feeds.

The twin of `streaming`: the legs are carried as there, by a thread of gRPC's, which wakes the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic

from headrace.aio_servers import AioServers
from headrace.cancelling import cancelled_by_caller
from headrace.carriage import GATHER_SECONDS, Carriage, CarriedLeg
from headrace.channels import AioConnection
from headrace.errors import InvalidInput, Unavailable
from headrace.exchange import REFILL_SECONDS, Exchange, Key, Outcome
from headrace.stream_requests import Given, pair_of
from headrace.streaming import Encode

logger = logging.getLogger(__name__)

Requests = AsyncIterable[tuple[Key, Given]] | Iterable[tuple[Key, Given]]


class AioStreamCall(Generic[Key]):
    """A stream that is being answered."""

    _loop: asyncio.AbstractEventLoop

    def __init__(self, servers: AioServers, exchange: Exchange[Key], encode: Encode) -> None:
        self._servers = servers
        self._exchange = exchange
        self._encode = encode
        self._carriage: Carriage[Key, AioConnection] = Carriage(exchange, self)
        self._lock = self._carriage.lock
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._sleeps = False
        self._gathers = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    async def outcomes(self, requests: Requests[Key]) -> AsyncGenerator[Outcome[Key], None]:
        """Yield each request's outcome as soon as it is known, then raise what `requests` raised."""
        self._loop = asyncio.get_running_loop()
        feeder = asyncio.create_task(self._feed(requests))
        try:
            while True:
                outcome = self._take_outcome()
                if outcome is not None:
                    yield outcome
                elif self._exchange.finished:
                    break
                else:
                    await self._wait_for_news()
            if self._exchange.source_error is not None:
                raise self._exchange.source_error
        finally:
            self.close()
            feeder.cancel()
            await asyncio.wait([feeder])
            while self._carriage.has_legs:
                self._news.clear()
                await self._news.wait()

    def close(self) -> None:
        """Give up what is unanswered."""
        with self._lock:
            self._carriage.close()
        if self._alarm is not None:
            self._alarm.cancel()
        self._room.set()
        self._news.set()

    def _take_outcome(self) -> Outcome[Key] | None:
        with self._lock:
            outcome = self._carriage.next_outcome(monotonic())
            if outcome is not None:
                self._gathers = True
                if self._exchange.is_thirsty:
                    self._room.set()
        return outcome

    async def _wait_for_news(self) -> None:
        """Start a leg if one is needed; else wait until something came, or the next `tick` is due."""
        with self._lock:
            needs_leg = self._exchange.needs_leg
            if needs_leg:
                tried, deadline = tuple(self._exchange.tried), self._exchange.wake_at
            elif self._exchange.has_outcomes or self._exchange.finished:
                return
            else:
                self._sleeps = True
                self._news.clear()
                now = monotonic()
                wake_at = min(
                    self._exchange.next_look(now), now + GATHER_SECONDS if self._gathers else math.inf
                )
        if needs_leg:
            await self._start_leg(tried, deadline)
            return
        if wake_at < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_later(wake_at - now, self._ring)
            self._alarm_at = wake_at
        await self._news.wait()

    def _ring(self) -> None:
        """Let the caller's task look again, which sets the next alarm."""
        self._alarm_at = math.inf
        self._gathers = False
        self._news.set()

    async def _start_leg(self, tried: tuple[str, ...], deadline: float) -> None:
        try:
            slot = await self._servers.pick(tried, deadline)
        except Unavailable as error:
            with self._lock:
                self._exchange.fail_waiting(error)
            return
        self._carriage.start(slot)

    def answered(self) -> None:
        """Wake the caller's task if that is worth it; the lock is held."""
        if self._sleeps and (self._exchange.is_newsworthy or not self._gathers):
            self.alarmed()

    def alarmed(self) -> None:
        """Wake the caller's task; the lock is held."""
        if self._sleeps:
            self._sleeps = False
            self._tell(self._news.set)

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Have something done by the event loop."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            logger.debug("the event loop was closed in the middle of a stream")

    def elsewhere(self, tried: Collection[str]) -> bool:
        """Say whether a server other than those tried could be asked."""
        return self._servers.elsewhere(tried)

    def leg_ended(self, leg: CarriedLeg[Key, AioConnection]) -> None:
        """Let the event loop give the slot of a leg back; the lock is not held."""
        self._tell(self._end_leg, leg)

    def _end_leg(self, leg: CarriedLeg[Key, AioConnection]) -> None:
        self._servers.done(leg.slot, failed=leg.at_fault)
        self._carriage.finish(leg, elsewhere=self._servers.elsewhere((leg.slot.address,)))
        self._news.set()

    async def _feed(self, requests: Requests[Key]) -> None:
        error: BaseException | None = None
        try:
            source = requests if isinstance(requests, AsyncIterable) else _as_async(requests)
            iterator = aiter(source)
            while await self._wait_for_room():
                self._admit(await anext(iterator))
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError as raised:
            if cancelled_by_caller():
                raise
            error = raised  # of something that the caller's iterator waited for
        except Exception as raised:  # raised again where the caller waits for outcomes
            error = raised
        with self._lock:
            self._exchange.end_source(error)
            self._carriage.send()
        self._news.set()

    async def _wait_for_room(self) -> bool:
        while not (self._carriage.closed or self._exchange.has_room):
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(REFILL_SECONDS):
                    await self._room.wait()
        return not self._carriage.closed

    def _admit(self, item: object) -> None:
        key, inputs = pair_of(item)
        try:
            request = self._encode(inputs)
        except InvalidInput as error:
            with self._lock:
                self._exchange.refuse(key, error)
            self._news.set()
            return
        with self._lock:
            self._exchange.admit(key, request, monotonic())
            self._carriage.send()
            if self._exchange.needs_leg:
                self._news.set()


async def _as_async(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for item in requests:
        yield item
