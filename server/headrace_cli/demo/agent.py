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
from headrace_cli.registry import instances

SERVICE = "headrace-demo"
"""A name of its own, so that nobody's look-up of real servers finds the demo."""

_FETCHED = Path(".tools/consul/bin/consul")
"""Where `make consul` puts it, seen from a checkout."""

_START_SECONDS = 20.0
_POLL_SECONDS = 0.05
_TRIES = 3
"""A port that was free may be taken before the agent binds it."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with a leader. `address` is None for the environment's own, which answers already."""

    address: str | None

    @property
    def flags(self) -> tuple[str, ...]:
        """What a server is told to register here, under a loopback address."""
        registered = (
            "--consul",
            "--consul-required",
            "--consul-service",
            SERVICE,
            "--advertise",
            "127.0.0.1",
        )
        if self.address is None:
            # An agent that runs elsewhere could not reach this machine's loopback to check it.
            return (*registered, "--consul-checks", "ttl")
        return (*registered, "--consul-address", self.address)

    def target(self, model: str) -> str:
        """Return the client's target for the servers that have the model."""
        return f"consul://{self.address or ''}/{SERVICE}?model={model}"


@dataclass(frozen=True, slots=True)
class NoAgent:
    """There is none, and why."""

    reason: str


@contextmanager
def consul_agent(program: str, folder: Path) -> Iterator[Agent | NoAgent]:
    """Use the agent that the environment names; if it does not answer, run one until the block is left."""
    absence = _absence()
    if not absence:
        yield Agent(None)
        return
    found = _find(program)
    if found is None:
        yield NoAgent(f"{absence}, and there is no consul program (`make consul` fetches one)")
        return
    with ExitStack() as stack:
        yield _start(found, folder, stack)


def _absence() -> str:
    """Return why the environment's agent does not answer, or "" if it does."""
    try:
        instances(SERVICE)
    except (ConnectionError, ValueError) as error:
        return str(error)
    return ""


def _find(program: str) -> str | None:
    if program:
        return shutil.which(program)
    return str(_FETCHED.absolute()) if _FETCHED.is_file() else shutil.which("consul")


def _start(program: str, folder: Path, stack: ExitStack) -> Agent | NoAgent:
    log = folder / "consul.log"
    problem = ""
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
        if _gets_a_leader(child, f"http://127.0.0.1:{http}"):
            return Agent(f"127.0.0.1:{http}")
        child.stop()
        problem = str(child.failed("did not come up"))
    return NoAgent(problem)


def _gets_a_leader(child: Child, url: str) -> bool:
    end = time.monotonic() + _START_SECONDS
    while child.is_running and time.monotonic() < end:
        if _has_leader(url):
            return True
        child.wait(_POLL_SECONDS)
    return False


def _has_leader(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/v1/status/leader", timeout=2.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.is_success and answer.text not in ("", '""')


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind(("127.0.0.1", 0))
        return [unused.getsockname()[1] for unused in sockets]
