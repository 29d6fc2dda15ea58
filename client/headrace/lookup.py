"""How a client finds its servers: the ways that exist, behind one interface.

A look-up hands over complete sets, and keeps the last good one while whoever it asks is away.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from headrace.config import ConsulSettings
from headrace.endpoint import Endpoint, Status, joined
from headrace.targets import ConsulTarget, DnsTarget, StaticTarget, parse

__all__ = ["DnsLookup", "Endpoint", "Lookup", "StaticLookup", "Status", "parse_target"]

logger = logging.getLogger(__name__)

DNS_INTERVAL_SECONDS = 30.0
"""How often a name is resolved again: the system tells no lifetime of what it answered."""
FIRST_BACKOFF_SECONDS = 0.1

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From host and port to every address, each as host:port; OSError if that fails."""


class Lookup(Protocol):
    """Knows which servers there are."""

    def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        """Yield the complete set as soon as it is known, and again whenever it changes.

        Ends only by being cancelled or closed; never raises because a registry is away.
        """


@runtime_checkable
class Explained(Protocol):
    """A look-up that can tell why it has found nothing out."""

    @property
    def problem(self) -> str:
        """What is wrong at the moment, whom it asked included; "" while all is well."""


class StaticLookup:
    """Servers that the caller named."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._endpoints = tuple(Endpoint(address) for address in addresses)

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        """Yield the set once, and wait for ever."""
        yield self._endpoints
        await asyncio.Event().wait()


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """Return every address that the system has for a name."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(joined(str(address[0]), port) for *_, address in answers)


class DnsLookup:
    """Every address of one name, resolved again at an interval."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        interval_seconds: float = DNS_INTERVAL_SECONDS,
        resolve: Resolve = resolve,
    ) -> None:
        self._host = host
        self._port = port
        self._interval_seconds = interval_seconds
        self._resolve = resolve
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the name has no addresses at the moment; "" while it has some."""
        return self._problem

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        """Yield the addresses whenever they are others than before; a name that fails changes nothing."""
        known: tuple[Endpoint, ...] | None = None
        failures = 0
        while True:
            try:
                addresses = await self._resolve(self._host, self._port)
            except OSError as error:
                self._problem = f"{self._host} cannot be resolved: {error}"
                if not failures:
                    logger.warning("%s", self._problem)
                delay_seconds = FIRST_BACKOFF_SECONDS * 2 ** min(failures, 30)
                failures += 1
            else:
                failures = 0
                self._problem = ""
                delay_seconds = self._interval_seconds
                found = tuple(Endpoint(address, name=self._host) for address in sorted(set(addresses)))
                if found != known:
                    known = found
                    yield known
            await asyncio.sleep(min(delay_seconds, self._interval_seconds) * random.uniform(0.5, 1.0))


def parse_target(target: str, consul: ConsulSettings | None = None) -> Lookup:
    """Return the look-up that a target string asks for (`targets` tells the forms).

    `consul` says how to reach Consul where the target does not. ValueError says what is wrong.
    """
    match parse(target):
        case StaticTarget(addresses):
            return StaticLookup(addresses)
        case DnsTarget(host, port):
            return DnsLookup(host, port)
        case ConsulTarget() as wanted:
            # An HTTP client is a tenth of a second of imports that most clients do not need.
            from headrace.consul_watch import ConsulLookup

            return ConsulLookup(wanted, consul or ConsulSettings())
