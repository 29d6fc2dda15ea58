"""The standard health service's names and states: what load balancers and Consul ask.

`""` and the names of the services tell about the server, `model:NAME` and `model:NAME:VERSION` about
models. Transports listen, from any thread and without a wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from grpc_health.v1 import health_pb2

from headrace_proto.names import SERVICES, model_health_name
from headrace_server.core.catalogue import Entry, ModelState

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
"""What those who watch a name are told once it has gone, and never a state that is kept."""

Listener = Callable[[str, int], None]


class Health:
    """The states as last told, passed on to every listener when one changes."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._listeners: list[Listener] = []

    def add_listener(self, listener: Listener) -> None:
        """Tell this one of each change from now on."""
        self._listeners.append(listener)

    def show(self, states: Mapping[str, int]) -> None:
        """Take these states; others are forgotten, as versions come and go for ever."""
        for name, state in (dict.fromkeys(self._states, UNKNOWN) | dict(states)).items():
            if self._states.get(name) != state:
                for listener in self._listeners:
                    listener(name, state)
        self._states = dict(states)

    def leave(self) -> None:
        """Say of everything that it is not serving any more."""
        self.show(dict.fromkeys(self._states, NOT_SERVING))


def states_of(*, ready: bool, index: list[Entry]) -> dict[str, int]:
    """Return the state of each name, given whether the server is ready and how its models stand."""
    states = dict.fromkeys(("", *SERVICES), SERVING if ready else NOT_SERVING)
    for entry in index:
        serving = ready and entry.state is ModelState.READY
        states[model_health_name(entry.name, entry.version)] = SERVING if serving else NOT_SERVING
        name = model_health_name(entry.name)
        states[name] = SERVING if serving else states.get(name, NOT_SERVING)
    return states
