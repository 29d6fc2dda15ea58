"""The servers behind a target, for blocking calls from any thread.

A fixed list needs no thread of its own. Any other look-up runs on one daemon thread, started by the
first call; until it has found out who there is, calls wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection
from random import Random
from threading import Condition, Lock, Thread
from time import monotonic

from headrace.channels import Connection, read_credentials
from headrace.config import Settings, consul_settings
from headrace.endpoint import Endpoint
from headrace.errors import ClientClosed, Unavailable
from headrace.lookup import Explained, Lookup, parse_target
from headrace.pool import RETIREMENT_SECONDS, Pool, Slot
from headrace.targets import StaticTarget, parse

logger = logging.getLogger(__name__)

Source = tuple[Endpoint, ...] | Lookup

SWEEP_DELAY_SECONDS = RETIREMENT_SECONDS + 0.05


def source_of(target: str | Lookup) -> Source:
    """Return the fixed list or the look-up that a target stands for; ValueError if it makes no sense."""
    if not isinstance(target, str):
        return target
    match parse(target):
        case StaticTarget(addresses):
            return tuple(Endpoint(address) for address in addresses)
        case _:
            return parse_target(target, consul_settings())


def nobody(name: str, listed: int, source: Source) -> Unavailable:
    """Return the error for a target without a usable server."""
    if listed:
        return Unavailable(f"there is no server to ask: all {listed} that {name} lists are in maintenance")
    return Unavailable(f"there is no server to ask: {name} lists none{_problem_of(source)}")


def unanswered(name: str, source: Source) -> Unavailable:
    """Return the error for a look-up that found nothing out while a call's time lasted."""
    why = _problem_of(source)
    return Unavailable(f"there is no server to ask: the look-up of {name} has not answered yet{why}")


def _problem_of(source: Source) -> str:
    """Return what a look-up says is wrong, to end a sentence with."""
    problem = source.problem if isinstance(source, Explained) else ""
    return f" ({problem})" if problem else ""


class Servers:
    """The pool of one client with its lock, its connections, and the look-up that keeps it up to date."""

    def __init__(self, target: str | Lookup, settings: Settings) -> None:
        self._source = source_of(target)
        self._name = target if isinstance(target, str) else type(target).__name__
        self._settings = settings
        self._credentials = read_credentials(settings.tls)
        self._pool = Pool(self._connect, Random())
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._started = False
        self._closed = False
        self._follower: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def _connect(self, endpoint: Endpoint) -> Connection:
        return Connection(endpoint, self._settings, self._credentials)

    @property
    def is_one(self) -> bool:
        """Whether all calls go to one server, whatever happens to it."""
        return isinstance(self._source, tuple) and len(self._source) == 1

    def pick(self, tried: Collection[str], deadline: float) -> Slot[Connection]:
        """Choose a server for one call, which `done` has to end.

        Unavailable if there is none, ClientClosed if the client is.
        """
        with self._lock:
            if not self._pool.known or self._closed:
                self._wait_for_first_set(deadline)
            slot = self._pool.pick(monotonic(), tried)
            if slot is None:
                raise nobody(self._name, self._pool.listed, self._source)
            return slot

    def _wait_for_first_set(self, deadline: float) -> None:
        if not self._started and not self._closed:
            self._started = True
            self._start()
        timeout = None if deadline == math.inf else deadline - monotonic()
        self._changed.wait_for(lambda: self._pool.known or self._closed, timeout)
        if self._closed:
            raise ClientClosed("the client is closed")
        if not self._pool.known:
            raise unanswered(self._name, self._source)

    def _start(self) -> None:
        if isinstance(self._source, tuple):
            self._pool.update(self._source, monotonic())
        else:
            thread = Thread(target=self._follow, args=(self._source,), name="headrace-lookup", daemon=True)
            thread.start()

    def _follow(self, lookup: Lookup) -> None:
        try:
            asyncio.run(self._watch(lookup))
        except asyncio.CancelledError:
            pass
        except Exception:
            logger.exception("the look-up of %s ended; the servers known last stay in use", self._name)
            with self._lock:
                self._pool.known = True
                self._changed.notify_all()

    async def _watch(self, lookup: Lookup) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        with self._lock:
            if self._closed or task is None:
                return
            self._follower = loop, task
        async for endpoints in lookup.watch():
            self._update(endpoints)
            loop.call_later(SWEEP_DELAY_SECONDS, self._sweep)

    def _update(self, endpoints: tuple[Endpoint, ...]) -> None:
        with self._lock:
            if self._closed:
                return
            closing = self._pool.update(endpoints, monotonic())
            self._changed.notify_all()
        _close(closing)

    def _sweep(self) -> None:
        with self._lock:
            closing = self._pool.sweep(monotonic())
        _close(closing)

    def done(self, slot: Slot[Connection], *, failed: bool) -> None:
        """End a call; `failed` says that the server was at fault and is better left out for a while."""
        with self._lock:
            closing = self._pool.done(slot, monotonic(), failed=failed)
        if closing:
            _close(closing)

    def elsewhere(self, tried: Collection[str]) -> bool:
        """Say whether a server other than those tried could be asked."""
        with self._lock:
            return self._pool.elsewhere(monotonic(), tried)

    def pause(self, seconds: float) -> None:
        """Wait before a retry; ClientClosed as soon as the client is."""
        with self._lock:
            if self._changed.wait_for(lambda: self._closed, seconds):
                raise ClientClosed("the client was closed during the call")

    @property
    def closed(self) -> bool:
        """Whether the client closed its connections, so that calls end for no fault of the servers."""
        return self._closed

    def close(self) -> None:
        """End the look-up and close every connection, which cancels the calls on them."""
        with self._lock:
            self._closed = True
            follower, self._follower = self._follower, None
            closing = self._pool.clear()
            self._changed.notify_all()
        if follower is not None:
            loop, task = follower
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the look-up ended by itself, and its loop with it
                logger.debug("the look-up of %s was over before the client was closed", self._name)
        _close(closing)


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.channel.close()
