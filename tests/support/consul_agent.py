"""A real Consul agent for tests: one that can be stopped, hung, restarted and made to forget."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

START_TIMEOUT_SECONDS = 15.0
INSTALLER = Path(__file__).parents[2] / "tools" / "install-consul.sh"


class ConsulAgent:
    """`consul agent -dev` on free ports of 127.0.0.1, with a data folder of its own.

    Ports stay the same over restarts. The local services survive `stop` and `start`, as those of an
    agent that is not in dev mode do, until `wipe`.
    """

    def __init__(self, binary: str, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        self._binary = binary
        self._folder = folder
        self.config = dict(config or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.https_port, *self._other_ports = _free_ports(5)
        self.token = ""

    @property
    def address(self) -> str:
        """What `CONSUL_HTTP_ADDR` would say."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the agent and wait until it has a leader."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self._folder / "config.json"
        config.write_text(json.dumps({"disable_update_check": True, **self.config}))
        server, lan, wan = self._other_ports
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=test",
                 f"-data-dir={data}", f"-config-file={config}", f"-http-port={self.port}",
                 f"-server-port={server}", f"-serf-lan-port={lan}", f"-serf-wan-port={wan}",
                 "-grpc-port=-1", "-dns-port=-1", "-log-level=warn"],
                stdout=log, stderr=log,
            )  # fmt: skip
        self._wait_for_leader(self._process)

    def stop(self) -> None:
        """Kill the agent as a power cut would; nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again, with what it knew."""
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Let the stopped agent forget everything."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Let the agent accept connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # the signal returns before its threads have stopped
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Do one call of the HTTP API and return the parsed answer; for the test's own view."""
        answer = self._request(method, path, body, query)
        return answer.json() if answer.content else None

    def health(self, service: str) -> list[dict[str, Any]]:
        """Return the catalogue's entries of a service."""
        entries: list[dict[str, Any]] = self.call("GET", f"health/service/{service}")
        return entries

    def wait_until(
        self, service: str, holds: Callable[[list[dict[str, Any]]], bool], *, timeout_seconds: float = 10
    ) -> list[dict[str, Any]]:
        """Block until the catalogue's entries of a service are as wanted, and return them."""
        give_up = time.monotonic() + timeout_seconds
        index = "0"
        while (left := give_up - time.monotonic()) > 0:
            answer = self._request(
                "GET", f"health/service/{service}", None, {"index": index, "wait": f"{left * 1000:.0f}ms"}
            )
            entries: list[dict[str, Any]] = answer.json()
            if holds(entries):
                return entries
            index = answer.headers["x-consul-index"]
        raise TimeoutError(f"{service} was not as wanted within {timeout_seconds:g} s: {entries}")

    def bootstrap_acl(self) -> None:
        """Make this agent's own view that of its administrator; for an agent that has ACLs on."""
        give_up = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            try:
                self.token = self.call("PUT", "acl/bootstrap")["SecretID"]
            except httpx.HTTPStatusError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)
            else:
                return

    def _request(self, method: str, path: str, body: Any, query: Mapping[str, str]) -> httpx.Response:
        answer = httpx.request(
            method,
            f"http://{self.address}/v1/{path}",
            params=query,
            json=body,
            headers={"X-Consul-Token": self.token} if self.token else {},
            timeout=30,
            trust_env=False,
        )
        answer.raise_for_status()
        return answer

    def _wait_for_leader(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < give_up and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if self.call("GET", "status/leader"):
                    return
            time.sleep(0.02)
        log = (self._folder / "log").read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"no Consul leader within {START_TIMEOUT_SECONDS:g} s:\n{log[-2000:]}")


def _free_ports(count: int) -> list[int]:
    # Below the range that the kernel hands out, so that a restart finds its ports still free.
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


@dataclass(frozen=True, slots=True)
class SecureAgent:
    """An agent that answers HTTPS to clients with a certificate, and what such a client needs."""

    address: str
    ca: str
    certificate: str
    key: str


@pytest.fixture(scope="session")
def consul_binary() -> str:
    """The path of a consul binary; skips where there is none."""
    found = subprocess.run(
        [str(INSTALLER), "--present"], capture_output=True, text=True, cwd=INSTALLER.parents[1], check=False
    )
    if found.returncode != 0:
        pytest.skip("no Consul agent here: `make consul` fetches one")
    return found.stdout.strip()


@pytest.fixture(scope="session")
def consul_agent(consul_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """One running agent for all tests that leave it running; they keep apart by service names."""
    agent = ConsulAgent(consul_binary, tmp_path_factory.mktemp("consul"))
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture
def own_agent(consul_binary: str, tmp_path: Path) -> Iterator[ConsulAgent]:
    """An agent that is not started yet, for one test to start, hang and kill."""
    agent = ConsulAgent(consul_binary, tmp_path / "consul")
    yield agent
    agent.stop()


@pytest.fixture(scope="session")
def secure_agent(consul_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureAgent]:
    """One running agent that wants a client's certificate, on the port that it serves HTTPS at."""
    folder = tmp_path_factory.mktemp("consul-tls")
    for arguments in (
        "ca create",
        "cert create -server -dc dc1 -additional-ipaddress=127.0.0.1",
        "cert create -client",
    ):
        subprocess.run(
            [consul_binary, "tls", *arguments.split()], cwd=folder, check=True, capture_output=True
        )
    agent = ConsulAgent(consul_binary, folder)
    agent.config |= {
        "ports": {"https": agent.https_port},
        "ca_file": str(folder / "consul-agent-ca.pem"),
        "cert_file": str(folder / "dc1-server-consul-0.pem"),
        "key_file": str(folder / "dc1-server-consul-0-key.pem"),
        "verify_incoming_https": True,
    }
    agent.start()
    yield SecureAgent(
        address=f"https://127.0.0.1:{agent.https_port}",
        ca=str(folder / "consul-agent-ca.pem"),
        certificate=str(folder / "dc1-client-consul-0.pem"),
        key=str(folder / "dc1-client-consul-0-key.pem"),
    )
    agent.stop()
