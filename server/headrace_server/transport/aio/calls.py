"""Unary calls of grpc.aio, as procedures see them. All of this happens on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from headrace_server.core.request import NO_DEADLINE
from headrace_server.transport.arrived import NO_MESSAGE
from headrace_server.transport.seam import Metadata, Peer
from headrace_server.transport.status import Status, status_of

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class AioCall:
    """What unary calls and streams have in common."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._let_go: Callable[[AioCall], object] | None = None
        remaining = context.time_remaining()
        self.deadline = NO_DEADLINE if remaining is None else time.monotonic() + remaining

    @property
    def metadata(self) -> Metadata:
        """What came beside the messages."""
        return tuple(self._context.invocation_metadata() or ())

    def peer(self) -> Peer:
        """Return who calls."""
        identity = {key: tuple(values) for key, values in self._context.auth_context().items()}
        return Peer(self._context.peer(), identity)

    def when_over(self, function: Callable[[AioCall], object]) -> None:
        """Have the function called with this call once what ends it has been sent."""
        self._let_go = function
        over: Any = self._over
        self._context.add_done_callback(over)

    def is_unsent(self) -> bool:
        """Whether the call needs a message, and has none yet."""
        return False

    def is_untaken(self) -> bool:
        """Return False: grpc.aio has nothing that would end such a call in its core."""
        return False

    def give_up(self, status: Status) -> None:
        """End the call with this status, if it is unsent."""

    def _over(self, _: Context) -> None:
        if self._let_go is not None:
            self._let_go(self)

    async def abort(self, status: Status) -> NoReturn:
        """End the call; nobody is told where the caller has gone."""
        try:
            await self._context.abort(status.code, status.text, status.trailers())
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None


class AioUnaryCall(AioCall):
    """A call with one message and one answer."""

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(context)
        self.on_end: Callable[[], None] | None = None
        self._outcome: asyncio.Future[bytes | Status] = loop.create_future()
        self._reader = asyncio.current_task()
        """None once the message has come."""

    def answer(self, message: bytes) -> None:
        """End the call well."""
        if not self._outcome.done():
            self._outcome.set_result(message)

    def fail(self, status: Status) -> None:
        """End the call with this status."""
        if not self._outcome.done():
            self._outcome.set_result(status)

    def is_unsent(self) -> bool:
        """Whether the message has not come."""
        return self._reader is not None

    def give_up(self, status: Status) -> None:
        """End the call with this status, if its message has not come."""
        if self._reader is not None:
            self.fail(status)
            self._reader.cancel()

    async def run(self, take: Callable[[AioUnaryCall, bytes], None]) -> bytes:
        """Let the procedure answer what comes, and return its answer to grpc.aio."""
        message = await self._received()
        try:
            if message is not None:
                take(self, message)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self.fail(status_of(error))
        outcome = await self._outcome
        if isinstance(outcome, bytes):
            return outcome
        return await self.abort(outcome)

    async def _received(self) -> bytes | None:
        """Return the message; None where there is none, of which the caller has been told."""
        message: Any = None
        try:
            message = await self._context.read()
        except asyncio.CancelledError:
            if not self._outcome.done():  # the caller has gone
                raise
        self._reader = None
        if isinstance(message, bytes):
            return message
        self.fail(NO_MESSAGE)
        return None

    def _over(self, context: Context) -> None:
        super()._over(context)
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()
