"""A Consul agent for the demo: the one that answers, or one of our own in dev mode."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from headrace_cli.demo.child import Child

_FETCHED = Path(".tools/consul/bin/consul")
"""Where `make consul` puts it, seen from a checkout."""

_START_SECONDS = 20.0
_POLL_SECONDS = 0.05
_TRIES = 3
"""A port that was free may be taken before the agent binds it."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that has a leader; `origin` says whose it is."""

    address: str
    origin: str


@dataclass(frozen=True, slots=True)
class NoAgent:
    """There is none, and why."""

    reason: str


@contextmanager
def consul_agent(address: str, binary: str, folder: Path) -> Iterator[Agent | NoAgent]:
    """Use the agent at the address; if none answers there, run one until the block is left."""
    if _has_leader(address):
        yield Agent(address, "already running")
        return
    program = _find(binary)
    if program is None:
        yield NoAgent(f"none answers at {address} and there is no consul program: `make consul` fetches one")
        return
    with ExitStack() as stack:
        yield _start(program, folder, stack)


def _find(binary: str) -> str | None:
    if binary:
        return shutil.which(binary)
    return str(_FETCHED.absolute()) if _FETCHED.is_file() else shutil.which("consul")


def _start(program: str, folder: Path, stack: ExitStack) -> Agent | NoAgent:
    log = folder / "consul.log"
    for _ in range(_TRIES):
        http, server, serf = _free_ports(3)
        arguments = [
            program, "agent", "-dev", "-node=headrace-demo", "-bind=127.0.0.1", "-client=127.0.0.1",
            "-log-level=warn", f"-http-port={http}", f"-server-port={server}", f"-serf-lan-port={serf}",
            "-serf-wan-port=-1", "-grpc-port=-1", "-dns-port=-1",
        ]  # fmt: skip
        try:
            child = stack.enter_context(Child("the Consul agent", arguments, log))
        except OSError as error:
            return NoAgent(f"{program} does not start: {error.strerror}")
        address = f"127.0.0.1:{http}"
        if _becomes_leader(child, address):
            return Agent(address, "started for the demo")
        child.stop()
    return NoAgent(str(child.failed("did not come up")))


def _becomes_leader(child: Child, address: str) -> bool:
    end = time.monotonic() + _START_SECONDS
    while child.is_running and time.monotonic() < end:
        if _has_leader(address):
            return True
        child.wait(_POLL_SECONDS)
    return False


def _has_leader(address: str) -> bool:
    url = address if "://" in address else f"http://{address}"
    try:
        answer = httpx.get(f"{url}/v1/status/leader", timeout=2.0)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.is_success and answer.text not in ("", '""')


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind(("127.0.0.1", 0))
        return [unused.getsockname()[1] for unused in sockets]
