"""Health on a server that runs, as load balancers and hostile clients ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hosted_server import HostedServer, eventually, hosted
from raw_http2 import HEADERS, INITIAL_WINDOW_SIZE, RawConnection
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace_proto.names import SERVICES
from headrace_server.transport import health_procedures
from headrace_server.transport.health import NOT_SERVING, SERVING

WATCH = "/grpc.health.v1.Health/Watch"
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
PATIENCE_SECONDS = 10.0


@pytest.fixture
def server() -> Iterator[HostedServer]:
    listen = ["127.0.0.1:0", "127.0.0.1:0"]
    with serving(ScriptedEngine(rows_spec())) as served, hosted(served.service, listen=listen) as hosting:
        yield hosting


@pytest.fixture
def stub(server: HostedServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(name: str) -> Any:
    return health_pb2.HealthCheckRequest(service=name)


def test_every_name_is_told_on_every_address(server: HostedServer) -> None:
    assert len(set(server.addresses)) == 2
    for address in server.addresses:
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", *SERVICES, "model:m", "model:m:1"):
                assert health.Check(asked(name)).status == SERVING
                watch = health.Watch(asked(name))
                assert next(watch).status == SERVING
                watch.cancel()


def test_a_server_is_not_serving_before_anything_is_told() -> None:
    with serving(ScriptedEngine(rows_spec())) as served:
        server = HostedServer(served.service)
        try:
            with grpc.insecure_channel(server.address) as channel:
                assert health_pb2_grpc.HealthStub(channel).Check(asked("")).status == NOT_SERVING
        finally:
            server.close()


def test_a_name_that_is_not_there_is_not_found_and_can_be_waited_for(server: HostedServer, stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(asked("model:none" * 1000))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(refused.value.details()) < 200
    watch = stub.Watch(asked("model:later"))
    assert next(watch).status == UNKNOWN
    server.health.show({"": SERVING, "model:later": SERVING})
    assert next(watch).status == SERVING


def test_watchers_of_one_name_all_hear_of_changes_though_one_of_them_leaves(
    server: HostedServer, stub: Any
) -> None:
    first, second = stub.Watch(asked("model:m")), stub.Watch(asked("model:m"))
    assert next(first).status == next(second).status == SERVING
    first.cancel()
    eventually(lambda: not first.is_active(), "the first has left")
    for state in (NOT_SERVING, SERVING):
        server.health.show({"model:m": state})
        assert next(second).status == state


def test_a_watcher_that_takes_nothing_holds_up_neither_changes_nor_the_others(
    server: HostedServer, stub: Any
) -> None:
    with RawConnection(server.address, {INITIAL_WINDOW_SIZE: 0}) as stuck:
        stuck.call(1, WATCH)
        stuck.await_frame(HEADERS, 1)
        watch = stub.Watch(asked(""))
        assert next(watch).status == SERVING
        server.health.show({"": NOT_SERVING})
        assert next(watch).status == NOT_SERVING


def test_watches_end_with_the_server_once_they_have_told_how_things_stand(
    server: HostedServer, stub: Any
) -> None:
    watch = stub.Watch(asked(""))
    assert next(watch).status == SERVING
    server.health.leave()
    assert next(watch).status == NOT_SERVING
    server.begin_stop().result(PATIENCE_SECONDS)
    with pytest.raises(grpc.RpcError) as ended:
        next(watch)
    assert (ended.value.code(), ended.value.details()) == (
        grpc.StatusCode.UNAVAILABLE, "the server is stopping",
    )  # fmt: skip


def test_watchers_are_bounded(server: HostedServer, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_procedures, "_MOST_WATCHERS", 2)
    watches = [stub.Watch(asked("")) for _ in range(2)]
    for watch in watches:
        next(watch)
    with pytest.raises(grpc.RpcError) as refused:
        next(stub.Watch(asked("")))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Check(asked("")).status == SERVING
    watches[0].cancel()

    def has_room() -> bool:
        watch = stub.Watch(asked(""))
        try:
            next(watch)
        except grpc.RpcError:
            return False
        watch.cancel()
        return True

    eventually(has_room, "a place is free")
