"""What the rest of the process sees of a transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from headrace_server.listen_address import ListenAddress
from headrace_server.transport.arrived import Arrived
from headrace_server.transport.inference import Inference


class TransportServer(ABC):
    """A server of the protocol on some addresses."""

    name: ClassVar[str]
    """What a person calls it: the word of --grpc-transport."""

    def __init__(self, inference: Inference, arrived: Arrived[Any]) -> None:
        """Tell what these have in hand."""
        self._inference = inference
        self._arrived = arrived

    @abstractmethod
    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """

    @abstractmethod
    async def stop(self, grace_seconds: float) -> None:
        """Answer what was accepted, refuse the rest, close; cut off what is left after `grace_seconds`."""

    @property
    def open_calls(self) -> int:
        """Calls and streams that are being answered."""
        return self._inference.open_calls.calls

    @property
    def unsent_calls(self) -> int:
        """Calls whose message has not come."""
        return self._arrived.unsent

    @property
    def open_streams(self) -> int:
        """Streams alone."""
        return self._inference.open_streams

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""
        return self._inference.holdings.size_bytes
