"""One stream of requests: many in flight, answered as they are done, never more held than allowed.

A reader lets requests in while fewer than the limit are in work or wait to be written; so a client that
does not read its answers is not read from either. The stream ends when the client has closed its half and
everything is answered, or when the server finishes: then no more is read, and what was accepted is
answered first.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from headrace_server.core.request import Request, Work
from headrace_server.errors import InferenceError, ShuttingDown
from headrace_server.transport import codec
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.status import status_of

_logger = logging.getLogger(__name__)

Write = Callable[[bytes], Awaitable[None]]


class Submitter(Protocol):
    """Where requests go; the functions of `Inference` that a stream needs."""

    def submit(self, request: Request, limit: float, reply: Callable[[bytes | InferenceError], None]) -> Work:
        """Let a request wait for its model."""

    def abandon(self, work: Work) -> None:
        """Let go of a request whose caller has gone."""


class Stream:
    """The requests of one stream, between its reader and its writer."""

    def __init__(
        self, submitter: Submitter, limit: float, max_requests: int, call: Call, holdings: Holdings
    ) -> None:
        self._submitter = submitter
        self._limit = limit
        self._max_requests = max_requests
        self._call = call
        self._holdings = holdings
        self._working: dict[int, Work] = {}
        self._count = 0
        self._answers: collections.deque[tuple[bytes, int]] = collections.deque()
        """What waits to be written, and how many bytes the stream holds for it."""
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def run(
        self, messages: AsyncIterator[bytes], write: Write, finishing: asyncio.Event
    ) -> ShuttingDown | None:
        """Answer until the stream is over; return why the server ended it, if it did."""
        reader = asyncio.create_task(self._read(messages))
        watcher = asyncio.create_task(finishing.wait())
        for task in (reader, watcher):
            task.add_done_callback(self._wake)
        try:
            if not await self._write(write, reader, watcher):
                return None
            if reader.done() and not reader.cancelled():
                reader.result()
                return None
            return ShuttingDown("the server is stopping; requests that were not answered were not executed")
        finally:
            reader.cancel()
            watcher.cancel()
            for work in self._working.values():
                self._submitter.abandon(work)
            self._working.clear()

    async def _write(self, write: Write, reader: asyncio.Task[None], watcher: asyncio.Task[bool]) -> bool:
        """Write until everything is answered; return False if the client left before."""
        while True:
            if watcher.done():
                reader.cancel()
            if self._answers:
                answer, held_bytes = self._answers.popleft()
                try:
                    await write(answer)
                except Exception as error:  # grpc.aio has no single class for a connection that is gone
                    _logger.debug("a client left its stream: %s", error)
                    return False
                self._holdings.add(self._call, -held_bytes)
                self._room.set()
            elif reader.done() and not self._working:
                return True
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            await self._accept(message)
            while not self._has_room():
                self._room.clear()
                await self._room.wait()

    def _has_room(self) -> bool:
        held = len(self._working) + len(self._answers)
        return held < self._max_requests and (not held or self._holdings.has_room(self._call))

    async def _accept(self, message: bytes) -> None:
        request_id = ""
        number = self._count
        self._count += 1
        held_bytes = 0
        try:
            self._holdings.admit(self._call, len(message))
            held_bytes = len(message)
            parsed = codec.parse(message)
            request_id = parsed.id
            request = (
                await asyncio.to_thread(codec.to_request, parsed)
                if codec.is_large(message)
                else codec.to_request(parsed)
            )
            reply = _Reply(self, number, request_id)
            work = self._working[number] = self._submitter.submit(request, self._limit, reply)
            reply.held_bytes = held_bytes + work.rows * work.model.facts.answer_row_bytes
            self._holdings.add(self._call, reply.held_bytes - held_bytes)
        except Exception as error:  # the edge: one bad request ends alone
            self._answer_error(error, request_id, held_bytes)

    def reply(self, reply: _Reply, answer: bytes | InferenceError) -> None:
        """Take the answer of a request, unless the stream has ended."""
        if self._working.pop(reply.number, None) is None:
            return
        if isinstance(answer, bytes):
            self._answers.append((codec.stream_answer(answer), reply.held_bytes))
            self._changed.set()
        else:
            self._answer_error(answer, reply.request_id, reply.held_bytes)

    def _answer_error(self, error: Exception, request_id: str, held_bytes: int) -> None:
        self._answers.append((codec.stream_error(status_of(error), request_id), held_bytes))
        self._changed.set()

    def _wake(self, _: asyncio.Task[Any]) -> None:
        self._changed.set()


class _Reply:
    """Whom to answer on a stream."""

    __slots__ = ("held_bytes", "number", "request_id", "stream")

    def __init__(self, stream: Stream, number: int, request_id: str) -> None:
        self.stream = stream
        self.number = number
        self.request_id = request_id
        self.held_bytes = 0

    def __call__(self, answer: bytes | InferenceError) -> None:
        self.stream.reply(self, answer)
