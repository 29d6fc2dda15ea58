"""GET /metrics over HTTP, on threads of its own: the few that scrape cannot keep the server from its work.

No more connections are served at once than there are places, and none for longer than a scrape may take:
whoever reads slowly, or sends its request byte by byte, is cut off and loses only its own scrape.
"""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, cast
from urllib.parse import urlsplit

from headrace_server.telemetry.exposition import CONTENT_TYPE

_logger = logging.getLogger(__name__)

_OF_THE_PORT: Final = (errno.EADDRINUSE, errno.EACCES)
_ANOTHER_PORT: Final = "--metrics-port takes another port, 0 any free one"
_ANOTHER_HOST: Final = "--metrics-address takes another address"
_PLACES: Final = 8
_LONGEST_SECONDS: Final = 10.0


class MetricsPortError(Exception):
    """The address for metrics cannot be listened on; the text names it and the flag."""


class MetricsServer:
    """Serves one page, made anew for each request."""

    def __init__(
        self, page: Callable[[], bytes], host: str, port: int, longest_seconds: float = _LONGEST_SECONDS
    ) -> None:
        self._page = page
        self._host = host
        self._port = port
        self._longest_seconds = longest_seconds
        self._server: _Server | None = None

    def start(self) -> int:
        """Listen, and return the port. Raises MetricsPortError."""
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._server = _Server(family, address, self._page, self._longest_seconds)
        except OSError as error:
            advice = _ANOTHER_PORT if error.errno in _OF_THE_PORT else _ANOTHER_HOST
            raise MetricsPortError(
                f"cannot listen on {self._host} port {self._port} for metrics: {error.strerror}; "
                f"{advice}, and --no-allow-metrics does without"
            ) from error
        threading.Thread(target=self._server.serve, name="metrics", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.end()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # a port that a server has just left is free
    daemon_threads = True

    def __init__(self, family: int, address: Any, page: Callable[[], bytes], longest_seconds: float) -> None:
        self.address_family = family
        self.page = page
        self._longest_seconds = longest_seconds
        self._ended = False
        self._places = threading.BoundedSemaphore(_PLACES)
        super().__init__(address, _Handler)

    def serve(self) -> None:
        """Take connections until the end; `serve_forever` would wake twice a second to look for it."""
        while not self._ended:
            self.handle_request()
        self.server_close()

    def end(self) -> None:
        self._ended = True
        _cut_off(self.socket)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            _logger.warning("a scrape from %s was refused: %d are under way", client_address[0], _PLACES)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        cut_off = threading.Timer(self._longest_seconds, _cut_off, (request,))
        cut_off.daemon = True
        cut_off.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut_off.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("a scrape from %s ended early: %s", client_address[0], sys.exception())


class _Handler(BaseHTTPRequestHandler):
    server_version = "headrace"
    sys_version = ""

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/metrics":
            self._answer(404, "text/plain", b"metrics are at /metrics\n")
            return
        try:
            page = cast(_Server, self.server).page()
        except Exception:  # the edge: a scraper is told that it failed, and the log why
            _logger.exception("the metrics could not be read")
            self._answer(500, "text/plain", b"the metrics could not be read; the log has the reason\n")
        else:
            self._answer(200, CONTENT_TYPE, page)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name for it
        _logger.debug(format, *args)


def _cut_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
