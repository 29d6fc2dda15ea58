from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hosted_server import eventually

from headrace_server.telemetry.metrics_server import MetricsPortError, MetricsServer

PATIENCE_SECONDS = 20.0
PLACES = 8


@contextmanager
def serving(
    page: Callable[[], bytes], host: str = "127.0.0.1", longest_seconds: float = PATIENCE_SECONDS
) -> Iterator[int]:
    server = MetricsServer(page, host, 0, longest_seconds)
    try:
        yield server.start()
    finally:
        server.close()


def get(
    port: int, path: str = "/metrics", method: str = "GET", host: str = "127.0.0.1"
) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name=x"])
def test_the_page_is_made_for_each_scrape(path: str) -> None:
    pages = iter([b"a 1\n", b"a 2\n"])
    with serving(lambda: next(pages)) as port:
        assert get(port, path) == (200, "text/plain; version=0.0.4; charset=utf-8", b"a 1\n")
        assert get(port, path)[2] == b"a 2\n"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/", "GET", 404), ("/metricsx", "GET", 404), ("/metrics", "POST", 501)],
)
def test_nothing_else_is_served(path: str, method: str, status: int) -> None:
    with serving(lambda: b"a 1\n") as port:
        assert get(port, path, method)[0] == status


def test_a_page_that_cannot_be_made_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> bytes:
        raise RuntimeError("secret")

    with serving(fail) as port:
        status, _, body = get(port)
    assert status == 500
    assert b"secret" not in body
    assert "RuntimeError: secret" in caplog.text


def test_a_port_that_is_taken_is_told_with_its_flag() -> None:
    with serving(lambda: b"") as port, pytest.raises(MetricsPortError) as refused:
        MetricsServer(lambda: b"", "127.0.0.1", port).start()
    assert f"cannot listen on 127.0.0.1 port {port} for metrics: Address already in use" in str(refused.value)
    assert "--metrics-port" in str(refused.value)


def test_a_host_that_is_nobody_s_is_told() -> None:
    with pytest.raises(
        MetricsPortError, match=r"host\.invalid port 0 for metrics: .*; --metrics-address takes"
    ):
        MetricsServer(lambda: b"", "host.invalid", 0).start()


def test_ipv6() -> None:
    with serving(lambda: b"a 1\n", "::1") as port:
        assert get(port, host="::1")[0] == 200


def test_a_port_is_free_again_after_the_end() -> None:
    with serving(lambda: b"a 1\n") as port:
        assert get(port)[0] == 200
    again = MetricsServer(lambda: b"a 2\n", "127.0.0.1", port)
    assert again.start() == port
    assert get(port)[2] == b"a 2\n"
    again.close()


def test_an_end_without_a_beginning_is_nothing() -> None:
    MetricsServer(lambda: b"", "127.0.0.1", 0).close()


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /metrics HTTP/1.0\r\nA: b\r\n"])
def test_whoever_does_not_finish_asking_is_cut_off(sent: bytes) -> None:
    with (
        serving(lambda: b"", longest_seconds=0.05) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as slow,
    ):
        slow.sendall(sent)
        assert slow.recv(100) == b""


def test_whoever_does_not_read_is_cut_off_and_others_are_served_meanwhile() -> None:
    pages = iter([bytes(64 << 20), b"a 1\n"])
    with (
        serving(lambda: next(pages), longest_seconds=1.0) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as slow,
    ):
        threads = threading.active_count()
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        slow.recv(1)
        assert get(port)[2] == b"a 1\n"
        eventually(lambda: threading.active_count() <= threads, "the thread that sends ends")


def test_no_more_are_served_at_once_than_there_are_places(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), serving(lambda: b"a 1\n") as port, ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
            for _ in range(PLACES)
        ]
        for one in held:
            one.sendall(b"GET /metrics HTTP/1.0\r\n")
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as beyond:
            assert beyond.recv(100) == b""
        assert "refused: 8 are under way" in caplog.text
        held[0].sendall(b"\r\n")
        assert held[0].recv(100).startswith(b"HTTP/1.0 200 ")
        while held[0].recv(100):
            pass
