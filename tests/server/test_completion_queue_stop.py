"""Stops under load: nothing is lost, nothing hangs, and what comes too late harms nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from gated_server import Gated, gated, rows
from hosted_server import connected, eventually
from scripted_engines import PATIENCE_SECONDS, Gate, ScriptedEngine, serving
from transports import needs_completion_queue

from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.errors import ShuttingDown
from headrace_server.transport.choice import TransportKind

pytestmark = needs_completion_queue

QUEUE = TransportKind.COMPLETION_QUEUE
FOLDERS = [str(Path(__file__).parents[1] / "support"), *sys.path]


class Pipelined:
    """Clients with many calls in flight on each connection, each followed by another while it is answered."""

    def __init__(self, address: str, connections: int, in_flight: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._open = connections * in_flight
        self._changed = threading.Condition()
        self._connections = [connected(address) for _ in range(connections)]
        for connection in self._connections:
            stub = connection.__enter__()
            for _ in range(in_flight):
                self._begin(stub)

    def await_answers(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.outcomes["OK"] >= count, PATIENCE_SECONDS)

    def join(self) -> None:
        """Wait until no call is answered any more."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, PATIENCE_SECONDS)
        for connection in self._connections:
            connection.__exit__(None, None, None)

    def _begin(self, stub: InferenceServiceStub) -> None:
        call = stub.ModelInfer.future(rows(1), timeout=PATIENCE_SECONDS)
        call.add_done_callback(lambda call: self._ended(stub, call))

    def _ended(self, stub: InferenceServiceStub, call: Any) -> None:
        code = call.code()
        with self._changed:
            self.outcomes[code.name] += 1
            if code is not grpc.StatusCode.OK:
                self._open -= 1
            self._changed.notify_all()
        if code is grpc.StatusCode.OK:
            self._begin(stub)


@pytest.mark.parametrize("attempt", range(5))
def test_invariant_5_a_stop_cancels_no_call_of_clients_with_many_in_flight(attempt: int) -> None:
    gate = Gate()
    gate.open()
    with gated(gate, transport=QUEUE) as it:
        clients = Pipelined(it.server.address, connections=4, in_flight=16)
        clients.await_answers(500)
        it.server.begin_stop().result(PATIENCE_SECONDS)
        clients.join()
        assert set(clients.outcomes) == {"OK", "UNAVAILABLE"}, clients.outcomes
        assert clients.outcomes["OK"] == it.served.model.statistics.success.count


def test_invariant_5_what_is_accepted_while_a_stream_lasts_is_answered() -> None:
    lasting = Gate()
    with serving(ScriptedEngine(before=lasting), name="lasting") as other, gated(transport=QUEUE) as it:
        it.served.shelf.put(other.model)
        stream = it.stub.ModelStreamInfer(iter([rows(1, model="lasting")]))
        lasting.arrival()
        accepted = [it.occupy()]
        stop = it.server.begin_stop(grace_seconds=4.0)
        while waits(it, call := it.stub.ModelInfer.future(rows(1)), len(accepted)):
            accepted.append(call)
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        it.gate.open()
        assert {call.code() for call in accepted} == {grpc.StatusCode.OK}
        lasting.open()
        assert len(list(stream)) == 1
        stop.result(PATIENCE_SECONDS)


def waits(it: Gated, call: Any, count: int) -> bool:
    """Return whether the call becomes one of so many that wait, or is refused."""
    eventually(lambda: call.done() or it.served.model.waiting == count, "the call waits, or is refused")
    return not call.done()


def test_what_a_server_had_not_accepted_when_it_ended_is_not_accepted_any_more() -> None:
    with gated(transport=QUEUE) as it:
        it.server.begin_stop().result(PATIENCE_SECONDS)
        with pytest.raises(ShuttingDown, match="the server is stopping"):
            it.served.infer("read beside the transport until now", 1)


LATE = """
import sys
sys.path[:0] = {folders!r}
from gated_server import gated, rows
from headrace_server.transport.choice import TransportKind

with gated(transport=TransportKind.COMPLETION_QUEUE) as it:
    first = it.occupy()
    waiting = [it.stub.ModelInfer.future(rows(n)) for n in range(1, 20)]
    stream = it.stub.ModelStreamInfer(iter([rows(n) for n in range(20, 40)]))
    it.await_waiting(39)
    it.server.begin_stop(grace_seconds={grace}).result(20)
    codes = {{call.code().name for call in (first, *waiting, stream)}}
    it.gate.open()  # the engine answers what was cut off: the queue has gone by then
    it.served.model.close(drain=True)
    assert it.served.worker.join(20)
    print("alive", *sorted(codes))
"""


@pytest.mark.parametrize("grace_seconds", [0.0, 0.05])
def test_answers_that_come_after_the_end_do_not_end_the_process(grace_seconds: float) -> None:
    program = LATE.format(folders=FOLDERS, grace=grace_seconds)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said, *codes = done.stdout.split()
    assert said == "alive"
    assert set(codes) <= {"UNAVAILABLE", "CANCELLED"}


LAST = """
import sys
sys.path[:0] = {folders!r}
from gated_server import gated
from headrace_server.transport.choice import TransportKind
from headrace_server.transport.completion_queue.calls import CoreCallBase

CoreCallBase._closed = lambda call, event: None  # the call's end would be the queue's last event
with gated(transport=TransportKind.COMPLETION_QUEUE) as it:
    it.occupy()
    it.server.begin_stop(grace_seconds=0.0).result(20)
    it.gate.open()
    it.served.model.close(drain=True)
    assert it.served.worker.join(20)
    print("alive")
"""


def test_an_answer_that_comes_before_the_end_of_its_call_is_heard_does_not_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAST.format(folders=FOLDERS)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


UNSTOPPED = """
import sys
sys.path[:0] = {folders!r}
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosted_server import HostedServer
from headrace_server.core.service import Service
from headrace_server.transport.choice import TransportKind
from scripted_engines import Shelf

server = HostedServer(Service(Shelf()), TransportKind.COMPLETION_QUEUE)
channel = grpc.insecure_channel(server.address)
watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
next(watch)
print("alive")
"""


def test_a_process_that_ends_without_a_stop_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNSTOPPED.format(folders=FOLDERS)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


UNSTARTED = """
import asyncio, sys
sys.path[:0] = {folders!r}
from headrace_server.core.service import Service
from headrace_server.listen_address import parse
from headrace_server.transport.completion_queue.server import CompletionQueueServer
from headrace_server.transport.health import Health
from headrace_server.transport.listening import PortError
from headrace_server.transport.open_calls import InferenceLimits
from headrace_server.transport.options import TransportOptions
from scripted_engines import Shelf

def server(*listen):
    options = TransportOptions(tuple(map(parse, listen)), InferenceLimits(10, 10, 10, 10))
    return CompletionQueueServer(Service(Shelf()), Health(), options)

async def main():
    await server("127.0.0.1:0").stop(1)
    taken = server("127.0.0.1:0")
    address, = await taken.start()
    other = server(str(address))
    try:
        await other.start()
    except PortError as error:
        print(error)
    await other.stop(1)
    await asyncio.gather(taken.stop(1), taken.stop(1))
    await taken.stop(1)

asyncio.run(main())
"""


def test_servers_that_never_began_and_stops_that_come_twice_end_well() -> None:
    program = UNSTARTED.format(folders=FOLDERS)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the port is taken" in done.stdout
