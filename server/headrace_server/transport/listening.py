"""The addresses that a server listens on: opened before it starts, closed after it has stopped.

gRPC says of an address that it cannot listen on nothing but that, and takes over the socket file of a
server that runs. So the file is looked at first, and the reason found out afterwards.
"""

from __future__ import annotations

import errno
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpc

from headrace_server.listen_address import ListenAddress

Bind = Callable[[str, grpc.ServerCredentials | None], int]
"""Has gRPC listen on an address; returns the port, or 0 where it cannot."""


class PortError(Exception):
    """An address cannot be listened on; the text names it, and why."""


class Listening:
    """Addresses of one server, all of which speak TLS if there are credentials, and none otherwise."""

    def __init__(
        self,
        addresses: Sequence[ListenAddress],
        credentials: Callable[[], grpc.ServerCredentials] | None = None,
    ) -> None:
        """`credentials` is asked once for each address: gRPC renews certificates of one alone by each."""
        self._addresses = addresses
        self._credentials = credentials
        self._sockets: dict[Path, int] = {}

    def open(self, bind: Bind) -> tuple[ListenAddress, ...]:
        """Let a server listen by `bind`; return the addresses with the ports that they got.

        Raises PortError.
        """
        bound: list[ListenAddress] = []
        for address in self._addresses:
            if address in bound or (address.path and Path(address.path).absolute() in self._sockets):
                raise PortError(f"cannot listen on {address}: it is given twice")
            bound.append(self._open(bind, address))
        return tuple(bound)

    def close(self) -> None:
        """Remove the socket files that were made and are still ours."""
        for path, inode in self._sockets.items():
            try:
                if path.stat().st_ino == inode:
                    path.unlink()
            except FileNotFoundError:
                continue

    def _open(self, bind: Bind, address: ListenAddress) -> ListenAddress:
        if address.path:
            _make_way(address)
        port = bind(str(address), self._credentials() if self._credentials else None)
        if not port:
            raise PortError(f"cannot listen on {address}: {_why_not(address)}")
        if not address.path:
            return replace(address, port=port)
        path = Path(address.path).absolute()  # whatever folder the process is in when it is removed
        self._sockets[path] = path.stat().st_ino
        return address


def _make_way(address: ListenAddress) -> None:
    """Remove the socket file that a server left when it was killed, and nothing else."""
    path = Path(address.path)
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except OSError:  # there is nothing yet, or nothing can be: gRPC's attempt tells
        return
    if kind != stat.S_IFSOCK:
        raise PortError(f"cannot listen on {address}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            pass
        except BlockingIOError:  # its queue of connections is full
            raise PortError(f"cannot listen on {address}: another process does") from None
        except OSError as error:
            told = f"cannot listen on {address}: whether another process does cannot be found out"
            raise PortError(f"{told} ({error.strerror})") from error
        else:
            raise PortError(f"cannot listen on {address}: another process does")
    try:
        path.unlink()
    except OSError as error:
        told = f"cannot listen on {address}: the socket left there cannot be removed"
        raise PortError(f"{told} ({error.strerror})") from error


def _why_not(address: ListenAddress) -> str:
    """Return what the system says to somebody else who wants to listen there."""
    try:
        if address.path:
            _try(socket.AF_UNIX, address.path)
            Path(address.path).unlink()
        else:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, place in found:
                _try(family, place)
    except socket.gaierror as error:
        return f"the host does not resolve ({error.strerror})"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "the port is taken; --grpc-port or --listen takes another one, 0 any free one"
        return (error.strerror or str(error)).lower()
    return "gRPC gave no reason"


def _try(family: int, place: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        attempt.bind(place)  # type: ignore[arg-type]  # the form that goes with the family
