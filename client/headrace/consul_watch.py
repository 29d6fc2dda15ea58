"""Follows a service in Consul by blocking queries over HTTP.

py-consul is not used here: it hides the response's headers, cannot ask for stale answers of the
health endpoint, and a query that blocks cannot be cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx

from headrace.config import ConsulSettings
from headrace.consul_health import Answer, Decision, Watch, decide, filter_expression
from headrace.endpoint import Endpoint, joined
from headrace.targets import ConsulTarget
from headrace_proto.consul import split_address

logger = logging.getLogger(__name__)

WAIT_SECONDS = 55
CONNECT_TIMEOUT_SECONDS = 5.0
ANSWER_TIMEOUT_SECONDS = 10.0
BLOCKED_TIMEOUT_SECONDS = WAIT_SECONDS * 17 / 16 + ANSWER_TIMEOUT_SECONDS
"""An agent adds up to a sixteenth to the wait."""
MIN_INTERVAL_SECONDS = 0.05
"""An agent that is stopping answers every query at once."""


class ConsulLookup:
    """A look-up that watches one service through one agent: see `lookup.Lookup`."""

    def __init__(self, target: ConsulTarget, settings: ConsulSettings) -> None:
        self._target = target
        self._settings = settings
        self._base_url = base_url(settings, target.agent)
        self._tls = _tls(settings) if self._base_url.startswith("https:") else None
        self._filter = filter_expression(target.tags, target.model)
        self._problem = ""

    @property
    def problem(self) -> str:
        """What is wrong with Consul's answers at the moment; "" while all is well."""
        return self._told(self._problem) if self._problem else ""

    def _told(self, problem: str) -> str:
        return f"Consul at {self._base_url}: {problem}"

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        """Yield the complete set as soon as it is known and whenever it changes, until cancelled."""
        watch = Watch()
        loop = asyncio.get_running_loop()
        async with self._connection() as connection:
            while True:
                started = loop.time()
                decision = await self._step(connection, watch)
                self._log(watch, decision)
                watch = decision.watch
                self._problem = watch.problem
                if decision.changed and watch.endpoints is not None:
                    yield watch.endpoints
                delay_seconds = decision.backoff_seconds * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(delay_seconds, started + MIN_INTERVAL_SECONDS - loop.time()))

    async def fetch(self) -> tuple[Endpoint, ...]:
        """Return the set as it is now; ConnectionError says why Consul did not tell it."""
        async with self._connection() as connection:
            decision = await self._step(connection, Watch())
        self._log(Watch(), decision)
        if decision.watch.endpoints is None:
            raise ConnectionError(self._told(decision.watch.problem))
        return decision.watch.endpoints

    async def _step(self, connection: httpx.AsyncClient, watch: Watch) -> Decision:
        query: dict[str, str | int] = {"stale": "1"}
        timeout_seconds = ANSWER_TIMEOUT_SECONDS
        if watch.index:
            query |= {"index": watch.index, "wait": f"{WAIT_SECONDS}s"}
            timeout_seconds = BLOCKED_TIMEOUT_SECONDS
        if self._filter:
            query["filter"] = self._filter
        path = f"/v1/health/service/{quote(self._target.service, safe='')}"
        answer: Answer | str
        try:
            timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS)
            response = await connection.get(path, params=query, timeout=timeout)
            answer = Answer(response.status_code, response.headers, response.content)
        except (httpx.HTTPError, OSError) as error:  # a certificate refused late is a bare SSLError
            answer = f"the agent cannot be reached ({_reason(error)})"
        return decide(watch, answer, has_token=bool(self._settings.token))

    def _connection(self) -> httpx.AsyncClient:
        headers = {"X-Consul-Token": self._settings.token} if self._settings.token else {}
        if self._settings.namespace:
            headers["X-Consul-Namespace"] = self._settings.namespace
        return httpx.AsyncClient(
            base_url=self._base_url,
            headers=headers,
            verify=self._tls or False,
            trust_env=False,  # an agent is a neighbour: no proxy stands between
        )

    def _log(self, before: Watch, decision: Decision) -> None:
        """Tell a problem once, when it begins or changes, and its end."""
        after = decision.watch
        if after.problem and after.problem != before.problem:
            logger.warning(
                "looking up %s in Consul at %s: %s%s",
                self._target.service,
                self._base_url,
                after.problem,
                "; the servers found before are kept" if after.failures and after.endpoints else "",
            )
        elif before.failures and not after.failures:
            logger.info("Consul at %s answers again", self._base_url)


def base_url(settings: ConsulSettings, agent: str = "") -> str:
    """Return the URL of the settings' agent, or of `agent` (host:port) reached in the same way.

    ValueError says what is wrong with the address.
    """
    scheme, host, port = split_address(settings.address)
    return f"{scheme}://{agent or joined(host, port)}"


def _tls(settings: ConsulSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.certificate_file:
            context.load_cert_chain(settings.certificate_file, settings.key_file or None)
    except OSError as error:
        files = ", ".join(filter(None, (settings.ca_file, settings.certificate_file, settings.key_file)))
        raise ValueError(f"the certificates for Consul cannot be used ({files}): {error}") from error
    return context


def _reason(error: BaseException) -> str:
    """Return what the operating system said, without the layers of libraries around it."""
    while (inner := _inner(error)) is not None and str(inner):
        error = inner
    if isinstance(error, ConnectionRefusedError):  # whose own text says no more than that a call failed
        return "connection refused"
    return str(error) or type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):  # of one name's addresses, all in vain
        return error.exceptions[0]
    return error.__cause__ or error.__context__
