"""ModelInfer and ModelStreamInfer on grpc.aio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.service import Service
from headrace_server.core.window import Window
from headrace_server.errors import InferenceError, Overloaded
from headrace_server.transport.aio_stream import Stream
from headrace_server.transport.answers import Encoder
from headrace_server.transport.holdings import Call, Holdings, foreseen_bytes, unforeseen_bytes
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.intake import Intake, own_reply
from headrace_server.transport.refusal import Context, refuse
from headrace_server.transport.shared_memory import Regions

_GRPC_ERROR: Final = ("triton_grpc_error", "true")
"""The header of a stream that is to end with the first error's own status."""


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    """What clients may have open, and what is held for them."""

    max_calls: int
    max_streams: int
    max_stream_requests: int
    max_in_flight_bytes: int
    stream_patience_seconds: float = 10.0
    """How long a stream may hold what others need without reading."""


class _CallReply:
    """Whom to answer on a unary call."""

    __slots__ = ("call", "future")

    def __init__(self, future: asyncio.Future[bytes | InferenceError], call: Call) -> None:
        self.future = future
        self.call = call

    @property
    def held_bytes(self) -> int:
        return self.call.size_bytes

    def __call__(self, answer: bytes | InferenceError) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def part(self, answer: bytes, window: Window | None) -> None:
        raise NotImplementedError("a unary call is never given a model with several responses")


class Inference:
    """The two procedures that infer, and the sink that their answers come back through."""

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        limits: InferenceLimits,
        regions: Regions,
        inflation: Inflation,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self.holdings = Holdings(limits.max_in_flight_bytes, self._end_stalled)
        """What is held for callers, of whatever they call."""
        self._intake = Intake(service, self, loop, self.holdings, regions, inflation)
        self._finishing = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.encode = Encoder().encode
        self.open = 0
        """Calls and streams that are being answered."""
        self._streams: set[Stream] = set()
        self._looked_at = 0.0

    @property
    def open_streams(self) -> int:
        """Streams alone."""
        return len(self._streams)

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""
        return self.holdings.size_bytes

    def admit(self, work: Work, answer: bytes) -> None:
        """Count what an answer has beyond what was foreseen, or raise Overloaded."""
        if more_bytes := unforeseen_bytes(work, answer):
            self._reserve(work, more_bytes)

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        """Wake the event loop, once for all of these."""
        self._loop.call_soon_threadsafe(self._hand_out, answers)

    def deliver_part(self, work: Work, answer: bytes) -> None:
        """Pass on one response of several, or raise Overloaded."""
        self._reserve(work, len(answer))
        self._loop.call_soon_threadsafe(self._hand_out_part, work, answer, work.window)

    async def finish(self, timeout_seconds: float) -> bool:
        """End the streams, wait for what was accepted; return whether all of it was answered in time."""
        self._finishing.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let go of the threads; nothing comes any more."""
        self._intake.close()

    async def infer(self, message: bytes, context: Context) -> bytes:
        """Answer one request."""
        call = Call()
        try:
            self._enter(context, call)
            self.holdings.admit(call, len(message))
            reply = _CallReply(self._loop.create_future(), call)
            limit = _limit(context)
            work = self._intake.take(message, limit, reply)
            if work is None:
                work = await self._intake.take_slowly(message, limit, reply)
                self.holdings.add(call, work.size_bytes)
            self.holdings.add(call, foreseen_bytes(work))
            try:
                answer = await reply.future
            except asyncio.CancelledError:
                self._intake.abandon(work)
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
            self._check_streams()
            self._enter(context, call)
        except Overloaded as error:
            await refuse(context, error)
        stream = Stream(
            self._intake,
            _limit(context),
            self._limits.max_stream_requests,
            call,
            self.holdings,
            ends_with_error=_GRPC_ERROR in (context.invocation_metadata() or ()),
            patience_seconds=self._limits.stream_patience_seconds,
        )
        self._streams.add(stream)
        try:
            ended = await stream.run(messages, context.write, self._finishing)
        finally:
            self._streams.discard(stream)
        if ended is not None:
            await refuse(context, ended)

    def _reserve(self, work: Work, size_bytes: int) -> None:
        try:
            self.holdings.reserve(size_bytes, own_reply(work).held_bytes)
        except Overloaded:
            self._loop.call_soon_threadsafe(self._end_stalled)
            raise

    def _hand_out(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        for work, answer in answers:
            if isinstance(answer, bytes) and (more_bytes := unforeseen_bytes(work, answer)):
                self.holdings.claim(own_reply(work).call, more_bytes)
            work.reply(answer)

    def _hand_out_part(self, work: Work, answer: bytes, window: Window | None) -> None:
        reply = own_reply(work)
        self.holdings.claim(reply.call, len(answer))
        reply.part(answer, window)

    def _end_stalled(self) -> None:
        """Have the streams end that hold what others need, and are not read."""
        now = time.monotonic()
        if now - self._looked_at < self._limits.stream_patience_seconds / 10:
            return
        self._looked_at = now
        for stream in tuple(self._streams):
            stream.end_if_stalled()

    def _check_streams(self) -> None:
        if self.open_streams >= self._limits.max_streams:
            raise Overloaded(f"{self.open_streams} streams are open, which is the limit")

    def _enter(self, context: Context, call: Call) -> None:
        if self.open >= self._limits.max_calls:
            raise Overloaded(f"{self.open} calls are open, which is the limit")
        self.open += 1
        self._idle.clear()
        # A stop waits for this, because only now has the answer been sent.
        leave: Any = functools.partial(self._leave, call)
        context.add_done_callback(leave)

    def _leave(self, call: Call, _: Context) -> None:
        self.holdings.release(call)
        self.open -= 1
        if not self.open:
            self._idle.set()


def _limit(context: Context) -> float:
    remaining = context.time_remaining()
    return NO_DEADLINE if remaining is None else time.monotonic() + remaining
