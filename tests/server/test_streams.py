"""Streams over a real connection: many requests in flight, errors inside, ends of every kind."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
from gated_server import Gated, answered, expected, gated, rows
from hosted_server import connected, eventually, hosted, infer_request
from request_streams import Requests, closed
from scripted_engines import PATIENCE_SECONDS, Arrays, Gate, ScriptedEngine, rows_spec, serving

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits
from headrace_server.core.settings import ModelSettings

Code = grpc.StatusCode


def error_code(answer: pb.ModelStreamInferResponse) -> str:
    return answer.infer_response.parameters["error_code"].string_param


def test_many_requests_in_flight_share_batches_and_each_gets_its_own_answer() -> None:
    with gated() as it:
        it.occupy()
        stream = it.stub.ModelStreamInfer(closed(*[rows(n, id=str(n)) for n in range(1, 41)]))
        it.await_waiting(40)
        it.gate.open()
        answers = {answer.infer_response.id: answer for answer in stream}
        assert stream.code() is Code.OK
        assert {key: answered(answer.infer_response) for key, answer in answers.items()} == {
            str(n): expected(n) for n in range(1, 41)
        }
        assert not any(answer.error_message for answer in answers.values())
        assert it.served.model.statistics.execution_count == 1 + 5


def test_a_wrong_request_is_answered_inside_the_stream_with_its_id_and_code() -> None:
    with gated() as it:
        it.gate.open()
        stream = it.stub.ModelStreamInfer(
            closed(
                rows(1, id="a"),
                rows(1, id="unknown", model="none"),
                infer_request("m", ("x", "INT64", (0, 1), b""), id="empty"),
                rows(1, id="sequence", sequence_id=4),
                rows(2, id="b"),
            )
        )
        answers = {answer.infer_response.id: answer for answer in stream}
        assert stream.code() is Code.OK
        assert answered(answers["a"].infer_response) == expected(1)
        assert answered(answers["b"].infer_response) == expected(2)
        codes = {key: error_code(answer) for key, answer in answers.items() if answer.error_message}
        assert codes == {
            "unknown": "NOT_FOUND",
            "empty": "INVALID_ARGUMENT",
            "sequence": "UNIMPLEMENTED",
        }
        assert "batch of 0 rows came" in answers["empty"].error_message


def test_garbage_in_a_stream_is_answered_and_the_stream_goes_on() -> None:
    with gated() as it, grpc.insecure_channel(it.server.address) as channel:
        it.gate.open()
        procedure = channel.stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer")
        good = rows(1, id="good").SerializeToString()
        answers = [
            pb.ModelStreamInferResponse.FromString(answer)
            for answer in procedure(iter([b"\xff\xff", good, b"\x0a\x05"]), timeout=PATIENCE_SECONDS)
        ]
        errors = [answer for answer in answers if answer.error_message]
        assert [error_code(answer) for answer in errors] == ["INVALID_ARGUMENT", "INVALID_ARGUMENT"]
        assert [answer.infer_response.id for answer in answers if not answer.error_message] == ["good"]


def test_closing_the_clients_half_lets_everything_in_flight_be_answered() -> None:
    with gated() as it:
        requests = Requests(rows(0, id="0"))
        stream = it.stub.ModelStreamInfer(requests)
        it.gate.arrival()
        for n in range(1, 10):
            requests.put(rows(n, id=str(n)))
        requests.close()
        it.await_waiting(9)
        it.gate.open()
        assert {answer.infer_response.id for answer in stream} == {str(n) for n in range(10)}
        assert stream.code() is Code.OK


@pytest.mark.parametrize("preserved", [False, True])
def test_answers_come_as_they_are_done_or_in_the_order_of_their_requests(preserved: bool) -> None:
    """Two instances: one has the first request in hand, the other is done with the second."""
    gate = Gate()

    def hold_the_first(inputs: Arrays) -> None:
        if inputs[0][0, 0] == 1:
            gate(inputs)

    engines = [ScriptedEngine(before=hold_the_first) for _ in range(2)]
    settings = ModelSettings(instances=2, preserve_ordering=preserved)
    with (
        serving(engines[0], settings=settings, more=engines[1:]) as served,
        hosted(served.service) as server,
        connected(server.address) as stub,
    ):
        requests = Requests(rows(1, id="first"))
        stream = stub.ModelStreamInfer(requests, timeout=PATIENCE_SECONDS)
        gate.arrival()
        requests.put(rows(2, id="second"))
        requests.close()
        if preserved:
            eventually(lambda: sum(len(one.executed) for one in engines) == 2, "the second is done")
            gate.open()
            order = [answer.infer_response.id for answer in stream]
            assert order == ["first", "second"]
        else:
            assert next(stream).infer_response.id == "second"
            gate.open()
            assert [answer.infer_response.id for answer in stream] == ["first"]


def test_a_stream_without_requests_ends_well() -> None:
    with gated() as it:
        stream = it.stub.ModelStreamInfer(closed())
        assert list(stream) == []
        assert stream.code() is Code.OK


def test_answers_come_while_the_stream_is_open() -> None:
    with gated() as it:
        it.gate.open()
        requests = Requests()
        stream = it.stub.ModelStreamInfer(requests)
        for n in range(5):
            requests.put(rows(n))
            assert answered(next(stream).infer_response) == expected(n)
        requests.close()
        assert list(stream) == []


def test_invariant_3_a_cancelled_stream_takes_its_waiting_requests_along_and_no_others() -> None:
    with gated() as it:
        it.occupy()
        stream = it.stub.ModelStreamInfer(Requests(*[rows(n) for n in range(1, 11)]))
        it.await_waiting(10)
        neighbour = it.stub.ModelInfer.future(rows(99))
        it.await_waiting(11)
        stream.cancel()
        it.await_waiting(1)
        it.gate.open()
        assert answered(neighbour.result()) == expected(99)
        assert it.executed() == [0, 99]


def test_a_streams_deadline_ends_its_waiting_requests() -> None:
    with gated() as it:
        it.occupy()
        stream = it.stub.ModelStreamInfer(Requests(rows(1), rows(2)), timeout=1.0)
        it.await_waiting(2)
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is Code.DEADLINE_EXCEEDED
        it.await_waiting(0)
        it.gate.open()
        assert answered(it.stub.ModelInfer(rows(3))) == expected(3)
        assert it.executed() == [0, 3]


def test_a_requests_own_timeout_is_answered_inside_the_stream() -> None:
    with gated() as it:
        it.occupy()
        requests = Requests(rows(1, id="late", timeout=20_000), rows(2, id="patient"))
        stream = it.stub.ModelStreamInfer(requests)
        late = next(stream)
        assert (late.infer_response.id, error_code(late)) == ("late", "DEADLINE_EXCEEDED")
        it.gate.open()
        assert next(stream).infer_response.id == "patient"
        requests.close()
        assert list(stream) == []


def test_a_full_queue_is_told_inside_the_stream() -> None:
    with gated(limits=Limits(max_queue_size=1)) as it:
        it.occupy()
        requests = Requests(rows(1, id="waits"), rows(2, id="refused"))
        stream = it.stub.ModelStreamInfer(requests)
        refused = next(stream)
        assert (refused.infer_response.id, error_code(refused)) == ("refused", "RESOURCE_EXHAUSTED")
        it.gate.open()
        assert next(stream).infer_response.id == "waits"
        requests.close()


def test_a_message_that_is_too_large_ends_its_stream_alone() -> None:
    with gated(max_message_bytes=10_000) as it:
        it.gate.open()
        requests = Requests()
        other = it.stub.ModelStreamInfer(requests)
        stream = it.stub.ModelStreamInfer(closed(rows(1), rows(*range(5_000)), rows(2)))
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() is Code.RESOURCE_EXHAUSTED
        requests.put(rows(3))
        assert answered(next(other).infer_response) == expected(3)
        requests.close()
        assert list(other) == []


def consumed(it: Gated) -> int:
    """Return how many requests the server has let in so far."""
    return it.served.model.statistics.success.count + it.served.model.waiting


@pytest.mark.parametrize("engine_runs", [True, False])
def test_invariant_4_a_client_that_does_not_read_is_not_read_from_either(engine_runs: bool) -> None:
    elements = 8192
    row = np.zeros(elements, np.int64).tobytes()
    request = infer_request("m", ("x", "INT64", (1, elements), row))
    total = 400
    with gated(spec=rows_spec(4, (elements,)), max_stream_requests=16) as it:
        if engine_runs:
            it.gate.open()
        stream = it.stub.ModelStreamInfer(closed(*[request] * total))
        eventually(lambda: consumed(it) >= 12, "the first requests come in")
        with connected(it.server.address) as another:
            for _ in range(100):
                another.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS)
        assert consumed(it) <= 100
        it.gate.open()
        assert sum(not answer.error_message for answer in stream) == total


def test_invariant_5_a_stop_answers_what_a_stream_had_accepted_and_then_ends_it() -> None:
    with gated() as it:
        requests = Requests(rows(0, id="0"))
        stream = it.stub.ModelStreamInfer(requests)
        it.gate.arrival()
        for n in range(1, 6):
            requests.put(rows(n, id=str(n)))
        it.await_waiting(5)
        stopped = it.server.begin_stop()
        eventually(lambda: not it.served.service.is_ready(), "the stop has begun")
        it.gate.open()
        answers = [next(stream).infer_response.id for _ in range(6)]
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is Code.UNAVAILABLE
        assert sorted(answers) == [str(n) for n in range(6)]
        stopped.result(PATIENCE_SECONDS)
        requests.close()


def test_an_idle_stream_does_not_delay_a_stop() -> None:
    with gated() as it:
        requests = Requests(rows(1))
        stream = it.stub.ModelStreamInfer(requests)
        it.gate.open()
        next(stream)
        it.server.begin_stop(grace_seconds=60).result(5)
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is Code.UNAVAILABLE
        requests.close()


def test_many_streams_and_calls_at_once_keep_their_answers_apart() -> None:
    """Eight clients at once, some of which give up in the middle."""
    failures: list[str] = []

    def talk(client: int) -> None:
        with connected(it.server.address) as stub:
            own = range(client * 1000, client * 1000 + 200)
            stream = stub.ModelStreamInfer(closed(*[rows(n, id=str(n)) for n in own]))
            seen = set()
            for answer in stream:
                n = int(answer.infer_response.id)
                if answered(answer.infer_response) != expected(n) or n in seen or n not in own:
                    failures.append(f"{client} got {n}")
                seen.add(n)
                if client % 3 == 2 and len(seen) == 50:
                    stream.cancel()
                    return
                if len(seen) % 50 == 0 and answered(stub.ModelInfer(rows(n))) != expected(n):
                    failures.append(f"{client} got a wrong call's answer")
            if seen != set(own):
                failures.append(f"{client} misses {len(own) - len(seen)}")

    gate = Gate()
    gate.open()
    with gated(gate) as it:
        talkers = [threading.Thread(target=talk, args=(client,)) for client in range(8)]
        for talker in talkers:
            talker.start()
        for talker in talkers:
            talker.join(PATIENCE_SECONDS)
    assert not any(talker.is_alive() for talker in talkers)
    assert failures == []


def test_large_messages_are_decoded_beside_the_loop_and_answered_like_others() -> None:
    wide = 300_000
    with gated(spec=rows_spec(2, (wide,)), max_message_bytes=8 << 20, max_in_flight_bytes=1 << 30) as it:
        it.gate.open()
        raw = np.arange(wide, dtype=np.int64).tobytes()
        large = infer_request("m", ("x", "INT64", (1, wide), raw))
        wrong = infer_request("m", ("x", "INT64", (1, 1), raw), id="wrong")
        unary = it.stub.ModelInfer(large)
        good, bad = sorted(
            it.stub.ModelStreamInfer(closed(large, wrong)), key=lambda answer: bool(answer.error_message)
        )
        assert good.infer_response.raw_output_contents == unary.raw_output_contents
        assert (error_code(bad), bad.infer_response.id) == ("INVALID_ARGUMENT", "wrong")
