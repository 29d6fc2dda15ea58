"""ModelInfer and ModelStreamInfer on grpc.aio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import grpc

from headrace_server.core.request import NO_DEADLINE, Request, Work
from headrace_server.core.service import Service
from headrace_server.errors import InferenceError, Overloaded
from headrace_server.transport import codec
from headrace_server.transport.aio_stream import Stream
from headrace_server.transport.gathering import Gathering
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.status import status_of

_QUIET_SECONDS = 0.1
_MOST_HEARING_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 1.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Reply = Callable[[bytes | InferenceError], None]


async def refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the status that the error stands for."""
    status = status_of(error)
    await context.abort(status.code, status.text, status.trailers())


class _TimedReply:
    """A reply to a request with a timer, which would otherwise hold the request until its deadline."""

    __slots__ = ("_reply", "_timer")

    def __init__(self, timer: asyncio.TimerHandle, reply: Reply) -> None:
        self._timer = timer
        self._reply = reply

    def __call__(self, answer: bytes | InferenceError) -> None:
        self._timer.cancel()
        self._reply(answer)

    def disarm(self) -> None:
        self._timer.cancel()


class Inference:
    """The two procedures that infer, and the sink that their answers come back through."""

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        *,
        max_calls: int,
        max_stream_requests: int,
        max_in_flight_bytes: int,
    ) -> None:
        self._service = service
        self._loop = loop
        self._max_calls = max_calls
        self._max_stream_requests = max_stream_requests
        self._holdings = Holdings(max_in_flight_bytes)
        self._gathering = Gathering(loop)
        self._finishing = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_arrival = 0.0
        self.encode = codec.Encoder().encode
        self.open = 0
        """Calls and streams that are being answered."""
        self.open_streams = 0

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""
        return self._holdings.size_bytes

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        """Wake the event loop, once for all of these."""
        self._loop.call_soon_threadsafe(_hand_out, answers)

    def deliver_part(self, work: Work, answer: bytes) -> None:
        """Pass on one response of several."""
        self._loop.call_soon_threadsafe(work.reply.part, answer)

    async def finish(self, timeout_seconds: float) -> bool:
        """End the streams, wait for what was accepted; return whether all of it was answered in time."""
        self._finishing.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def hear_out(self) -> None:
        """Go on refusing until no call has come for a moment.

        Calls that gRPC has read, and not handed over, are cancelled when it stops: their callers would be
        told neither why, nor that they were not executed.
        """
        give_up = time.monotonic() + _MOST_HEARING_SECONDS
        while True:
            now = time.monotonic()
            quiet_at = self._last_arrival + _QUIET_SECONDS
            if now >= min(quiet_at, give_up):
                return
            await asyncio.sleep(min(quiet_at, give_up) - now)

    def submit(self, request: Request, limit: float, reply: Reply) -> Work:
        """Let a request wait for its model; `reply` is called on the event loop."""
        now_ns = time.monotonic_ns()
        work = self._service.infer(request, limit, self, reply, now_ns, hold=True)
        self._gathering.add(work)
        if work.deadline < limit:  # gRPC enforces the call's own deadline, and not the request's
            timer = self._loop.call_later(work.deadline - now_ns * 1e-9, work.model.expire, work)
            work.reply = _TimedReply(timer, reply)
        return work

    def abandon(self, work: Work) -> None:
        """Let go of a request whose caller has gone."""
        work.model.cancel(work)
        if isinstance(work.reply, _TimedReply):
            work.reply.disarm()

    async def infer(self, message: bytes, context: Context) -> bytes:
        """Answer one request."""
        future: asyncio.Future[bytes | InferenceError] = self._loop.create_future()
        call = Call()
        try:
            self._enter(context, call)
            self._holdings.admit(call, len(message))
            request = (
                await asyncio.to_thread(codec.decode, message)
                if codec.is_large(message)
                else codec.decode(message)
            )
            work = self.submit(request, _limit(context), functools.partial(_resolve, future))
            self._holdings.add(call, work.rows * work.model.facts.answer_row_bytes)
            try:
                answer = await future
            except asyncio.CancelledError:
                self.abandon(work)
                raise
            if isinstance(answer, bytes):
                return answer
            return await refuse(context, answer)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:  # the edge: the table of statuses decides what leaves
            return await refuse(context, error)

    async def stream(self, messages: AsyncIterator[bytes], context: Context) -> None:
        """Answer the requests of a stream in the order in which they are done."""
        call = Call()
        try:
            self._enter(context, call)
        except Overloaded as error:
            await refuse(context, error)
        stream = Stream(self, _limit(context), self._max_stream_requests, call, self._holdings)
        self.open_streams += 1
        try:
            ended = await stream.run(messages, context.write, self._finishing)
        finally:
            self.open_streams -= 1
        if ended is not None:
            await refuse(context, ended)

    def _enter(self, context: Context, call: Call) -> None:
        self._last_arrival = time.monotonic()
        if self.open >= self._max_calls:
            raise Overloaded(f"{self.open} calls are open, which is the limit", _RETRY_AFTER_SECONDS)
        self.open += 1
        self._idle.clear()
        # A stop waits for this, because only now has the answer been sent.
        leave: Any = functools.partial(self._leave, call)
        context.add_done_callback(leave)

    def _leave(self, call: Call, _: Context) -> None:
        self._holdings.release(call)
        self.open -= 1
        if not self.open:
            self._idle.set()


def _limit(context: Context) -> float:
    remaining = context.time_remaining()
    return NO_DEADLINE if remaining is None else time.monotonic() + remaining


def _resolve(future: asyncio.Future[bytes | InferenceError], answer: bytes | InferenceError) -> None:
    if not future.done():
        future.set_result(answer)


def _hand_out(answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
    for work, answer in answers:
        work.reply(answer)
