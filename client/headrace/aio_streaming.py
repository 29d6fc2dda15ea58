"""One asynchronous stream call: the tasks that move an `Exchange`; the twin of `streaming`.

The caller's task waits for outcomes and starts legs, a feeder task runs the caller's iterator, and
each leg has the task in which gRPC sends and one that receives.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic

import grpc

from headrace.aio_servers import AioServers
from headrace.carriage import ANONYMOUS, UNANSWERED
from headrace.channels import AioConnection
from headrace.errors import ClientClosed, InvalidInput, Unavailable
from headrace.exchange import REFILL_SECONDS, Exchange, Key, Leg, Outcome
from headrace.messages import decode_stream_answer
from headrace.pool import Slot
from headrace.retry import CONNECTION_CLOSED, Failure
from headrace.status import failure_of
from headrace.stream_requests import Given, pair_of
from headrace.streaming import Encode

Requests = AsyncIterable[tuple[Key, Given]] | Iterable[tuple[Key, Given]]


def cancelled_by_caller() -> bool:
    """Say whether a CancelledError is meant for this task; gRPC raises the same for a closed connection."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AioStreamCall(Generic[Key]):
    """A stream that is being answered."""

    def __init__(self, servers: AioServers, exchange: Exchange[Key], encode: Encode) -> None:
        self._servers = servers
        self._exchange = exchange
        self._encode = encode
        self._room = asyncio.Event()
        self._work = asyncio.Event()
        self._news = asyncio.Event()
        self._space = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._now: Callable[[], float] = monotonic
        self._closed = False

    async def outcomes(self, requests: Requests[Key]) -> AsyncGenerator[Outcome[Key], None]:
        """Yield each request's outcome as soon as it is known, then raise what `requests` raised."""
        self._now = asyncio.get_running_loop().time
        self._spawn(self._feed(requests))
        try:
            while True:
                outcome = self._take_outcome()
                if outcome is not None:
                    yield outcome
                elif self._exchange.finished:
                    break
                elif self._exchange.needs_leg:
                    await self._start_leg()
                else:
                    await self._wait_for_news()
            if self._exchange.source_error is not None:
                raise self._exchange.source_error
        finally:
            self.close()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Give up what is unanswered."""
        self._closed = True
        self._wake_all()
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wake_all(self) -> None:
        for event in (self._room, self._work, self._news, self._space):
            event.set()

    def _take_outcome(self) -> Outcome[Key] | None:
        if self._closed:
            raise ClientClosed("the client was closed during the stream")
        if self._exchange.tick(self._now()):
            self._work.set()
        if self._exchange.is_full:
            self._space.set()
        outcome = self._exchange.next_outcome()
        if outcome is not None and self._exchange.is_thirsty:
            self._room.set()
        return outcome

    async def _wait_for_news(self) -> None:
        """Wait until something came, or until the next `tick` is due."""
        wake_at = self._exchange.next_look(self._now())
        if wake_at < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = asyncio.get_running_loop().call_at(wake_at, self._ring)
            self._alarm_at = wake_at
        self._news.clear()
        await self._news.wait()

    def _ring(self) -> None:
        """Let the caller's task look again, which sets the next alarm."""
        self._alarm_at = math.inf
        self._news.set()

    async def _start_leg(self) -> None:
        try:
            slot = await self._servers.pick(tuple(self._exchange.tried), self._exchange.wake_at)
        except Unavailable as error:
            self._exchange.fail_waiting(error)
            return
        leg = self._exchange.start_leg(slot.address)
        self._work.set()
        self._spawn(self._run_leg(leg, slot))

    async def _feed(self, requests: Requests[Key]) -> None:
        error: Exception | None = None
        try:
            source = requests if isinstance(requests, AsyncIterable) else _as_async(requests)
            iterator = aiter(source)
            while await self._wait_for_room():
                self._admit(await anext(iterator))
        except StopAsyncIteration:
            pass
        except Exception as raised:  # raised again where the caller waits for outcomes
            error = raised
        self._exchange.end_source(error)
        self._news.set()
        self._work.set()

    async def _wait_for_room(self) -> bool:
        while not (self._closed or self._exchange.has_room):
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(REFILL_SECONDS):
                    await self._room.wait()
        return not self._closed

    def _admit(self, item: object) -> None:
        key, inputs = pair_of(item)
        try:
            request = self._encode(inputs)
        except InvalidInput as error:
            self._exchange.refuse(key, error)
            self._news.set()
            return
        self._exchange.admit(key, request, self._now())
        if self._exchange.needs_leg:
            self._news.set()
        self._work.set()

    async def _run_leg(self, leg: Leg[Key], slot: Slot[AioConnection]) -> None:
        failure: Failure | None = CONNECTION_CLOSED
        at_fault = False
        try:
            failure = await self._receive(leg, slot)
            at_fault = bool(leg.unanswered) if failure is None else failure.server_at_fault
        except grpc.aio.UsageError:  # the connection was closed after it was picked
            pass
        except asyncio.CancelledError:
            if cancelled_by_caller():
                raise
        finally:
            self._servers.done(slot, failed=at_fault)
            elsewhere = self._servers.elsewhere((leg.address,))
            self._exchange.end_leg(leg, failure or UNANSWERED, self._now(), elsewhere=elsewhere)
            self._wake_all()

    async def _receive(self, leg: Leg[Key], slot: Slot[AioConnection]) -> Failure | None:
        """Pass answers on until the leg ends; return how it failed, or None if it ended well."""
        call = slot.link.stream(self._outgoing(leg, slot))
        try:
            async for message in call:
                failure = self._accept(leg, message)
                if failure is not None:
                    return failure
                while self._exchange.is_full and not self._closed:
                    self._space.clear()
                    await self._space.wait()
        except grpc.aio.AioRpcError as error:
            return failure_of(error, is_secure=slot.link.is_secure)
        finally:
            call.cancel()
        return None

    async def _outgoing(self, leg: Leg[Key], slot: Slot[AioConnection]) -> AsyncIterator[bytes]:
        """Yield what is to be sent on a leg."""
        while True:
            if slot.retired_at is not None:
                self._exchange.retire(leg)
            request = self._exchange.take(leg, self._now())
            if request is not None:
                yield request
            elif leg.open and not self._closed:
                self._work.clear()
                await self._work.wait()
            else:
                self._news.set()
                return

    def _accept(self, leg: Leg[Key], message: bytes) -> Failure | None:
        """Pass an answer on; return a failure that names no request, which ends the leg."""
        decoded = decode_stream_answer(message)
        request_id, answer, is_last = decoded.id, decoded.result, decoded.is_last
        if not request_id:
            return answer if isinstance(answer, Failure) else ANONYMOUS
        failed = isinstance(answer, Failure)
        elsewhere = failed and self._servers.elsewhere(leg.tried(request_id))
        now = self._now()
        if self._exchange.answer(leg, request_id, answer, now, elsewhere=elsewhere, is_last=is_last):
            self._work.set()
        self._news.set()
        return None


async def _as_async(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for item in requests:
        yield item
