"""The servers behind a target, for calls on one event loop: the asynchronous twin of `servers`.

Everything runs on the loop, so there is no lock; `elsewhere`, which only reads, is asked by the threads of
streams as well. The look-up is a task that the first call starts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection
from random import Random
from time import monotonic

from headrace.channels import AioConnection, read_credentials
from headrace.config import Settings
from headrace.endpoint import Endpoint
from headrace.errors import ClientClosed
from headrace.lookup import Lookup
from headrace.pool import Pool, Slot
from headrace.servers import SWEEP_DELAY_SECONDS, nobody, source_of, unanswered

logger = logging.getLogger(__name__)


class AioServers:
    """The pool of one asynchronous client, its connections, and the look-up that keeps it up to date."""

    def __init__(self, target: str | Lookup, settings: Settings) -> None:
        self._source = source_of(target)
        self._name = target if isinstance(target, str) else type(target).__name__
        self._settings = settings
        self._credentials = read_credentials(settings.tls)
        self._pool = Pool(self._connect, Random())
        self._known = asyncio.Event()
        self._closed = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def _connect(self, endpoint: Endpoint) -> AioConnection:
        return AioConnection(endpoint, self._settings, self._credentials)

    @property
    def is_one(self) -> bool:
        """Whether all calls go to one server, whatever happens to it."""
        return isinstance(self._source, tuple) and len(self._source) == 1

    async def pick(self, tried: Collection[str], deadline: float) -> Slot[AioConnection]:
        """Choose a server for one call, which `done` has to end.

        Unavailable if there is none, ClientClosed if the client is.
        """
        if not self._pool.known or self._closed.is_set():
            await self._wait_for_first_set(deadline)
        slot = self._pool.pick(monotonic(), tried)
        if slot is None:
            raise nobody(self._name, self._pool.listed, self._source)
        return slot

    async def _wait_for_first_set(self, deadline: float) -> None:
        if self._closed.is_set():
            raise ClientClosed("the client is closed")
        if isinstance(self._source, tuple):
            self._update(self._source)
            return
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(self._source), name="headrace-lookup")
        try:
            async with asyncio.timeout(None if deadline == math.inf else deadline - monotonic()):
                await self._known.wait()
        except TimeoutError:
            raise unanswered(self._name, self._source) from None
        if self._closed.is_set():
            raise ClientClosed("the client was closed during the call")

    async def _watch(self, lookup: Lookup) -> None:
        try:
            async for endpoints in lookup.watch():
                self._update(endpoints)
                asyncio.get_running_loop().call_later(SWEEP_DELAY_SECONDS, self._sweep)
        except Exception:
            logger.exception("the look-up of %s ended; the servers known last stay in use", self._name)
            self._pool.known = True
            self._known.set()

    def _update(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._close_later(self._pool.update(endpoints, monotonic()))
        self._known.set()

    def _sweep(self) -> None:
        self._close_later(self._pool.sweep(monotonic()))

    def _close_later(self, connections: list[AioConnection]) -> None:
        for connection in connections:
            task = asyncio.ensure_future(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def done(self, slot: Slot[AioConnection], *, failed: bool) -> None:
        """End a call; `failed` says that the server was at fault and is better left out for a while."""
        closing = self._pool.done(slot, monotonic(), failed=failed)
        if closing:
            self._close_later(closing)

    def elsewhere(self, tried: Collection[str]) -> bool:
        """Say whether a server other than those tried could be asked."""
        return self._pool.elsewhere(monotonic(), tried)

    async def pause(self, seconds: float) -> None:
        """Wait before a retry; ClientClosed as soon as the client is."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise ClientClosed("the client was closed during the call")

    @property
    def closed(self) -> bool:
        """Whether the client closed its connections, so that calls end for no fault of the servers."""
        return self._closed.is_set()

    async def close(self) -> None:
        """End the look-up and close every connection, which cancels the calls on them."""
        self._closed.set()
        self._known.set()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        self._close_later(self._pool.clear())
        if self._closing:
            await asyncio.wait(self._closing)
