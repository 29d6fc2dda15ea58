"""One stream of requests: many in flight, answered as they are done, never more held than allowed.

A reader lets requests in while fewer than the limit are in work or wait to be written; so a client that
does not read its answers is not read from either. The stream ends when the client has closed its half and
everything is answered, or when the server finishes: then no more is read, and what was accepted is
answered first.
"""

from __future__ import annotations

import asyncio
import collections
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from headrace_server.core.request import Work
from headrace_server.errors import InferenceError, ShuttingDown
from headrace_server.transport import codec
from headrace_server.transport.status import status_of

Submit = Callable[[Any, float, Callable[[bytes | InferenceError], None]], Work]
Abandon = Callable[[Work], None]
Write = Callable[[bytes], Awaitable[None]]


class Stream:
    """The requests of one stream, between its reader and its writer."""

    def __init__(self, submit: Submit, abandon: Abandon, limit: float, max_requests: int) -> None:
        self._submit = submit
        self._abandon = abandon
        self._limit = limit
        self._max_requests = max_requests
        self._working: dict[int, Work] = {}
        self._count = 0
        self._answers: collections.deque[bytes] = collections.deque()
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
            await self._write(write, reader, watcher)
            if reader.done() and not reader.cancelled():
                reader.result()
                return None
            return ShuttingDown("the server is stopping; requests that were not answered were not executed")
        finally:
            reader.cancel()
            watcher.cancel()
            for work in self._working.values():
                self._abandon(work)
            self._working.clear()

    async def _write(self, write: Write, reader: asyncio.Task[None], watcher: asyncio.Task[bool]) -> None:
        while True:
            if watcher.done():
                reader.cancel()
            if self._answers:
                await write(self._answers.popleft())
                self._room.set()
            elif reader.done() and not self._working:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            self._accept(message)
            while len(self._working) + len(self._answers) >= self._max_requests:
                self._room.clear()
                await self._room.wait()

    def _accept(self, message: bytes) -> None:
        request_id = ""
        number = self._count
        self._count += 1
        try:
            request = codec.parse(message)
            request_id = request.id
            reply = functools.partial(self._reply, number, request_id)
            self._working[number] = self._submit(request, self._limit, reply)
        except Exception as error:  # the edge: one bad request ends alone
            self._answer_error(error, request_id)

    def _reply(self, number: int, request_id: str, answer: bytes | InferenceError) -> None:
        if self._working.pop(number, None) is None:
            return
        if isinstance(answer, bytes):
            self._answers.append(codec.stream_answer(answer))
            self._changed.set()
        else:
            self._answer_error(answer, request_id)

    def _answer_error(self, error: Exception, request_id: str) -> None:
        status = status_of(error)
        self._answers.append(codec.stream_error(status.text, request_id, status.code.name))
        self._changed.set()

    def _wake(self, _: asyncio.Task[Any]) -> None:
        self._changed.set()
