"""Calls that wait, are given up, fail or meet a stop, over a real connection."""

from __future__ import annotations

import functools
import gc
import time

import grpc
import numpy as np
import pytest
from closed_loop import ClosedLoop
from gated_server import Gated, answered, expected, gated, rows
from google.rpc import error_details_pb2, status_pb2
from hosted_server import eventually, infer_request
from scripted_engines import PATIENCE_SECONDS, Arrays, Gate, rows_spec

from headrace_engines.errors import DeviceError, ExecutionError
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits
from headrace_server.core.request import Work

Code = grpc.StatusCode


class FailsAt13(Gate):
    """A gate behind which batches with a 13 fail."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def __call__(self, inputs: Arrays) -> None:
        super().__call__(inputs)
        if (inputs[0] == 13).any():
            raise self._error


def test_invariant_1_callers_in_one_batch_get_their_own_rows() -> None:
    with gated() as it:
        first = it.occupy()
        calls = [it.stub.ModelInfer.future(rows(n, 100 + n, id=str(n))) for n in range(1, 30)]
        it.await_waiting(29)
        it.gate.open()
        for n, call in enumerate(calls, 1):
            response = call.result(PATIENCE_SECONDS)
            assert response.id == str(n)
            assert answered(response) == expected(n, 100 + n)
        assert answered(first.result()) == expected(0)
        assert it.served.model.statistics.execution_count == 1 + 8


def test_invariant_3_a_bad_request_is_refused_at_once_and_disturbs_nobody_in_flight() -> None:
    with gated() as it:
        first = it.occupy()
        waiting = it.stub.ModelInfer.future(rows(1))
        it.await_waiting(1)
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(infer_request("m", ("x", "INT64", (1, 1), b"")), timeout=PATIENCE_SECONDS)
        assert refused.value.code() is Code.INVALID_ARGUMENT
        it.gate.open()
        assert answered(first.result()) == expected(0)
        assert answered(waiting.result()) == expected(1)


def test_the_timeout_parameter_is_answered_at_its_deadline_while_the_engine_is_busy() -> None:
    with gated() as it:
        first = it.occupy()
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(1, timeout=50_000), timeout=PATIENCE_SECONDS)
        took_seconds = time.monotonic() - begun
        assert refused.value.code() is Code.DEADLINE_EXCEEDED
        assert refused.value.details() == "model 'm': the deadline passed while the request waited"
        assert 0.05 <= took_seconds < 5
        it.gate.open()
        first.result()
        assert it.executed() == [0]


def test_grpcs_deadline_ends_the_wait_and_the_request_is_never_executed() -> None:
    with gated() as it:
        it.occupy()
        call = it.stub.ModelInfer.future(rows(1), timeout=0.2)
        it.await_waiting(1)
        assert call.code() is Code.DEADLINE_EXCEEDED
        it.await_waiting(0)
        neighbour = it.stub.ModelInfer.future(rows(2))
        it.await_waiting(1)
        it.gate.open()
        assert answered(neighbour.result()) == expected(2)
        assert it.executed() == [0, 2]


def test_invariant_3_a_call_cancelled_in_the_queue_is_never_executed_and_costs_its_neighbours_nothing() -> (
    None
):
    with gated() as it:
        it.occupy()
        before, gone, after = (it.stub.ModelInfer.future(rows(n)) for n in (1, 2, 3))
        it.await_waiting(3)
        gone.cancel()
        it.await_waiting(2)
        it.gate.open()
        assert answered(before.result()) == expected(1)
        assert answered(after.result()) == expected(3)
        assert sorted(it.executed()) == [0, 1, 3]


def test_invariant_3_a_call_cancelled_in_execution_costs_its_neighbours_nothing() -> None:
    with gated() as it:
        it.occupy()
        gone, neighbour = (it.stub.ModelInfer.future(rows(n)) for n in (1, 2))
        it.await_waiting(2)
        it.gate.let_one_through()
        it.gate.arrival()
        gone.cancel()
        it.gate.open()
        assert answered(neighbour.result()) == expected(2)
        assert answered(it.stub.ModelInfer(rows(3))) == expected(3)


def test_invariant_4_cancelled_calls_leave_nothing_behind_however_long_their_timeout() -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(one, Work) for one in gc.get_objects())

    with gated() as it:
        it.occupy()
        before = alive()
        for _ in range(10):
            calls = [it.stub.ModelInfer.future(rows(1, timeout=3_600_000_000)) for _ in range(20)]
            it.await_waiting(20)
            for call in calls:
                call.cancel()
            it.await_waiting(0)
        eventually(lambda: alive() <= before + 100, "the works of cancelled calls are let go")


def test_a_full_queue_is_told_with_the_time_to_come_back() -> None:
    with gated(limits=Limits(max_queue_size=1)) as it:
        it.occupy()
        waiting = it.stub.ModelInfer.future(rows(1))
        it.await_waiting(1)
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(2))
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert "queue full: 1 requests wait" in refused.value.details()
        trailers = dict(refused.value.trailing_metadata())
        details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        info = error_details_pb2.RetryInfo()
        assert details.details[0].Unpack(info)
        assert info.retry_delay.ToNanoseconds() > 0
        it.gate.open()
        assert answered(waiting.result()) == expected(1)
        assert answered(it.stub.ModelInfer(rows(3))) == expected(3)


def test_invariant_3_a_value_that_fails_the_engine_fails_its_caller_alone() -> None:
    with gated(FailsAt13(ExecutionError("out of bounds")), spec=rows_spec(4)) as it:
        it.occupy()
        calls = [it.stub.ModelInfer.future(rows(n)) for n in (1, 13, 2)]
        it.await_waiting(3)
        it.gate.open()
        assert answered(calls[0].result()) == expected(1)
        assert calls[1].code() is Code.INTERNAL
        assert calls[1].details().startswith("model 'm': out of bounds (error ")
        assert answered(calls[2].result()) == expected(2)
        assert answered(it.stub.ModelInfer(rows(3))) == expected(3)


def test_invariant_8_a_lost_device_makes_the_server_say_that_it_is_not_ready() -> None:
    with gated(FailsAt13(DeviceError("Xid 79"))) as it:
        it.occupy()
        calls = [it.stub.ModelInfer.future(rows(n)) for n in (13, 1)]
        it.await_waiting(2)
        it.gate.open()
        assert [call.code() for call in calls] == [Code.UNAVAILABLE, Code.UNAVAILABLE]
        assert "Xid 79" in calls[0].details()
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(2))
        assert refused.value.code() is Code.UNAVAILABLE
        assert not it.stub.ServerReady(pb.ServerReadyRequest()).ready
        assert not it.stub.ModelReady(pb.ModelReadyRequest(name="m")).ready
        (entry,) = it.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert (entry.state, entry.reason) == ("UNAVAILABLE", "Xid 79")


def test_invariant_4_calls_beyond_the_limit_are_refused() -> None:
    with gated(max_calls=3) as it:
        first = it.occupy()
        waiting = [it.stub.ModelInfer.future(rows(n)) for n in (1, 2)]
        it.await_waiting(2)
        with pytest.raises(grpc.RpcError) as refused:
            it.stub.ModelInfer(rows(3))
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert "grpc-status-details-bin" in dict(refused.value.trailing_metadata())
        assert it.stub.ServerReady(pb.ServerReadyRequest()).ready, "a full server is not a dead one"
        it.gate.open()
        assert [answered(call.result()) for call in (first, *waiting)] == [expected(n) for n in (0, 1, 2)]


def test_invariant_4_bytes_in_flight_beyond_the_limit_are_refused() -> None:
    with gated(max_in_flight_bytes=600) as it:
        first = it.occupy()
        accepted: list[grpc.Future] = []

        def is_settled(call: grpc.Future) -> bool:
            return call.done() or it.served.model.waiting > len(accepted)

        for n in range(1, 50):
            call = it.stub.ModelInfer.future(rows(n))
            eventually(functools.partial(is_settled, call), "it waits, or is refused")
            if call.done():
                break
            accepted.append(call)
        assert call.code() is Code.RESOURCE_EXHAUSTED
        assert "bytes are in flight, the limit is 600" in call.details()
        assert accepted
        it.gate.open()
        assert [answered(call.result()) for call in (first, *accepted)] == [
            expected(n) for n in range(len(accepted) + 1)
        ]
        assert answered(it.stub.ModelInfer(rows(7))) == expected(7)


def is_refused(it: Gated) -> bool:
    """Try a call, which a stop that has just begun may still accept."""
    with pytest.raises(grpc.RpcError) as refused:
        it.stub.ModelInfer(rows(99), timeout=0.3)
    return refused.value.code() is Code.UNAVAILABLE


def test_invariant_5_a_stop_answers_what_was_accepted_and_refuses_the_rest() -> None:
    with gated() as it:
        first = it.occupy()
        waiting = [it.stub.ModelInfer.future(rows(n)) for n in range(1, 20)]
        it.await_waiting(19)
        stopped = it.server.begin_stop()
        eventually(lambda: is_refused(it), "what comes after the stop has begun is refused")
        with pytest.raises(TimeoutError):
            stopped.result(1.0)
        it.gate.open()
        stopped.result(PATIENCE_SECONDS)
        assert answered(first.result()) == expected(0)
        assert [answered(call.result()) for call in waiting] == [expected(n) for n in range(1, 20)]


@pytest.mark.parametrize("attempt", range(3))
def test_invariant_5_a_stop_under_load_lets_every_answer_arrive(attempt: int) -> None:
    with gated() as it:
        it.gate.open()
        clients = ClosedLoop(it.server.address, rows(1))
        clients.await_answers(300)
        it.server.begin_stop().result(PATIENCE_SECONDS)
        clients.join()
        assert set(clients.outcomes) <= {"OK", "UNAVAILABLE"}
        assert clients.outcomes["OK"] == it.served.model.statistics.success.count


def test_calls_that_were_given_up_do_not_delay_a_stop() -> None:
    with gated() as it:
        first = it.occupy()
        waiting = it.stub.ModelInfer.future(rows(1), timeout=0.05)
        assert waiting.code() is Code.DEADLINE_EXCEEDED
        first.cancel()
        it.server.begin_stop(grace_seconds=60).result(5)


def test_a_stop_cuts_off_what_is_not_done_in_time() -> None:
    with gated() as it:
        first = it.occupy()
        it.server.begin_stop(grace_seconds=0.05).result(PATIENCE_SECONDS)
        assert first.code() in (Code.UNAVAILABLE, Code.CANCELLED)


@pytest.mark.parametrize("size", [1, 7, 8])
def test_batches_of_every_size_keep_rows_in_order(size: int) -> None:
    with gated() as it:
        it.gate.open()
        values = np.random.default_rng(size).integers(0, 1000, size).tolist()
        assert answered(it.stub.ModelInfer(rows(*values))) == expected(*values)
