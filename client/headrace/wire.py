"""One gRPC stream of bytes that tells of what happens to it, instead of being iterated.

A stream that is iterated needs a thread for each direction, and each message wakes both. Told of what has
happened, the thread that gRPC waits in sends and receives what comes next by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, cast

import grpc

from headrace.status import Ended

Guard = AbstractContextManager[bool]
"""A lock of any kind."""


class Owner(Protocol):
    """Whom a wire tells; on a thread of gRPC's, so nothing of this may block."""

    def sent(self) -> None:
        """Take note that the message is on its way; the lock is held."""

    def received(self, message: bytes) -> None:
        """Take the message that was asked for; the lock is held."""

    def ended(self, status: Ended | None) -> None:
        """Take note of the end, after which nothing comes; None: a good one. The lock is not held."""


class Wire(Protocol):
    """One stream; all of it is used with the lock held that it was opened with."""

    def send(self, message: bytes) -> None:
        """Begin to send a message, after the last one has been sent."""

    def finish(self) -> None:
        """Send nothing more."""

    def receive(self) -> None:
        """Ask for the next message, after the last one has come."""

    def cancel(self) -> None:
        """End the stream now."""


class IteratedWire:
    """A stream by grpcio's public interface, on the threads that this takes."""

    def __init__(
        self, method: grpc.StreamStreamMultiCallable[bytes, bytes], lock: Guard, owner: Owner
    ) -> None:
        """Begin the stream, with the lock held; ValueError if the channel is closed."""
        self._lock = lock
        self._owner = owner
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._wanted: SimpleQueue[None] = SimpleQueue()
        self._call = method(self._messages())
        Thread(target=self._receive, name="headrace-receiver", daemon=True).start()

    def send(self, message: bytes) -> None:
        """Begin to send a message."""
        self._outgoing.put(message)

    def finish(self) -> None:
        """Send nothing more."""
        self._outgoing.put(None)

    def receive(self) -> None:
        """Ask for the next message."""
        self._wanted.put(None)

    def cancel(self) -> None:
        """End the stream now."""
        self._call.cancel()
        self._wanted.put(None)

    def _messages(self) -> Iterator[bytes]:
        while (message := self._outgoing.get()) is not None:
            yield message
            with self._lock:
                self._owner.sent()

    def _receive(self) -> None:
        status: Ended | None = None
        try:
            while True:
                self._wanted.get()
                message = next(self._call)
                with self._lock:
                    self._owner.received(message)
        except StopIteration:
            pass
        except grpc.RpcError as error:
            status = cast("Ended", error)
        finally:  # even for a fault of this client, as the end is waited for
            self._call.cancel()
            self._outgoing.put(None)
            self._owner.ended(status)
