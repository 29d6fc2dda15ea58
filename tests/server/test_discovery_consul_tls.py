"""Servers that speak TLS in a real agent's eyes, and in those of clients that look them up there."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from consul_agent import ConsulAgent
from hosted_server import eventually, hosted
from pki import Authority, Issued
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace import AsyncClient, Client, Retry, Tls, Unavailable
from headrace_server.discovery.consul import ConsulRegistrar, ConsulSettings
from headrace_server.discovery.registry import Check, ServiceEntry, checks_for
from headrace_server.guard.tls import TlsFiles, server_credentials

GRPC_ALONE = frozenset({Check.GRPC})


@contextmanager
def secure_port(shown: Issued, client_ca: Path | None = None) -> Iterator[int]:
    """Serve with a certificate that no authority of the system has issued; give the port."""
    credentials = functools.partial(server_credentials, TlsFiles(shown.certificate, shown.key, client_ca))
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, credentials=credentials) as it,
    ):
        yield int(it.address.rpartition(":")[2])


@asynccontextmanager
async def registered(agent: ConsulAgent, entry: ServiceEntry) -> AsyncIterator[None]:
    registrar = ConsulRegistrar(ConsulSettings(agent.address), entry)
    await registrar.start()
    try:
        await registrar.first_attempt()
        yield
    finally:
        await registrar.stop()


async def outcome(agent: ConsulAgent, entry: ServiceEntry) -> tuple[str, str]:
    """Return status and output of the gRPC check, once the agent has asked; only it itself tells at once."""

    def check() -> dict[str, Any]:
        return agent.call("GET", "agent/checks")[f"{entry.id}:grpc"]  # type: ignore[no-any-return]  # JSON

    await asyncio.to_thread(eventually, lambda: bool(check()["Output"]), "the agent has asked")
    found = check()
    return found["Status"], found["Output"]


async def test_the_agents_check_speaks_tls_whoever_issued_the_certificate(
    consul_agent: ConsulAgent, authority: Authority, for_loopback: Issued
) -> None:
    with secure_port(for_loopback) as port:
        entry = ServiceEntry("127.0.0.1", port, "over-tls", tls=True, models={"m": "1"})
        async with registered(consul_agent, entry):
            status, output = await outcome(consul_agent, entry)
            assert (status, "success" in output) == ("passing", True), output
            target = f"consul://{consul_agent.address}/over-tls?model=m"
            async with AsyncClient(target, tls=Tls(authority.ca), retry=Retry(attempts=1)) as aio:
                assert await aio.ready()
            client = Client(target, retry=Retry(attempts=1))  # nobody told it of TLS but Consul
            with client, pytest.raises(Unavailable, match="no authority that this client trusts has issued"):
                await asyncio.to_thread(client.metadata, "m")


async def test_a_server_that_asks_for_certificates_is_checked_by_its_beats(
    consul_agent: ConsulAgent, authority: Authority, for_loopback: Issued
) -> None:
    with secure_port(for_loopback, authority.ca) as port:
        checks = checks_for((), clients_need_certificate=True)
        entry = ServiceEntry("127.0.0.1", port, "mutual", tls=True, checks=checks)
        async with registered(consul_agent, entry):
            (found,) = consul_agent.health("mutual")
            told = {check["Name"]: check["Status"] for check in found["Checks"] if check["ServiceID"]}
            assert told == {"heartbeat": "passing"}
        asked = ServiceEntry("127.0.0.1", port, "mutual-asked", tls=True, checks=GRPC_ALONE)
        async with registered(consul_agent, asked):
            status, output = await outcome(consul_agent, asked)
            assert status == "critical", output


async def test_an_agent_that_was_given_a_certificate_can_ask_such_a_server(
    own_agent: ConsulAgent, authority: Authority, for_loopback: Issued
) -> None:
    mine = authority.issue("agent", "extendedKeyUsage=clientAuth")
    own_agent.config |= {
        "enable_agent_tls_for_checks": True,
        "ca_file": str(authority.ca),
        "cert_file": str(mine.certificate),
        "key_file": str(mine.key),
    }
    own_agent.start()
    with secure_port(for_loopback, authority.ca) as port:
        entry = ServiceEntry("127.0.0.1", port, "mutual", tls=True, checks=GRPC_ALONE)
        async with registered(own_agent, entry):
            status, output = await outcome(own_agent, entry)
            assert (status, "success" in output) == ("passing", True), output
