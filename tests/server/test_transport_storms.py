"""Clients that cancel, miss deadlines and cut connections by the hundred: all that they held comes back."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import grpc
import pytest
from gated_server import Gated, answered, expected, gated, rows
from hosted_server import connected, eventually, told_at_a_stop
from raw_http2 import RawConnection
from scripted_engines import PATIENCE_SECONDS, Gate
from transports import needs_completion_queue

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

INFER = f"/{INFERENCE_SERVICE}/ModelInfer"
STREAM = f"/{INFERENCE_SERVICE}/ModelStreamInfer"
CLIENTS = 6
ROUNDS = 24


@pytest.fixture
def it() -> Iterator[Gated]:
    gate = Gate()
    gate.open()
    with gated(gate) as it:
        yield it


def cancel(stub: InferenceServiceStub, dice: random.Random) -> None:
    """Begin calls and take most of them back, each after another while."""
    calls = [stub.ModelInfer.future(rows(n)) for n in range(10)]
    for n, call in enumerate(calls):
        if dice.random() < 0.8:
            call.cancel()
        else:
            assert answered(call.result(PATIENCE_SECONDS)) == expected(n)


def miss_deadlines(stub: InferenceServiceStub, dice: random.Random) -> None:
    """Call with little time, by gRPC's deadline and by the request's own."""
    for n in range(10):
        seconds = dice.choice((0.0001, 0.001, 0.003, 1.0))
        own = {"timeout": int(seconds * 1e6)} if dice.random() < 0.5 else {}
        call = stub.ModelInfer.future(rows(n, **own), timeout=PATIENCE_SECONDS if own else seconds)
        assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED), call.details()
        assert call.code() is not grpc.StatusCode.OK or answered(call.result()) == expected(n)


def leave_streams(stub: InferenceServiceStub, dice: random.Random) -> None:
    """Read a little of a stream, and leave it."""
    requests = [rows(n, id=str(n)) for n in range(dice.randrange(1, 40))]
    stream = stub.ModelStreamInfer(iter(requests), timeout=PATIENCE_SECONDS)
    for answer in stream:
        assert answered(answer.infer_response) == expected(int(answer.infer_response.id))
        if dice.random() < 0.2:
            stream.cancel()
            return


def cut(address: str, dice: random.Random) -> None:
    """Open calls of which some have no message or half of one, and close the socket."""
    message = rows(1).SerializeToString()
    with contextlib.suppress(OSError), RawConnection(address) as connection:
        for stream in range(1, 2 * dice.randrange(2, 12), 2):
            path = dice.choice((INFER, STREAM, "/grpc.health.v1.Health/Watch"))
            connection.call(stream, path, dice.choice((None, message, message[:9], b"")))
        if dice.random() < 0.5:
            connection.synchronise()


def storm(it: Gated, seed: int, failures: list[BaseException]) -> None:
    dice = random.Random(seed)
    try:
        with connected(it.server.address) as stub:
            for _ in range(ROUNDS):
                dice.choice((cancel, miss_deadlines, leave_streams))(stub, dice)
                cut(it.server.address, dice)
    except BaseException as error:
        failures.append(error)


@needs_completion_queue  # grpc.aio of older grpcio hears of some cut connections by its keepalive alone
def test_invariant_4_everything_that_a_storm_held_comes_back(it: Gated) -> None:
    failures: list[BaseException] = []
    clients = [threading.Thread(target=storm, args=(it, seed, failures)) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE_SECONDS * 3)
        assert not client.is_alive()
    assert failures == []
    transport = it.server.transport
    eventually(lambda: transport.open_calls == 0, "every call has ended")
    eventually(lambda: transport.in_flight_bytes == 0, "every byte has come back")
    assert transport.open_streams == 0
    assert it.served.model.waiting == 0
    assert answered(it.stub.ModelInfer(rows(5))) == expected(5)


def test_invariant_3_a_storm_of_cancels_while_the_engine_is_busy_leaves_the_others_their_answers() -> None:
    with gated() as it:
        first = it.occupy()
        stays = [it.stub.ModelInfer.future(rows(n)) for n in range(1, 20)]
        for seed in range(5):
            gone = [it.stub.ModelInfer.future(rows(1000 + n)) for n in range(40)]
            random.Random(seed).shuffle(gone)
            for call in gone:
                call.cancel()
        it.await_waiting(19)
        it.gate.open()
        assert answered(first.result()) == expected(0)
        assert [answered(call.result(PATIENCE_SECONDS)) for call in stays] == [
            expected(n) for n in range(1, 20)
        ]
        assert max(it.executed()) < 1000
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "every byte has come back")


def test_invariant_5_a_stop_in_a_storm_ends(it: Gated) -> None:
    failures: list[BaseException] = []

    def call(seed: int) -> None:
        dice = random.Random(seed)
        while True:
            try:
                cut(it.server.address, dice)
                with connected(it.server.address) as stub:
                    stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS)
            except grpc.RpcError as error:
                if error.code() not in told_at_a_stop(it.server):
                    failures.append(error)
                return

    clients = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    eventually(lambda: it.server.transport.open_calls > 0, "the storm has begun")
    it.server.begin_stop(grace_seconds=10).result(PATIENCE_SECONDS)
    for client in clients:
        client.join(PATIENCE_SECONDS)
        assert not client.is_alive()
    assert failures == []
    assert it.server.transport.in_flight_bytes == 0
