"""What procedures and transports know of each other.

A transport owns connections and moves bytes; a procedure owns what the bytes mean. They meet in callbacks,
because whoever has an answer gives it from a thread of its own, and a task for each call would cost more
than the call. A transport calls a procedure one event at a time for each call, and never from within a
method of the call; procedures touch calls from those callbacks, or from what they let the reactor `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVarTuple

from headrace_server.transport.status import Status

Ts = TypeVarTuple("Ts")

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who calls: the address as gRPC writes it, and what TLS proved, by gRPC's names for it."""

    address: str
    identity: Mapping[str, Sequence[bytes]]


class Call(Protocol):
    """One call that has arrived."""

    @property
    def deadline(self) -> float:
        """On the monotonic clock, in seconds; infinite if there is none. The transport enforces it."""

    @property
    def metadata(self) -> Metadata:
        """What came beside the messages; values of keys that end in -bin are bytes."""

    def peer(self) -> Peer:
        """Return who calls."""


class UnaryCall(Call, Protocol):
    """A call with one message and one answer. The first answer counts; later ones do nothing."""

    on_end: Callable[[], None] | None
    """Called once: the answer has been sent, or never will be, because the caller has gone."""

    def answer(self, message: bytes) -> None:
        """End the call well."""

    def fail(self, status: Status) -> None:
        """End the call with this status."""


class StreamCall(Call, Protocol):
    """A call with any number of messages each way, one at a time."""

    def receive(self) -> None:
        """Ask for the next message; the procedure's `received` is then called once."""

    def send(self, message: bytes) -> None:
        """Send a message; the procedure's `sent` is called once there is room for another one."""

    def finish(self, status: Status | None = None) -> None:
        """End the call, well without a status. What was sent before arrives first."""

    def cut(self, status: Status) -> None:
        """End the call though what was sent has not left: a client that reads again is told the status."""


class StreamProcedure(Protocol):
    """What hears of one stream."""

    def begin(self) -> None:
        """Begin: nothing is received before it is asked for."""

    def received(self, message: bytes | None) -> None:
        """Take a message, or None: the client will send no more."""

    def sent(self) -> None:
        """Hear that another message can be sent."""

    def ended(self) -> None:
        """Hear that the call is over, with whatever outcome. Nothing is heard after that."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A procedure with one message and one answer; what it raises ends the call by the table of statuses."""

    take: Callable[[UnaryCall, bytes], None]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A procedure with many messages; returns what hears of this call, or raises what ends it."""

    open: Callable[[StreamCall], StreamProcedure]


Route: TypeAlias = Unary | Streaming
Routes: TypeAlias = Mapping[str, Route]
"""Procedures by their path, /package.Service/Method."""


class Timer(Protocol):
    """Something that is to happen later."""

    def cancel(self) -> None:
        """Let it not happen, if it has not."""


class Reactor(Protocol):
    """Where the calls of a transport are handled."""

    quiet_turns: int
    """Turns without a new message after which none is likely to follow at once."""

    def run(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Run something where calls may be touched. Any thread may ask; it may be done when this returns."""

    def soon(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Run something after the next look for messages, without a wait. For the reactor's own thread."""

    def later(self, seconds: float, function: Callable[[*Ts], object], *arguments: *Ts) -> Timer:
        """Run something after a time. For whoever may touch calls."""
