from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_engines import PATIENCE_SECONDS
from transports import needs_completion_queue

pytestmark = needs_completion_queue


class Flood:
    """A queue that always has another event, until it is shut down."""

    def __init__(self, shutdown: int) -> None:
        self.begun = threading.Event()
        self._over = threading.Event()
        self._shutdown = shutdown

    def poll(self, deadline: float | None = None) -> Any:
        if self._over.is_set():
            return SimpleNamespace(tag=None, completion_type=self._shutdown)
        return SimpleNamespace(tag=lambda _: self.begun.set(), completion_type=-1)

    def shutdown(self) -> None:
        self._over.set()


def test_what_is_to_be_done_soon_is_done_though_events_go_on_coming() -> None:
    from headrace_server.transport.completion_queue import core
    from headrace_server.transport.completion_queue.queue import QueueThread

    thread = QueueThread(Flood(core.QUEUE_SHUTDOWN))
    done = threading.Event()
    thread.soon(done.set)
    thread.start()
    try:
        assert done.wait(PATIENCE_SECONDS)
    finally:
        thread.close()


def test_what_fails_soon_keeps_nothing_else_from_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    from headrace_server.transport.completion_queue.queue import QueueThread

    thread = QueueThread()
    done = threading.Event()
    thread.soon([].pop)
    thread.soon(done.set)
    thread.start()
    try:
        assert done.wait(PATIENCE_SECONDS)
    finally:
        thread.close()
    assert "what was to be done soon has failed" in caplog.text
