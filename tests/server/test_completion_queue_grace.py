"""How the waits of a stop add up. They are counted by a clock of the test's, and nobody waits."""

from __future__ import annotations

import threading

import pytest
from gated_server import gated, rows
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from raw_http2 import HEADERS, INITIAL_WINDOW_SIZE, RawConnection
from scripted_engines import PATIENCE_SECONDS
from transports import needs_completion_queue

from headrace_server.transport.choice import TransportKind
from headrace_server.transport.completion_queue import server
from headrace_server.transport.completion_queue.grace import Grace

pytestmark = needs_completion_queue

WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Counted:
    """A clock that goes on by what is waited for in vain."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.now += seconds
        return event.is_set()

    def grace(self, seconds: float) -> Grace:
        return Grace(seconds, clock=self.read, wait=self.wait)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(server, "Grace", counted.grace)
    return counted


@pytest.mark.parametrize(
    ("gone", "part", "most_seconds", "left"),
    [
        (0.0, 1.0, 100.0, 8.0),
        (0.0, 0.25, 100.0, 2.0),
        (0.0, 0.25, 1.5, 1.5),
        (1.0, 0.25, 1.5, 1.0),
        (2.0, 0.25, 1.5, 0.0),
        (7.0, 0.25, 100.0, 0.0),
        (7.0, 1.0, 0.5, 0.5),
        (9.0, 1.0, 0.5, 0.0),
    ],
)
def test_what_is_left_is_that_of_the_part_and_never_more_than_asked_for(
    gone: float, part: float, most_seconds: float, left: float
) -> None:
    clock = Counted()
    grace = clock.grace(8.0)
    clock.now += gone
    assert grace.left(part, most_seconds) == left


def test_an_event_that_has_come_is_not_waited_for() -> None:
    clock = Counted()
    grace, come = clock.grace(8.0), threading.Event()
    assert not grace.wait(come, most_seconds=3.0)
    come.set()
    assert grace.wait(come)
    grace.pass_by(1.0, 2.0)
    assert clock.now == 5.0


@pytest.mark.parametrize("grace_seconds", [0.0, 0.25, 2.0, 30.0])
def test_everything_that_a_stop_waits_for_is_waited_for_within_its_grace(
    clock: Counted, grace_seconds: float
) -> None:
    with gated(transport=TransportKind.COMPLETION_QUEUE) as it:
        it.occupy()
        stream = it.stub.ModelStreamInfer(iter([rows(1)]))
        it.await_waiting(1)
        it.server.begin_stop(grace_seconds).result(PATIENCE_SECONDS)
        assert clock.now == pytest.approx(grace_seconds)
        assert stream.code() is not None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (WATCH, health_pb2.HealthCheckRequest().SerializeToString()),
        (REFLECTION, reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()),
    ],
    ids=["watch", "reflection"],
)
def test_a_client_that_takes_nothing_is_not_waited_for_as_streams_with_work_are(
    clock: Counted, path: str, message: bytes
) -> None:
    with (
        gated(transport=TransportKind.COMPLETION_QUEUE) as it,
        RawConnection(it.server.address, {INITIAL_WINDOW_SIZE: 0}) as stuck,
    ):
        stuck.call(1, path, message)
        stuck.await_frame(HEADERS, 1)
        it.server.begin_stop(1000.0).result(PATIENCE_SECONDS)
        assert clock.now < 10.0
