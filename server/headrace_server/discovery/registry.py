"""What a server tells a registry about itself, and the interface of whoever tells it.

A registrar says the truth in the background for as long as the server serves: a registry that is
away, slow or forgetful is its business alone, and never stops a prediction.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol


class Check(Enum):
    """How a registry finds out that a server is gone."""

    TTL = "ttl"
    """The server says so at intervals; silence is death. Needs no way from the agent to the server."""
    GRPC = "grpc"
    """The agent asks the server's health service; also notices a server that lives but does not answer."""


def checks_for(chosen: Collection[str], *, clients_need_certificate: bool) -> frozenset[Check]:
    """Return the checks that somebody chose by name, or, if nobody did, those that can succeed.

    An agent shows no certificate to a server that asks for one, unless its own configuration tells it to
    (`enable_agent_tls_for_checks`): its gRPC check would take a server that is well for a dead one.
    """
    if chosen:
        return frozenset(map(Check, chosen))
    return frozenset({Check.TTL}) if clients_need_certificate else frozenset(Check)


class RegistrationError(Exception):
    """The registry did not take the entry; the text says why, and what would mend it."""


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One running server, as others shall find it.

    `address` is what clients dial, without a port. `models` maps each model to the version it
    serves. `metrics_port` is None where that port is closed. `instance` tells one start of the
    process from the next one at the same address. `checks` holds at least one: without any, a dead
    server would stay in the registry, as healthy.
    """

    address: str
    port: int
    name: str = "inference"
    tags: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    metrics_port: int | None = None
    tls: bool = False
    checks: frozenset[Check] = frozenset(Check)
    ttl_seconds: float = 15.0
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        if not self.name or not self.address:
            raise ValueError(f"an entry needs a name and an address, not {self.name!r} at {self.address!r}")
        if not 0 < self.port < 65536:
            raise ValueError(f"an entry's port is between 1 and 65535, not {self.port}")
        if not self.checks:
            raise ValueError(f"an entry's checks are one of {', '.join(c.value for c in Check)} at least")
        if not (math.isfinite(self.ttl_seconds) and self.ttl_seconds > 0):
            raise ValueError(f"a heartbeat's time to live is more than 0 s, not {self.ttl_seconds}")

    @property
    def id(self) -> str:
        """The same after a restart, so that the new process replaces the old one's entry."""
        return f"{self.name}-{self.address}-{self.port}"


class Registrar(Protocol):
    """Keeps one entry true in one registry."""

    @property
    def registered(self) -> asyncio.Event:
        """Set while the registry is known to hold the entry."""

    async def start(self) -> None:
        """Begin to register, in the background; returns at once."""

    async def first_attempt(self) -> None:
        """Wait until the registry took the entry, or raise RegistrationError once it did not."""

    async def update(self, models: Mapping[str, str]) -> None:
        """Let the entry name these models from now on; told in the background.

        With no model left the entry is taken out, until an update brings one: nobody shall come for
        nothing. Checks would not tell, for the server itself is well.
        """

    async def stop(self) -> None:
        """Take the entry out, within two seconds, and never raise: part of every way to stop."""


class MemoryRegistrar:
    """A registrar whose registry is a dict that several servers may share."""

    def __init__(self, entries: dict[str, ServiceEntry], entry: ServiceEntry) -> None:
        self.registered = asyncio.Event()
        self._started = False
        self._entries = entries
        self._entry = entry

    async def start(self) -> None:
        """Put the entry in."""
        self._started = True
        self._put()

    async def first_attempt(self) -> None:
        """Return once started."""
        await self.registered.wait()

    async def update(self, models: Mapping[str, str]) -> None:
        """Replace the entry by one with these models, or take it out while there are none."""
        self._entry = replace(self._entry, models=models)
        if self._started and models:
            self._put()
        else:
            self._take_out()

    async def stop(self) -> None:
        """Take the entry out."""
        self._started = False
        self._take_out()

    def _put(self) -> None:
        self._entries[self._entry.id] = self._entry
        self.registered.set()

    def _take_out(self) -> None:
        self._entries.pop(self._entry.id, None)
        self.registered.clear()


def why_not_registered(host: str, advertise: str = "") -> str | None:
    """Say why an entry would mislead, or None where it may be registered.

    `host` is where the server listens, `advertise` the address that somebody asked to be announced
    instead ("" if nobody did). An address of this machine alone is registered only when asked for.
    """
    announced = advertise or host
    if _is_unspecified(announced):
        return (
            f"{announced} means every interface and is no address that a client could dial: "
            "say with --advertise how others reach this machine"
        )
    if not advertise and _is_loopback(host):
        return (
            f"the server listens on {host}, which nobody outside this machine can reach: "
            f"give --host an address of the network, or --advertise {host} to register it all the same"
        )
    return None


def _is_unspecified(host: str) -> bool:
    address = _ip_address(host)
    return address is not None and address.is_unspecified


def _is_loopback(host: str) -> bool:
    address = _ip_address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
