"""Whatever a stream is sent, each request gets one last answer, and nothing is held when it is over."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from gated_server import Gated, gated, rows
from hosted_server import eventually, infer_request
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engines import PATIENCE_SECONDS, rows_spec

from headrace_proto.names import INFERENCE_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits

LARGE = infer_request("m", ("x", "INT64", (9, 1), bytes(72)), junk="j" * 100_000)
"""Read beside the loop, and one row too many."""


@pytest.fixture(scope="module")
def it() -> Iterator[Gated]:
    with gated(spec=rows_spec(8), limits=Limits(max_queue_size=16), max_stream_requests=8) as it:
        it.gate.open()
        yield it


def good(number: int) -> bytes:
    return bytes(rows(number, id=str(number)).SerializeToString())


REQUESTS = st.one_of(
    st.integers(0, 1000).map(good),
    st.binary(min_size=1, max_size=20),
    st.sampled_from(
        [
            rows(1, model="none").SerializeToString(),
            rows(*range(9)).SerializeToString(),
            rows(1, timeout=1).SerializeToString(),
            rows(1, triton_enable_empty_final_response=True).SerializeToString(),
            LARGE.SerializeToString(),
            infer_request("m", ("x", "INT64", (8, 1), np.arange(8).tobytes())).SerializeToString(),
        ]
    ),
)


def stream(
    it: Gated, requests: list[bytes], **options: object
) -> tuple[list[pb.ModelStreamInferResponse], object]:
    with grpc.insecure_channel(it.server.address) as channel:
        procedure = channel.stream_stream(
            f"/{INFERENCE_SERVICE}/ModelStreamInfer",
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        call = procedure(iter(requests), timeout=PATIENCE_SECONDS, **options)
        answers = []
        with contextlib.suppress(grpc.RpcError):
            answers.extend(call)
        return answers, call.code()


USUAL = settings(max_examples=40, deadline=None)


@USUAL
@given(st.lists(REQUESTS, max_size=30))
def test_invariant_1_each_request_gets_one_last_answer(it: Gated, requests: list[bytes]) -> None:
    answers, code = stream(it, requests)
    assert code is grpc.StatusCode.OK
    assert len(answers) == len(requests)
    for answer in answers:
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        assert bool(answer.error_message) != bool(answer.infer_response.outputs)
    eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")


@USUAL
@given(st.lists(REQUESTS, max_size=30))
def test_a_stream_that_ends_with_its_first_error_has_answers_until_then(
    it: Gated, requests: list[bytes]
) -> None:
    answers, code = stream(it, requests, metadata=(("triton_grpc_error", "true"),))
    assert not any(answer.error_message for answer in answers)
    assert (code is grpc.StatusCode.OK) == (len(answers) == len(requests))
    eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")
    eventually(lambda: it.server.transport.open_streams == 0, "the stream has ended")


@USUAL
@given(st.lists(st.lists(st.integers(0, 1000), max_size=20), min_size=1, max_size=4))
def test_streams_at_once_keep_their_answers_apart(it: Gated, numbers: list[list[int]]) -> None:
    came: list[Counter[str]] = [Counter() for _ in numbers]

    def talk(client: int) -> None:
        answers, _ = stream(it, [good(number) for number in numbers[client]])
        came[client].update(answer.infer_response.id for answer in answers)

    clients = [threading.Thread(target=talk, args=(client,)) for client in range(len(numbers))]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE_SECONDS)
    assert came == [Counter(map(str, mine)) for mine in numbers]
