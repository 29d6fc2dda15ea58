"""ModelInfer and ModelStreamInfer on grpc.aio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import grpc

from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.service import Service
from headrace_server.errors import InferenceError
from headrace_server.transport import codec
from headrace_server.transport.aio_stream import Stream
from headrace_server.transport.gathering import Gathering
from headrace_server.transport.status import status_of

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Reply = Callable[[bytes | InferenceError], None]


async def refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the status that the error stands for."""
    status = status_of(error)
    await context.abort(status.code, status.text, status.trailers)


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

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, max_stream_requests: int) -> None:
        self._service = service
        self._loop = loop
        self._max_stream_requests = max_stream_requests
        self._gathering = Gathering(loop)
        self._finishing = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.encode = codec.Encoder().encode
        self.open = 0
        """Calls and streams that are being answered."""

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        """Wake the event loop, once for all of these."""
        self._loop.call_soon_threadsafe(_hand_out, answers)

    async def finish(self, timeout_seconds: float) -> bool:
        """End the streams, wait for what was accepted; return whether all of it was answered in time."""
        self._finishing.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def submit(self, message: Any, limit: float, reply: Reply) -> Work:
        """Let a parsed request wait for its model; `reply` is called on the event loop."""
        now_ns = time.monotonic_ns()
        request = codec.to_request(message)
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
        self._enter(context)
        try:
            work = self.submit(codec.parse(message), _limit(context), functools.partial(_resolve, future))
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
        self._enter(context)
        stream = Stream(self.submit, self.abandon, _limit(context), self._max_stream_requests)
        error = await stream.run(messages, context.write, self._finishing)
        if error is not None:
            await refuse(context, error)

    def _enter(self, context: Context) -> None:
        self.open += 1
        self._idle.clear()
        # A stop waits for this, because only now has the answer been sent.
        context.add_done_callback(self._leave)  # type: ignore[arg-type]  # the stubs take no function here

    def _leave(self, _: Context) -> None:
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
