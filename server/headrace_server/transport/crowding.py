"""Says that as many connections are open as may be: gRPC closes further ones without a word to anybody.

It does not say how many are open either, so the sockets of the process are counted that are opened after the
start; a few of them are for other things.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from headrace_server.transport.connections import ConnectionOptions
from headrace_server.transport.seam import Reactor, Timer

_logger = logging.getLogger(__name__)

_SECONDS: Final = 5.0
_FILES: Final = Path("/dev/fd")


class Crowding:
    """Looks every so often, and says so once each time that it comes to this."""

    def __init__(self, reactor: Reactor, options: ConnectionOptions, seconds: float = _SECONDS) -> None:
        self._reactor = reactor
        self._options = options
        self._seconds = seconds
        self._timer: Timer | None = None
        self._is_over = False
        self._is_full = False
        self._others = 0

    def watch(self) -> None:
        """Begin to look, before there are connections. For whoever may touch calls."""
        self._others = _open_sockets(0)
        self._arm()

    def end(self) -> None:
        """Look no more."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if not self._is_over:
            self._timer = self._reactor.later(self._seconds, self._look)

    def _look(self) -> None:
        most = self._options.most_connections()
        was_full, self._is_full = self._is_full, _open_sockets(most) - self._others >= most
        if self._is_full and not was_full:
            limit = self._options.why_fewer_connections() or "--max-connections"
            _logger.warning("%d connections are open or nearly so, further ones are closed: %s", most, limit)
        self._arm()


def _open_sockets(most: int) -> int:
    """Return how many sockets are open; where there are less than `most` files, how many of these."""
    try:
        files = list(map(int, os.listdir(_FILES)))  # noqa: PTH208  # numbers are wanted, and no paths
    except OSError:
        return 0
    return len(files) if len(files) < most else sum(map(_is_socket, files))


def _is_socket(file: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(file).st_mode)
    except OSError:  # it has been closed meanwhile
        return False
