"""How an address to listen on is written: HOST:PORT, [IPv6]:PORT or unix:PATH."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from headrace_proto import socket_path

EXPECTED: Final = "expected HOST:PORT or unix:PATH"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A port of a host, or the path of a Unix socket; port 0 is any free port."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """The address as gRPC and a person write it."""
        if self.path:
            return f"{socket_path.PREFIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> ListenAddress:
    """Return the address that a text says; ValueError tells what is wrong with it."""
    if text.startswith(socket_path.PREFIX):
        return ListenAddress(path=socket_path.parse(text))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port: {EXPECTED}")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{text!r}: {port!r} is no port, 0 to 65535 are: {EXPECTED}")
    if host.startswith("[") and host.endswith("]"):
        return ListenAddress(_ipv6(text, host[1:-1]), int(port))
    if not host or any(character in host for character in "/[]@ "):
        raise ValueError(f"{text!r} has no valid host before its port: {EXPECTED}")
    if ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address is written in brackets, such as [::1]:8001")
    return ListenAddress(host, int(port))


def _ipv6(text: str, host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{text!r}: {host!r} is no IPv6 address: {EXPECTED}") from None
    return host
