"""One stream of requests: many in flight, answered as they are done, never more held than allowed.

A reader lets requests in while fewer than the limit are in work or wait to be written; so a client that
does not read its answers is not read from either, and a program that makes many responses waits until they
have left. The stream ends when the client has closed its half and everything is answered, with the first
error where the client asked for that, or when the server finishes: then no more is read, and what was
accepted is answered first. One whose client takes nothing while others need its room, or while a program
waits for it, is ended unanswered.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

from headrace_server.core.request import Work
from headrace_server.core.window import Window
from headrace_server.errors import InferenceError, Overloaded, ShuttingDown, Unread
from headrace_server.transport import answers, outline
from headrace_server.transport.holdings import Call, Holdings, foreseen_bytes, unforeseen_bytes
from headrace_server.transport.inflation import beginning
from headrace_server.transport.intake import Intake
from headrace_server.transport.status import status_of

_logger = logging.getLogger(__name__)

Write = Callable[[bytes], Awaitable[None]]

_WANTS_END: Final = "triton_enable_empty_final_response"


class _Outgoing(NamedTuple):
    """A message to be written, and what is free again when it has left."""

    message: bytes
    held_bytes: int
    window: Window | None = None
    """Of a request with several responses, of which this one is not the last."""


class Stream:
    """The requests of one stream, between its reader and its writer."""

    def __init__(
        self,
        intake: Intake,
        limit: float,
        max_requests: int,
        call: Call,
        holdings: Holdings,
        *,
        ends_with_error: bool = False,
        patience_seconds: float,
    ) -> None:
        """`limit` is the stream's deadline; `ends_with_error` has the first error end it.

        `patience_seconds` is how long a message may wait for its client while others need the room.
        """
        self._intake = intake
        self._limit = limit
        self._max_requests = max_requests
        self._call = call
        self._holdings = holdings
        self._ends_with_error = ends_with_error
        self._error: Exception | None = None
        """What the stream ends with, once all that came before it has been written."""
        self._patience_seconds = patience_seconds
        self._task: asyncio.Task[Any] | None = None
        self._writing_since = 0.0
        """When the message was begun that is being written; 0 while none is."""
        self._is_given_up = False
        self._working: dict[int, Work] = {}
        self._count = 0
        self._outgoing: collections.deque[_Outgoing] = collections.deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def run(
        self, messages: AsyncIterator[bytes], write: Write, finishing: asyncio.Event
    ) -> Exception | None:
        """Answer until the stream is over; return why the server ended it, if it did."""
        self._task = asyncio.current_task()
        reader = asyncio.create_task(self._read(messages))
        watcher = asyncio.create_task(finishing.wait())
        for task in (reader, watcher):
            task.add_done_callback(self._wake)
        try:
            if not await self._write(write, reader, watcher):
                return None
            if self._error is not None:
                return self._error
            if reader.done() and not reader.cancelled():
                reader.result()
                return None
            return ShuttingDown("the server is stopping; requests that were not answered were not executed")
        finally:
            reader.cancel()
            watcher.cancel()
            self._let_go()

    async def _write(self, write: Write, reader: asyncio.Task[None], watcher: asyncio.Task[bool]) -> bool:
        """Write until everything is answered; return False if the client left before."""
        while True:
            if watcher.done():
                reader.cancel()
            if self._outgoing:
                if not await self._write_one(write, self._outgoing.popleft()):
                    return False
            elif self._error is not None or (reader.done() and not self._working):
                return True
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _write_one(self, write: Write, outgoing: _Outgoing) -> bool:
        self._writing_since = time.monotonic()
        try:
            await write(outgoing.message)
        except asyncio.CancelledError:
            if not self._is_given_up:
                raise
        except Exception as error:  # grpc.aio has no single class for a connection that is gone
            _logger.debug("a client left its stream: %s", error)
            return False
        finally:
            self._writing_since = 0.0
            self._left(outgoing)
        return True

    def end_if_stalled(self) -> None:
        """End the stream if its client has taken nothing for so long that others may have its room."""
        waits = self._writing_since and time.monotonic() - self._writing_since >= self._patience_seconds
        if not waits or self._is_given_up:
            return
        self._give_up(Overloaded(f"the answers were not read for {self._patience_seconds:g} s"))

    def _give_up(self, error: Overloaded) -> None:
        """End a stream that is not read, without an answer to what is on it."""
        self._is_given_up = True
        self._error = error
        self._let_go()
        if self._writing_since and self._task is not None:
            self._task.cancel()
        self._changed.set()

    def _left(self, outgoing: _Outgoing) -> None:
        self._holdings.add(self._call, -outgoing.held_bytes)
        if outgoing.window is not None:
            outgoing.window.written(outgoing.held_bytes)
        self._room.set()

    def _let_go(self) -> None:
        """Give up what is in work, and what was not written."""
        for work in self._working.values():
            self._intake.abandon(work)
        self._working.clear()
        while self._outgoing:
            self._left(self._outgoing.popleft())

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            await self._accept(message)
            if self._error is not None:
                return
            while not self._has_room():
                self._room.clear()
                await self._room.wait()

    def _has_room(self) -> bool:
        held = len(self._working) + len(self._outgoing)
        return held < self._max_requests and (not held or self._holdings.has_room(self._call))

    async def _accept(self, message: bytes) -> None:
        number = self._count
        self._count += 1
        reply = _Reply(self, number, self._call)
        held_bytes = len(message)
        try:
            self._holdings.admit(self._call, held_bytes)
            reply.held_bytes = held_bytes
            work = self._intake.take(message, self._limit, reply, takes_many=True)
            if work is None:
                work = await self._intake.take_slowly(message, self._limit, reply, takes_many=True)
                held_bytes += work.size_bytes
            self._working[number] = work
            held_bytes += foreseen_bytes(work)
            self._holdings.add(self._call, held_bytes - reply.held_bytes)
            reply.held_bytes = held_bytes
        except Exception as error:  # the edge: one bad request ends alone
            self._fail(error, outline.request_id(beginning(message)), reply.held_bytes)

    def answer(self, reply: _Reply, answer: bytes | InferenceError) -> None:
        """Take the last answer of a request, unless the stream has ended."""
        work = self._working.pop(reply.number, None)
        if work is None:
            return
        if isinstance(answer, Unread):
            self._left(_Outgoing(b"", reply.held_bytes))
            self._give_up(answer)
        elif not isinstance(answer, bytes):
            self._fail(answer, work.id, reply.held_bytes)
        elif answer:
            held_bytes = reply.held_bytes + unforeseen_bytes(work, answer)
            self._send(_Outgoing(answers.stream_answer(answer), held_bytes))
        elif work.parameters.get(_WANTS_END) is True:
            self._send(_Outgoing(answers.stream_end(work), reply.held_bytes))
        else:
            self._left(_Outgoing(b"", reply.held_bytes))
            self._changed.set()

    def answer_part(self, reply: _Reply, answer: bytes, window: Window | None) -> None:
        """Take one response of several, whose bytes are held."""
        if reply.number not in self._working:
            self._left(_Outgoing(b"", len(answer), window))
            return
        self._send(_Outgoing(answers.stream_answer(answer, is_final=False), len(answer), window))

    def _fail(self, error: Exception, request_id: str, held_bytes: int) -> None:
        if not self._ends_with_error:
            self._send(_Outgoing(answers.stream_error(status_of(error), request_id), held_bytes))
            return
        self._error = self._error or error
        self._left(_Outgoing(b"", held_bytes))
        self._changed.set()

    def _send(self, outgoing: _Outgoing) -> None:
        if self._error is not None:
            self._left(outgoing)
            return
        self._outgoing.append(outgoing)
        self._changed.set()

    def _wake(self, _: asyncio.Task[Any]) -> None:
        self._changed.set()


class _Reply:
    """Whom to answer on a stream."""

    __slots__ = ("call", "held_bytes", "number", "stream")

    def __init__(self, stream: Stream, number: int, call: Call) -> None:
        self.call = call
        self.stream = stream
        self.number = number
        self.held_bytes = 0

    def __call__(self, answer: bytes | InferenceError) -> None:
        self.stream.answer(self, answer)

    def part(self, answer: bytes, window: Window | None) -> None:
        self.stream.answer_part(self, answer, window)
