"""Asks Consul once which instances of a service there are."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from headrace_cli.failure import quiet

if TYPE_CHECKING:
    from headrace.endpoint import Endpoint


def instances(
    service: str, *, agent: str | None = None, model: str = "", tags: tuple[str, ...] = ()
) -> tuple[Endpoint, ...]:
    """Return the instances that have the model and all tags; `agent` None is the environment's.

    ConnectionError says why there is no answer, ValueError what cannot be asked.
    """
    from headrace.config import consul_settings
    from headrace.consul_watch import ConsulLookup
    from headrace.targets import ConsulTarget

    settings = consul_settings()
    if agent:
        settings = dataclasses.replace(settings, address=agent)
    with quiet("headrace.consul_watch"):
        return asyncio.run(ConsulLookup(ConsulTarget(service, tags=tags, model=model), settings).fetch())
