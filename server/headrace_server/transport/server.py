"""What the rest of the process sees of a transport."""

from __future__ import annotations

from typing import Protocol

from headrace_server.listen_address import ListenAddress


class TransportServer(Protocol):
    """A server of the protocol on some addresses."""

    @property
    def name(self) -> str:
        """What a person calls it: the word of --grpc-transport."""

    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """

    async def stop(self, grace_seconds: float) -> None:
        """Answer what was accepted, refuse the rest, close; cut off what is left after `grace_seconds`."""

    @property
    def open_calls(self) -> int:
        """Calls and streams that are being answered."""

    @property
    def unsent_calls(self) -> int:
        """Calls whose message has not come."""

    @property
    def open_streams(self) -> int:
        """Streams alone."""

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of requests that are being answered, and of their answers."""
