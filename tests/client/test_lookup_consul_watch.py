from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from consul_agent import ConsulAgent, SecureAgent

from headrace.config import ConsulSettings
from headrace.consul_watch import ConsulLookup, base_url
from headrace.lookup import Endpoint, Status, parse_target
from headrace.targets import ConsulTarget
from headrace_proto.consul import model_key

Endpoints = tuple[Endpoint, ...]


class Watching:
    """Runs a watch and keeps every set, so that a test can wait for one."""

    def __init__(self, lookup: ConsulLookup) -> None:
        self.seen: list[Endpoints] = []
        self.lookup = lookup
        self._news = asyncio.Condition()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for found in self.lookup.watch():
            async with self._news:
                self.seen.append(found)
                self._news.notify_all()

    async def until(self, holds: Callable[[Endpoints], bool]) -> Endpoints:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: bool(self.seen) and holds(self.seen[-1]))
        return self.seen[-1]

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@asynccontextmanager
async def watching(address: str, service: str, token: str = "", query: str = "") -> AsyncIterator[Watching]:
    lookup = parse_target(f"consul:///{service}{query}", ConsulSettings(address=address, token=token))
    assert isinstance(lookup, ConsulLookup)
    watch = Watching(lookup)
    try:
        yield watch
    finally:
        await watch.stop()


def register(agent: ConsulAgent, service: str, port: int = 1, **told: Any) -> None:
    check = {"CheckID": f"{service}-{port}:ttl", "TTL": "60s", "Status": "passing"}
    body = {"Name": service, "ID": f"{service}-{port}", "Address": "127.0.0.1", "Port": port, "Check": check}
    agent.call("PUT", "agent/service/register", body | told)


def ports(found: Endpoints) -> list[str]:
    return [endpoint.address.removeprefix("127.0.0.1:") for endpoint in found]


async def test_servers_are_followed_as_they_come_change_and_go(consul_agent: ConsulAgent) -> None:
    async with watching(consul_agent.address, "followed") as watch:
        await watch.until(lambda found: found == ())
        register(
            consul_agent, "followed", 1, Tags=["v2"], Meta={"k": "v"}, Weights={"Passing": 7, "Warning": 2}
        )
        (one,) = await watch.until(lambda found: len(found) == 1)
        assert one == Endpoint("127.0.0.1:1", 7, Status.PASSING, "followed-1", ("v2",), {"k": "v"})
        register(consul_agent, "followed", 2)
        await watch.until(lambda found: ports(found) == ["1", "2"])
        consul_agent.call("PUT", "agent/check/warn/followed-1:ttl")
        found = await watch.until(lambda found: found[0].status is Status.WARNING)
        assert found[0].weight == 2
        consul_agent.call("PUT", "agent/check/fail/followed-1:ttl")
        await watch.until(lambda found: found[0].status is Status.CRITICAL)
        consul_agent.call("PUT", "agent/service/maintenance/followed-1", enable="true")
        await watch.until(lambda found: found[0].status is Status.MAINTENANCE)
        consul_agent.call("PUT", "agent/service/deregister/followed-1")
        await watch.until(lambda found: ports(found) == ["2"])
        consul_agent.call("PUT", "agent/service/deregister/followed-2")
        await watch.until(lambda found: found == ())
    assert len(watch.seen) == len(set(zip(watch.seen, watch.seen[1:], strict=False))) + 1, "each set is news"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["1", "2", "3"]),
        ("?tag=blue", ["1", "2"]),
        ("?tag=blue&tag=eu", ["2"]),
        ("?model=net.v2", ["2", "3"]),
        ("?model=net.v2&tag=blue", ["2"]),
        ("?model=other", []),
        ("?tag=caf%C3%A9%20%2F%20%26", ["3"]),
    ],
)
async def test_the_agent_chooses_by_tag_and_model(
    consul_agent: ConsulAgent, query: str, expected: list[str]
) -> None:
    key = model_key("net.v2")
    register(consul_agent, "chosen", 1, Tags=["blue"])
    register(consul_agent, "chosen", 2, Tags=["blue", "eu"], Meta={key: "3"})
    register(consul_agent, "chosen", 3, Tags=["café / &"], Meta={key: "1"})
    lookup = parse_target(f"consul://{consul_agent.address}/chosen{query}")
    assert isinstance(lookup, ConsulLookup)
    assert ports(await lookup.fetch()) == expected


@pytest.mark.parametrize("forgets", [False, True], ids=["remembers", "forgets"])
async def test_an_agent_that_is_away_changes_nothing_until_it_is_back(
    own_agent: ConsulAgent, forgets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    unreachable = asyncio.Event()

    def listen(record: logging.LogRecord) -> bool:
        if "cannot be reached" in record.getMessage():
            unreachable.set()
        return True

    caplog.handler.addFilter(listen)
    own_agent.start()
    register(own_agent, "kept", 1)
    async with watching(own_agent.address, "kept") as watch:
        await watch.until(lambda found: ports(found) == ["1"])
        await asyncio.to_thread(own_agent.stop)
        async with asyncio.timeout(5):
            await unreachable.wait()
        assert [ports(found) for found in watch.seen] == [["1"]]
        assert "the servers found before are kept" in caplog.text
        if forgets:
            own_agent.wipe()
        await asyncio.to_thread(own_agent.start)
        register(own_agent, "kept", 2)
        await watch.until(lambda found: ports(found) == (["2"] if forgets else ["1", "2"]))
    told = [message for message in caplog.messages if "cannot be reached" in message]
    assert len(told) == len(set(told))  # a connection may be reset before others are refused


async def test_a_token_that_sees_nothing_is_doubted(
    own_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    own_agent.config["acl"] = {"enabled": True, "default_policy": "deny"}
    own_agent.start()
    own_agent.bootstrap_acl()
    register(own_agent, "guarded")
    own_agent.wait_until("guarded", lambda found: len(found) == 1)
    blind = own_agent.call("PUT", "acl/token", {})["SecretID"]
    async with watching(own_agent.address, "guarded", token=blind) as watch:
        await watch.until(lambda found: found == ())
        assert watch.lookup.problem.startswith(f"Consul at http://{own_agent.address}: ")
        assert "service:read" in watch.lookup.problem
    assert "service:read" in caplog.text
    async with watching(own_agent.address, "guarded", token=own_agent.token) as watch:
        await watch.until(lambda found: ports(found) == ["1"])
        assert watch.lookup.problem == ""


async def test_an_agent_is_asked_with_certificates(secure_agent: SecureAgent) -> None:
    settings = ConsulSettings(
        address=secure_agent.address,
        ca_file=secure_agent.ca,
        certificate_file=secure_agent.certificate,
        key_file=secure_agent.key,
    )
    assert await ConsulLookup(ConsulTarget("consul"), settings).fetch() != ()
    stranger = ConsulSettings(address=secure_agent.address, ca_file=secure_agent.ca)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await ConsulLookup(ConsulTarget("consul"), stranger).fetch()


def test_certificates_that_cannot_be_read_are_named(secure_agent: SecureAgent) -> None:
    settings = ConsulSettings(address=secure_agent.address, ca_file="/missing/ca.pem")
    with pytest.raises(ValueError, match=r"/missing/ca\.pem.*No such file"):
        parse_target("consul:///any", settings)


async def test_asking_once_tells_why_there_is_no_answer(own_agent: ConsulAgent) -> None:
    lookup = ConsulLookup(ConsulTarget("any"), ConsulSettings(address=own_agent.address))
    with pytest.raises(ConnectionError, match=rf"http://{own_agent.address}: .*cannot be reached"):
        await lookup.fetch()


class EagerAgent:
    """Answers every query at once with another set and index, up to `sets`, and then not at all."""

    def __init__(self, sets: int) -> None:
        self.queries: list[str] = []
        self.is_waiting = asyncio.Event()
        self.hung_up = asyncio.Event()
        self._sets = sets

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while query := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            self.queries.append(query.decode())
            if len(self.queries) > self._sets:
                self.is_waiting.set()
                await reader.read()
                break
            body = b'[{"Service": {"ID": "x", "Address": "a", "Port": %d}, "Checks": []}]' % len(self.queries)
            head = f"X-Consul-Index: {len(self.queries)}\r\nContent-Length: {len(body)}"
            writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)
        self.hung_up.set()
        writer.close()


@asynccontextmanager
async def eager_agent(sets: int) -> AsyncIterator[tuple[EagerAgent, str]]:
    agent = EagerAgent(sets)
    server = await asyncio.start_server(agent.answer, "127.0.0.1", 0)
    async with server:
        yield agent, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_cancelling_hangs_up_at_once() -> None:
    async with eager_agent(sets=1) as (agent, address), watching(address, "x", "token", "?tag=a") as watch:
        await watch.until(lambda found: len(found) == 1)
        async with asyncio.timeout(5):
            await agent.is_waiting.wait()
        started = time.monotonic()
        await watch.stop()
        await agent.hung_up.wait()
        assert time.monotonic() - started < 10, "not when the query's 55 s are over"
    first, second = agent.queries
    assert first.startswith("GET /v1/health/service/x?stale=1&filter=%22a%22+in+Service.Tags HTTP")
    assert second.startswith("GET /v1/health/service/x?stale=1&index=1&wait=55s&filter=")
    assert "x-consul-token: token\r\n" in second.lower()


async def test_an_agent_that_answers_in_bursts_is_not_asked_in_bursts() -> None:
    started = time.monotonic()
    async with eager_agent(sets=6) as (_, address), watching(address, "x") as watch:
        await watch.until(lambda found: found[0].address == "a:6")
    assert time.monotonic() - started >= 5 * 0.05
    assert len(watch.seen) == 6


@pytest.mark.parametrize(
    ("address", "agent", "url"),
    [
        ("127.0.0.1:8500", "", "http://127.0.0.1:8500"),
        ("consul.internal", "", "http://consul.internal:8500"),
        ("https://consul.internal", "", "https://consul.internal:8501"),
        ("http://[::1]:81/", "", "http://[::1]:81"),
        ("127.0.0.1:8500", "10.0.0.2:8500", "http://10.0.0.2:8500"),
        ("https://127.0.0.1:8501", "10.0.0.2:8501", "https://10.0.0.2:8501"),
    ],
)
def test_where_the_agent_is(address: str, agent: str, url: str) -> None:
    assert base_url(ConsulSettings(address=address), agent) == url


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("unix:///run/consul.sock", "not by unix://"),
        ("host:port", "is host:port or"),
        ("http://host/v1", "is host:port or"),
        ("", "is host:port or"),
    ],
)
def test_an_agent_that_cannot_be_asked_is_refused(address: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_target("consul:///inference", ConsulSettings(address=address))
