from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from consul_agent import ConsulAgent, SecureAgent
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headrace_proto.names import TRITON_SERVICE
from headrace_server.discovery.consul import ConsulRegistrar, ConsulSettings
from headrace_server.discovery.registry import Check, RegistrationError, ServiceEntry

TTL_ALONE = frozenset({Check.TTL})
PORT = 8001


def entry(name: str, **facts: Any) -> ServiceEntry:
    return ServiceEntry(**{"address": "127.0.0.1", "port": PORT, "name": name, "checks": TTL_ALONE} | facts)


@asynccontextmanager
async def serving(agent: ConsulAgent, told: ServiceEntry, token: str = "") -> AsyncIterator[ConsulRegistrar]:
    registrar = ConsulRegistrar(ConsulSettings(agent.address, token=token), told)
    await registrar.start()
    try:
        yield registrar
    finally:
        await registrar.stop()


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {check["Name"]: check["Status"] for check in found["Checks"] if check["ServiceID"]}


async def until(agent: ConsulAgent, service: str, holds: Any) -> list[dict[str, Any]]:
    return await asyncio.to_thread(agent.wait_until, service, holds)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"address": "unix:///run/consul.sock"}, "not by unix://"),
        ({"address": ""}, "is host:port"),
        ({"address": "host:port"}, "is host:port"),
        ({"address": "host:0"}, "is host:port"),
        ({"address": "http://host:1/v1"}, "is host:port"),
        ({"client_cert": "a.pem"}, "needs its key"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ConsulSettings(**settings)


def test_a_token_stays_out_of_the_log() -> None:
    assert "geheim" not in repr(ConsulSettings(token="geheim"))


async def test_a_server_is_found_as_passing_with_what_it_said(consul_agent: ConsulAgent) -> None:
    told = entry("found", models={"net.v2": "3"}, tags=("blue",), checks=frozenset(Check), version="9.8")
    async with serving(consul_agent, told) as registrar:
        await registrar.first_attempt()
        (found,) = consul_agent.health("found")
    assert statuses(found) == {"heartbeat": "passing", "grpc": "passing"}
    service = found["Service"]
    assert (service["ID"], service["Address"], service["Port"]) == ("found-127.0.0.1-8001", "127.0.0.1", PORT)
    assert service["Tags"] == ["grpc", "v2", "blue"]
    assert service["Weights"] == {"Passing": 10, "Warning": 1}
    assert service["Meta"]["models"] == "net.v2:3"
    assert service["Meta"]["model_net_v2-eaf3ed6e"] == "3"
    assert service["Meta"]["version"] == "9.8"


async def test_a_stopped_server_is_gone_at_once(consul_agent: ConsulAgent) -> None:
    async with serving(consul_agent, entry("stopped")) as registrar:
        await registrar.first_attempt()
        assert registrar.registered.is_set()
    assert consul_agent.health("stopped") == []
    assert not registrar.registered.is_set()
    await registrar.stop()


async def test_a_registration_on_its_way_does_not_outlive_a_stop(consul_agent: ConsulAgent) -> None:
    for _ in range(5):
        async with serving(consul_agent, entry("brief")):
            await asyncio.sleep(0)
        assert consul_agent.health("brief") == []


async def test_beats_keep_a_server_passing_and_silence_does_not(consul_agent: ConsulAgent) -> None:
    silent = {
        "Name": "silent",
        "Check": {"TTL": "0.5s", "Status": "passing"},
    }
    async with serving(consul_agent, entry("beating", ttl_seconds=0.5)) as registrar:
        await registrar.first_attempt()
        await asyncio.to_thread(consul_agent.call, "PUT", "agent/service/register", silent)
        await until(
            consul_agent,
            "silent",
            lambda found: [one["Checks"][-1]["Status"] for one in found] == ["critical"],
        )
        (found,) = consul_agent.health("beating")
        assert statuses(found) == {"heartbeat": "passing"}
        changed = found["Checks"][-1]["ModifyIndex"]
        assert changed == found["Checks"][-1]["CreateIndex"], "it has never been anything else"
    consul_agent.call("PUT", "agent/service/deregister/silent")


async def test_a_server_with_more_models_than_metadata_holds_is_registered(
    consul_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    models = {f"modèle/{number:02}-{'x' * 150}": "é" * 600 for number in range(70)}
    async with serving(consul_agent, entry("crowded", models=models)) as registrar:
        await registrar.first_attempt()
        (found,) = consul_agent.health("crowded")
    assert 1 < len(found["Service"]["Meta"]) <= 64
    async with serving(
        consul_agent, entry("many", models=dict.fromkeys(map(str, range(70)), "1"))
    ) as registrar:
        await registrar.first_attempt()
        (found,) = consul_agent.health("many")
    assert len(found["Service"]["Meta"]) == 64
    assert "no room for 11 models" in caplog.text


async def test_an_error_that_nobody_foresaw_is_logged_and_does_not_end_the_beats(
    consul_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(consul_agent, entry("unforeseen"), token="no header: €") as registrar:
        with pytest.raises(RegistrationError, match="unforeseen error"):
            await registrar.first_attempt()
    assert "UnicodeEncodeError" in caplog.text


async def test_new_models_are_told(consul_agent: ConsulAgent) -> None:
    async with serving(consul_agent, entry("updated", models={"one": "1"})) as registrar:
        await registrar.first_attempt()
        await registrar.update({"one": "2", "two": "1"})
        (found,) = await until(
            consul_agent,
            "updated",
            lambda found: [one["Service"]["Meta"]["models"] for one in found] == ["one:2,two:1"],
        )
        assert found["Service"]["Meta"]["model-two"] == "1"


async def test_a_server_without_a_model_is_gone_until_it_has_one_again(consul_agent: ConsulAgent) -> None:
    async with serving(consul_agent, entry("emptied", models={"one": "1"}, ttl_seconds=0.3)) as registrar:
        await registrar.first_attempt()
        await registrar.update({})
        await until(consul_agent, "emptied", lambda found: found == [])
        await registrar.update({"two": "1"})
        (found,) = await until(consul_agent, "emptied", lambda found: len(found) == 1)
        assert found["Service"]["Meta"]["models"] == "two:1"
        assert statuses(found) == {"heartbeat": "passing"}
        async with asyncio.timeout(5):
            await registrar.registered.wait()


async def test_a_server_without_a_model_stops_quietly(
    consul_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(consul_agent, entry("emptied-last", models={"one": "1"})) as registrar:
        await registrar.first_attempt()
        await registrar.update({})
        await until(consul_agent, "emptied-last", lambda found: found == [])
    assert "could not be taken out" not in caplog.text
    assert consul_agent.health("emptied-last") == []


@pytest.mark.parametrize("checks", [TTL_ALONE, frozenset({Check.GRPC})], ids=["with beats", "without beats"])
async def test_an_agent_that_forgot_one_entry_is_told_again(
    consul_agent: ConsulAgent, checks: frozenset[Check]
) -> None:
    told = entry(f"forgotten-{checks == TTL_ALONE}".lower(), ttl_seconds=0.3, checks=checks)
    async with serving(consul_agent, told) as registrar:
        await registrar.first_attempt()
        consul_agent.call("PUT", f"agent/service/deregister/{told.id}")
        await until(consul_agent, told.name, lambda found: len(found) == 1)


async def test_an_agent_that_lost_its_memory_is_told_again(own_agent: ConsulAgent) -> None:
    own_agent.start()
    async with serving(own_agent, entry("lost", ttl_seconds=1)) as registrar:
        await registrar.first_attempt()
        await asyncio.to_thread(own_agent.stop)
        own_agent.wipe()
        await asyncio.to_thread(own_agent.start)
        (found,) = await until(own_agent, "lost", lambda found: len(found) == 1)
        assert statuses(found) == {"heartbeat": "passing"}


async def test_an_agent_that_remembers_hears_the_beats_again(
    own_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    unreachable, heard = asyncio.Event(), asyncio.Event()

    def listen(record: logging.LogRecord) -> bool:
        for text, event in (("cannot be reached", unreachable), ("hears the beats", heard)):
            if text in record.getMessage():
                event.set()
        return True

    caplog.handler.addFilter(listen)
    own_agent.start()
    async with serving(own_agent, entry("remembered", ttl_seconds=1)) as registrar, asyncio.timeout(10):
        await registrar.first_attempt()
        await asyncio.to_thread(own_agent.stop)
        await unreachable.wait()
        await asyncio.to_thread(own_agent.start)
        await heard.wait()
        assert registrar.registered.is_set()
    assert "registering anew" not in caplog.text


async def test_an_agent_that_starts_late_is_waited_for(
    own_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(own_agent, entry("early", ttl_seconds=1)) as registrar:
        with pytest.raises(RegistrationError, match=r"cannot be reached .*refused"):
            await registrar.first_attempt()
        assert not registrar.registered.is_set()
        await asyncio.to_thread(own_agent.start)
        async with asyncio.timeout(5):
            await registrar.registered.wait()
        await registrar.first_attempt()
    lines = [record.message for record in caplog.records if "cannot be reached" in record.message]
    assert 1 <= len(lines) <= 3
    assert all("serving goes on" in line for line in lines)


async def test_an_agent_that_hangs_does_not_hold_up_a_stop(
    own_agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    own_agent.start()
    registrar = ConsulRegistrar(ConsulSettings(own_agent.address), entry("hung"))
    await registrar.start()
    await registrar.first_attempt()
    with own_agent.hung():
        started = time.monotonic()
        await registrar.stop()
        assert time.monotonic() - started < 10, "its own limit ends it"
    assert "could not be taken out of Consul" in caplog.text
    assert "no answer in time" in caplog.text


async def test_a_stop_with_the_agent_away_is_quick_and_quiet(own_agent: ConsulAgent) -> None:
    registrar = ConsulRegistrar(ConsulSettings(own_agent.address), entry("alone"))
    await registrar.stop()
    await registrar.start()
    started = time.monotonic()
    await registrar.stop()
    assert time.monotonic() - started < 2, "nothing is waited for"


def test_a_process_exits_while_a_registration_hangs() -> None:
    program = """
import asyncio, sys
from headrace_server.discovery.consul import ConsulRegistrar, ConsulSettings
from headrace_server.discovery.registry import ServiceEntry
async def main():
    registrar = ConsulRegistrar(ConsulSettings(sys.argv[1]), ServiceEntry("127.0.0.1", 8001))
    await registrar.start()
    await asyncio.sleep(0)
    await registrar.stop()
asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        subprocess.run(
            [sys.executable, "-c", program, f"127.0.0.1:{never_answers.getsockname()[1]}"],
            env={"PYTHONPATH": f"{root / 'server'}:{root / 'proto'}"},
            timeout=10,
            check=True,
        )


@pytest.fixture
def guarded_agent(own_agent: ConsulAgent) -> ConsulAgent:
    own_agent.config["acl"] = {"enabled": True, "default_policy": "deny"}
    own_agent.start()
    own_agent.bootstrap_acl()
    return own_agent


async def test_a_token_without_the_right_is_named_and_tried_again(
    guarded_agent: ConsulAgent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", guarded_agent.token)  # must not stand in for the token given
    token = guarded_agent.call("PUT", "acl/token", {"Description": "of a server"})
    async with serving(guarded_agent, entry("guarded", ttl_seconds=1), token["SecretID"]) as registrar:
        with pytest.raises(RegistrationError, match=r'service "guarded" { policy = "write" }.*denied'):
            await registrar.first_attempt()
        assert any(
            record.levelno == logging.ERROR and "lacks a right" in record.message for record in caplog.records
        )
        rules = {"Name": "servers", "Rules": 'service "guarded" { policy = "write" }'}
        policy = await asyncio.to_thread(guarded_agent.call, "PUT", "acl/policy", rules)
        granted = {**token, "Policies": [{"ID": policy["ID"]}]}
        await asyncio.to_thread(guarded_agent.call, "PUT", f"acl/token/{token['AccessorID']}", granted)
        await until(guarded_agent, "guarded", lambda found: len(found) == 1)


async def test_what_consul_takes_for_wrong_is_told(consul_agent: ConsulAgent) -> None:
    settings = ConsulSettings(consul_agent.address, namespace="elsewhere")
    registrar = ConsulRegistrar(settings, entry("refused"))
    await registrar.start()
    with pytest.raises(RegistrationError, match=r"refused .*Namespaces are a Consul Enterprise feature"):
        await registrar.first_attempt()
    await registrar.stop()
    assert consul_agent.health("refused") == []


async def test_an_agent_is_spoken_to_with_certificates(secure_agent: SecureAgent) -> None:
    for key, told in ((secure_agent.key, ""), ("", "cannot be reached")):
        certificate = secure_agent.certificate if key else ""
        settings = ConsulSettings(
            secure_agent.address, cacert=secure_agent.ca, client_cert=certificate, client_key=key
        )
        registrar = ConsulRegistrar(settings, entry("secure"))
        await registrar.start()
        if told:
            with pytest.raises(RegistrationError, match=told):
                await registrar.first_attempt()
        else:
            await registrar.first_attempt()
        await registrar.stop()


@pytest.fixture
def health_servers() -> Iterator[tuple[int, int, health.HealthServicer]]:
    """Ports of a server that says that it serves our protocol, and of one that does not know it."""
    ours = health.HealthServicer()
    ours.set(TRITON_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    servers, ports = [], []
    for servicer in (ours, health.HealthServicer()):
        server = grpc.server(ThreadPoolExecutor(2))
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        server.start()
        servers.append(server)
    yield ports[0], ports[1], ours
    for server in servers:
        server.stop(None).wait()


async def test_the_agent_asks_the_server_itself(
    consul_agent: ConsulAgent, health_servers: tuple[int, int, health.HealthServicer]
) -> None:
    port, strangers_port, servicer = health_servers
    ours = entry("asked", port=port, checks=frozenset({Check.GRPC}))
    stranger = entry("stranger", port=strangers_port, checks=frozenset({Check.GRPC}))

    def is_critical(found: list[dict[str, Any]]) -> bool:
        return [statuses(one) for one in found] == [{"grpc": "critical"}]

    async with serving(consul_agent, ours) as one, serving(consul_agent, stranger) as other:
        await asyncio.gather(one.first_attempt(), other.first_attempt())
        await until(consul_agent, "stranger", is_critical)
        (found,) = consul_agent.health("asked")
        assert statuses(found) == {"grpc": "passing"}
        servicer.set(TRITON_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        await until(consul_agent, "asked", is_critical)
