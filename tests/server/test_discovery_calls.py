"""What a registrar asks of its agent, in order: of an HTTP server that writes it down and agrees to all."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace_server.discovery.consul import ConsulRegistrar, ConsulSettings
from headrace_server.discovery.registry import Check, ServiceEntry

PATIENCE_SECONDS = 10.0


class Agent(ThreadingHTTPServer):
    """Keeps what each request asks for: "register", "deregister" or "pass"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def next(self) -> str:
        """Wait for the next request."""
        return await asyncio.to_thread(self.asked.get, timeout=PATIENCE_SECONDS)


class Handler(BaseHTTPRequestHandler):
    server: Agent

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0].removeprefix("/v1/agent/")
        self.server.asked.put(path.split("/")[1])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        thread = threading.Thread(target=agent.serve_forever, args=(0.01,))
        thread.start()
        yield agent
        agent.shutdown()
        thread.join()


async def test_no_beat_brings_back_a_server_without_a_model(agent: Agent) -> None:
    told = ServiceEntry(
        "127.0.0.1", 8001, models={"one": "1"}, checks=frozenset({Check.TTL}), ttl_seconds=0.1
    )
    registrar = ConsulRegistrar(ConsulSettings(f"127.0.0.1:{agent.server_port}"), told)
    await registrar.start()
    try:
        assert [await agent.next() for _ in range(3)] == ["register", "pass", "pass"]
        await registrar.update({})
        while (asked := await agent.next()) == "pass":  # those that were on their way
            pass
        assert [asked, *[await agent.next() for _ in range(4)]] == ["deregister"] * 5
        assert not registrar.registered.is_set()
        await registrar.update({"two": "1"})
        while (asked := await agent.next()) == "deregister":
            pass
        assert [asked, await agent.next()] == ["register", "pass"]
        assert registrar.registered.is_set()
    finally:
        await registrar.stop()
