"""Keeps this server's entry in a Consul agent true.

One task registers, then beats at a third of the time to live; each call is a blocking one of
py-consul in a thread of its own. What a call came to decides the next one (`next_step`): an agent
that forgot is told again, one that is away or says no is asked again, ever more slowly up to the
beat. No prediction ever waits for any of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import consul

from headrace_proto.consul import split_address
from headrace_server.discovery.consul_payload import registration, ttl_check_id, unannounced
from headrace_server.discovery.heartbeat import START, Outcome, Step, is_worth_a_line, next_step
from headrace_server.discovery.registry import Check, RegistrationError, ServiceEntry

logger = logging.getLogger(__name__)

T = TypeVar("T")

REGISTER_TIMEOUT_SECONDS = 20.0
"""An agent whose servers have no leader takes 7 s to say yes."""
BEAT_TIMEOUT_SECONDS = 2.0
STOP_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """How to reach the agent, in the meaning of Consul's own environment variables.

    `address` is host:port, http://host:port or https://host:port; the other files are paths of PEM.
    """

    address: str = "127.0.0.1:8500"
    token: str = field(default="", repr=False)
    cacert: str = ""
    client_cert: str = ""
    client_key: str = ""
    namespace: str = ""

    def __post_init__(self) -> None:
        split_address(self.address)
        if bool(self.client_cert) != bool(self.client_key):
            raise ValueError("a Consul client certificate needs its key, and the key its certificate")


class ConsulRegistrar:
    """The registrar for Consul: see `registry.Registrar`."""

    def __init__(self, settings: ConsulSettings, entry: ServiceEntry) -> None:
        self.registered = asyncio.Event()
        self._entry = entry
        self._address = settings.address
        self._register_agent = _agent(settings, REGISTER_TIMEOUT_SECONDS)
        self._beat_agent = _agent(settings, BEAT_TIMEOUT_SECONDS)
        self._beat_seconds = entry.ttl_seconds / 3
        self._attempted = asyncio.Event()
        self._last_outcome = Outcome.DONE
        self._complaint = ""
        self._changed = False
        self._withdrawn = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to register, in the background; returns at once."""
        self._warn_of_unannounced()
        self._task = asyncio.create_task(self._keep_registered(), name="consul-registrar")

    async def first_attempt(self) -> None:
        """Wait until Consul took the entry, or raise RegistrationError once it did not."""
        await self._attempted.wait()
        if self._complaint:
            raise RegistrationError(self._complaint)

    async def update(self, models: Mapping[str, str]) -> None:
        """Let the entry name these models from now on, and be gone while there are none."""
        self._withdrawn = not models
        self._entry = replace(self._entry, models=dict(models))
        self._warn_of_unannounced()
        self._changed = True
        self._wake.set()

    async def stop(self) -> None:
        """Take the entry out, within two seconds; a Consul that is away only costs a line in the log."""
        if self._task is None:
            return
        loop = asyncio.get_running_loop()
        give_up = loop.time() + STOP_TIMEOUT_SECONDS
        self._stopping = True
        self._wake.set()
        # A registration that is on its way must not arrive after the deregistration.
        await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_SECONDS / 2)
        self._task.cancel()
        self._task = None
        try:
            async with asyncio.timeout_at(give_up):
                await _in_daemon_thread(self._deregister)
        except Exception as error:
            logger.warning(
                "%s could not be taken out of Consul at %s (%s): what is left goes once its checks fail",
                self._entry.id,
                self._address,
                "no answer in time" if isinstance(error, TimeoutError) else _root_cause(error),
            )
        else:
            logger.info("%s was taken out of Consul at %s", self._entry.id, self._address)
        self.registered.clear()

    async def _keep_registered(self) -> None:
        step = START
        while not self._stopping:
            if self._changed:
                step = replace(step, register=True)
                self._changed = False
            withdrawn = self._withdrawn
            call = self._withdraw if withdrawn else self._register if step.register else self._beat
            outcome, complaint = await self._try(call)
            self._note(step, outcome, complaint, withdrawn=withdrawn)
            step = next_step(step, outcome, self._beat_seconds)
            await self._rest(step)

    async def _try(self, call: Callable[[], bool]) -> tuple[Outcome, str]:
        try:
            known = await _in_daemon_thread(call)
        except (consul.ACLPermissionDenied, consul.exceptions.ACLDisabled) as error:
            right = f'service "{self._entry.name}" {{ policy = "write" }}'
            return Outcome.DENIED, f"the token lacks a right, probably {right} ({_one_line(error)})"
        except (consul.exceptions.BadRequest, consul.exceptions.ClientError) as error:
            return Outcome.REFUSED, f"the entry was refused ({_one_line(error)})"
        except consul.ConsulException as error:
            # A beat for a check that is unknown is a 500 in old versions and a 404 in newer ones.
            return Outcome.FORGOTTEN, f"the agent could not ({_one_line(error)})"
        except OSError as error:
            return Outcome.UNREACHABLE, f"the agent cannot be reached ({_root_cause(error)})"
        except Exception as error:
            complaint = f"an unforeseen error ({_one_line(error)})"
            if complaint != self._complaint:
                logger.exception("an unforeseen error while talking to Consul at %s", self._address)
            return Outcome.UNREACHABLE, complaint
        return (Outcome.DONE, "") if known else (Outcome.FORGOTTEN, "the agent does not know the entry")

    def _note(self, step: Step, outcome: Outcome, complaint: str, *, withdrawn: bool) -> None:
        """Keep the events true, and the log short: what changed, and failures ever more rarely."""
        if outcome is Outcome.DONE and step.register and withdrawn:
            logger.warning("%s has no model left: taken out of Consul at %s", self._entry.id, self._address)
            self.registered.clear()
        elif outcome is Outcome.DONE and step.register:
            logger.info("%s is registered in Consul at %s", self._entry.id, self._address)
            self.registered.set()
        elif outcome is Outcome.DONE and self._complaint:
            logger.info("Consul at %s hears the beats of %s again", self._address, self._entry.id)
        elif outcome is Outcome.FORGOTTEN and not step.register:
            logger.warning("Consul at %s forgot %s: registering anew", self._address, self._entry.id)
            self.registered.clear()
        elif outcome is not Outcome.DONE and (
            outcome is not self._last_outcome or is_worth_a_line(step.failures + 1)
        ):
            level = logging.WARNING if outcome is Outcome.UNREACHABLE else logging.ERROR
            logger.log(level, "Consul at %s: %s; serving goes on, trying again", self._address, complaint)
        self._last_outcome = outcome
        self._complaint = complaint
        self._attempted.set()

    async def _rest(self, step: Step) -> None:
        jitter = random.uniform(0.5, 1.0) if step.failures else 1.0
        try:
            async with asyncio.timeout(step.delay_seconds * jitter):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _register(self) -> bool:
        return bool(self._register_agent.agent.service.register(**registration(self._entry)))

    def _beat(self) -> bool:
        agent = self._beat_agent.agent
        if Check.TTL in self._entry.checks:
            return bool(agent.check.ttl_pass(ttl_check_id(self._entry)))
        return agent.service_definition(self._entry.id) is not None

    def _withdraw(self) -> bool:
        self._deregister()
        return True

    def _deregister(self) -> None:
        with suppress(consul.NotFound):
            self._beat_agent.agent.service.deregister(self._entry.id)

    def _warn_of_unannounced(self) -> None:
        left_out = unannounced(self._entry)
        if left_out:
            logger.warning(
                "Consul's metadata has no room for %d models, which look-ups by model will not find: %s",
                len(left_out),
                ", ".join(sorted(left_out)),
            )


def _agent(settings: ConsulSettings, timeout_seconds: float) -> consul.Consul:
    scheme, host, port = split_address(settings.address)
    agent = consul.Consul(
        host=f"[{host}]" if ":" in host else host,
        port=port,
        scheme=scheme,
        verify=settings.cacert or True,
        cert=(settings.client_cert, settings.client_key) if settings.client_cert else None,
        connections_timeout=timeout_seconds,
    )
    # The library prefers CONSUL_HTTP_TOKEN to the token that it is given; ours has been decided on.
    agent.token = settings.token
    # An agent is a neighbour: proxies and passwords that the environment holds are not meant for it.
    agent.http.session.trust_env = False
    if settings.namespace:
        agent.http.session.headers["X-Consul-Namespace"] = settings.namespace
    return agent


async def _in_daemon_thread(call: Callable[[], T]) -> T:
    """Do what `asyncio.to_thread` does, but never keep the process from exiting while a call hangs."""
    result: Future[T] = Future()

    def run() -> None:
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="consul-call", daemon=True).start()
    return await asyncio.wrap_future(result)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _root_cause(error: BaseException) -> str:
    """Return what the operating system said, without the layers of libraries around it."""
    while error.__context__ is not None:
        error = error.__context__
    return _one_line(error)
