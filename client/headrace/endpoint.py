"""Where a server can be reached, and what the registry thinks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Status(Enum):
    """A registry's judgement on one server, from best to worst."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"
    """An operator took it out: it works, and gets no new calls."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server as a look-up found it.

    `address` is host:port, with an IPv6 host in brackets, or unix:path, as gRPC takes it. `weight` is the
    share of calls it should get beside others. `id`, `tags` and `meta` are the registry's own. `name` is
    what was resolved to the address, "" if nothing was: a certificate is for that, not for what it became.
    """

    address: str
    weight: int = 1
    status: Status = Status.PASSING
    id: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    name: str = ""

    @property
    def tls(self) -> bool:
        """Whether the server is registered as one that speaks TLS."""
        return self.meta.get("tls") == "1"


def joined(host: str, port: int) -> str:
    """Return host:port, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
