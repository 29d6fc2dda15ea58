"""Streams of grpc.aio, as procedures see them. All of this happens on the event loop."""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from headrace_server.transport.aio.calls import AioCall, Context
from headrace_server.transport.seam import StreamCall, StreamProcedure
from headrace_server.transport.status import Status, status_of

_logger = logging.getLogger(__name__)


class AioStreamCall(AioCall):
    """A call with any number of messages each way: one task reads, the call's own writes."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._writer = asyncio.current_task()
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._outgoing: collections.deque[bytes] = collections.deque()
        self._is_writing = False
        self._is_ending = False
        self._is_cut = False
        self._status: Status | None = None

    def receive(self) -> None:
        """Ask for the next message."""
        self._wanted.set()

    def send(self, message: bytes) -> None:
        """Send a message."""
        self._outgoing.append(message)
        self._changed.set()

    def finish(self, status: Status | None = None) -> None:
        """End the call after what was sent."""
        if not self._is_ending:
            self._is_ending = True
            self._status = status
            self._changed.set()

    def cut(self, status: Status) -> None:
        """End the call though what was sent has not left."""
        self._outgoing.clear()
        self._is_cut = True
        self.finish(status)
        if self._is_writing and self._writer is not None:
            self._writer.cancel()

    async def run(
        self, open_procedure: Callable[[StreamCall], StreamProcedure], messages: AsyncIterator[bytes]
    ) -> None:
        """Let a procedure talk with the client until one of them ends it."""
        try:
            procedure = open_procedure(self)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            await self.abort(status_of(error))

        ended: Any = functools.partial(_tell, procedure)
        self._context.add_done_callback(ended)
        reader = asyncio.create_task(self._read(messages, procedure))
        try:
            procedure.begin()
            await self._write(procedure)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self._status = status_of(error)
        finally:
            reader.cancel()
        if self._status is not None:
            await self.abort(self._status)

    async def _read(self, messages: AsyncIterator[bytes], procedure: StreamProcedure) -> None:
        message: bytes | None = b""
        try:
            while message is not None:
                await self._wanted.wait()
                self._wanted.clear()
                message = await anext(messages, None)
                procedure.received(message)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            self.finish(status_of(error))

    async def _write(self, procedure: StreamProcedure) -> None:
        """Write until the call ends, or the client has left."""
        while True:
            if self._outgoing:
                if not await self._write_one(self._outgoing.popleft()):
                    return
                procedure.sent()
            elif self._is_ending:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _write_one(self, message: bytes) -> bool:
        """Write, and return whether there may be more to come."""
        self._is_writing = True
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            if not self._is_cut:
                raise
            return False
        except Exception as error:  # grpc.aio has no single class for a connection that is gone
            _logger.debug("a client left its stream: %s", error)
            return False
        finally:
            self._is_writing = False
        return True


def _tell(procedure: StreamProcedure, _: Context) -> None:
    procedure.ended()
