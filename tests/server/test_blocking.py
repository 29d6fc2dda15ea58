"""What becomes, at the end, of calls that threads are busy with, and of those that wait for a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

import grpc
import pytest
from direct_reactor import DirectReactor
from hosted_server import eventually
from scripted_engines import PATIENCE_SECONDS

from headrace_server.core.catalogue import IsWanted
from headrace_server.errors import ShuttingDown
from headrace_server.transport.blocking import BlockingCalls
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.seam import Peer
from headrace_server.transport.status import Status


class Asked:
    """A call whose every outcome is noted."""

    deadline = float("inf")
    metadata = ()

    def __init__(self) -> None:
        self.on_end: Callable[[], None] | None = None
        self.outcomes: Queue[bytes | Status] = Queue()

    def peer(self) -> Peer:
        return Peer("ipv4:127.0.0.1:1", {})

    def answer(self, message: bytes) -> None:
        self.outcomes.put(message)

    def fail(self, status: Status) -> None:
        self.outcomes.put(status)


def test_at_the_end_everybody_is_told_and_what_was_not_begun_never_is() -> None:
    holdings = Holdings(100)
    calls = BlockingCalls("looks", 1, DirectReactor(), holdings)
    has_begun, goes_on = threading.Semaphore(0), threading.Event()

    def look(_: Call, is_wanted: IsWanted) -> bytes:
        has_begun.release()
        assert goes_on.wait(PATIENCE_SECONDS)
        return b"done" if is_wanted() else b"too late"

    asked = [Asked() for _ in range(3)]
    calls.run(asked[0], look, 10)
    assert has_begun.acquire(timeout=PATIENCE_SECONDS)
    for waiting in asked[1:]:
        calls.run(waiting, look, 10)
    calls.end()
    for call in asked:
        told = call.outcomes.get(timeout=PATIENCE_SECONDS)
        assert isinstance(told, Status)
        assert told.code is grpc.StatusCode.UNAVAILABLE
        assert "the server is stopping" in told.text
    with pytest.raises(ShuttingDown):
        calls.run(Asked(), look, 10)
    goes_on.set()
    eventually(lambda: holdings.size_bytes == 0, "nothing is held any more")
    assert not has_begun.acquire(blocking=False)
    assert [call.outcomes.qsize() for call in asked] == [0, 0, 0]


def test_what_finds_room_may_call_while_a_call_asks_for_it() -> None:
    """Room is found by ending others, whose threads may begin and end calls meanwhile."""
    first, other, full = Asked(), Asked(), Call()

    def find_room() -> None:
        thread = threading.Thread(target=calls.run, args=(other, lambda *_: b"other", 0), daemon=True)
        thread.start()
        assert other.outcomes.get(timeout=PATIENCE_SECONDS) == b"other"
        holdings.release(full)

    holdings = Holdings(10, find_room)
    holdings.admit(full, 10)
    calls = BlockingCalls("looks", 1, DirectReactor(), holdings)
    calls.run(first, lambda *_: b"first", 5)
    assert first.outcomes.get(timeout=PATIENCE_SECONDS) == b"first"
    calls.end()
