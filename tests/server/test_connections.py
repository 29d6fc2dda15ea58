"""What connections are granted, as a client sees it frame by frame: sizes, compression, pings and ages."""

from __future__ import annotations

import gc
import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hosted_server import HostedServer, connected, hosted, infer_request
from raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RawConnection,
    header_block,
)
from scripted_engines import ScriptedEngine, rows_spec, serving
from transports import needs_completion_queue

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.choice import TransportKind
from headrace_server.transport.connections import Compression

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIMIT_BYTES = 1 << 20
FRAME_BYTES = 1 << 14
LARGEST_FIRST_BYTES = 65_535 - 5
"""What may be sent before the server has said that it takes more."""
PATIENCE_SECONDS = 10.0
ROWS = infer_request("m", ("x", "INT64", (8, 1), bytes(64)), id="padding " * 200)


@contextmanager
def server(**options: Any) -> Iterator[HostedServer]:
    with serving(ScriptedEngine(rows_spec())) as served, hosted(served.service, **options) as it:
        yield it


def test_the_bandwidth_of_a_client_is_not_measured_which_would_let_it_send_further_ahead() -> None:
    with server() as it, RawConnection(it.address) as client:
        client.call(1, INFER, ROWS.SerializeToString())
        frames = []
        while (frame := client.read()) is not None and (frame.kind, frame.flags & END_STREAM) != (HEADERS, 1):
            frames.append(frame.kind)
    assert DATA in frames
    assert PING not in frames


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("accepted", ["identity", "identity,gzip", "identity,deflate,gzip"])
def test_answers_are_compressed_where_it_was_chosen_for_clients_that_accept_it(
    compression: Compression, accepted: str
) -> None:
    with server(compression=compression) as it, RawConnection(it.address) as client:
        client.call(1, INFER, ROWS.SerializeToString(), grpc_accept_encoding=accepted)
        payload = client.await_frame(DATA, 1).payload
    flag, message = payload[0], payload[5:]
    assert flag == int(compression is not Compression.NONE and "gzip" in accepted)
    if flag and "deflate" not in accepted:
        message = gzip.decompress(message)
    if not flag or "deflate" not in accepted:
        answer = pb.ModelInferResponse.FromString(message)
        assert np.frombuffer(answer.raw_output_contents[0], np.int64).tolist() == [1] * 8


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_requests_may_be_compressed_in_calls_and_streams(algorithm: grpc.Compression) -> None:
    with server() as it, connected(it.address) as stub:
        answer = stub.ModelInfer(ROWS, compression=algorithm, timeout=PATIENCE_SECONDS)
        assert answer.id == ROWS.id
        (streamed,) = stub.ModelStreamInfer(iter([ROWS]), compression=algorithm, timeout=PATIENCE_SECONDS)
        assert streamed.infer_response.raw_output_contents == answer.raw_output_contents


def refused(stub: Any, message: pb.ModelInferRequest, algorithm: grpc.Compression) -> str:
    with pytest.raises(grpc.RpcError) as ended:
        stub.ModelInfer(message, compression=algorithm, timeout=PATIENCE_SECONDS)
    assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return str(ended.value.details())


def test_a_message_over_the_limit_is_refused_with_the_limit() -> None:
    with server(max_message_bytes=LIMIT_BYTES) as it, connected(it.address) as stub:
        message = infer_request("m", ("x", "INT64", (1, 1), bytes(LIMIT_BYTES)))
        told = refused(stub, message, grpc.Compression.NoCompression)
        assert f"larger than max ({message.ByteSize()} vs. {LIMIT_BYTES})" in told
        assert stub.ModelInfer(ROWS, timeout=PATIENCE_SECONDS).id == ROWS.id


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_message_that_is_over_the_limit_once_it_is_inflated_is_refused(algorithm: grpc.Compression) -> None:
    with server(max_message_bytes=LIMIT_BYTES) as it, connected(it.address) as stub:
        message = infer_request("m", ("x", "INT64", (1, 1), bytes(LIMIT_BYTES)))
        assert "larger than max" in refused(stub, message, algorithm)
        assert stub.ModelInfer(ROWS, timeout=PATIENCE_SECONDS).id == ROWS.id


def peak_bytes() -> int:
    (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def send_compressed(client: RawConnection, stream: int, path: str, packed: bytes, encoding: str) -> None:
    client.call(stream, path, None, grpc_encoding=encoding)
    framed = b"\1" + len(packed).to_bytes(4) + packed
    pieces = [framed[start : start + FRAME_BYTES] for start in range(0, len(framed), FRAME_BYTES)]
    for number, piece in enumerate(pieces, 1):
        client.send(DATA, END_STREAM if number == len(pieces) else 0, stream, piece)


def bomb(size_bytes: int, window_bits: int) -> bytes:
    """Compress a request with so many zeros."""
    head = ROWS.SerializeToString() + b"\x3a" + _VarintBytes(size_bytes)
    packer = zlib.compressobj(9, wbits=window_bits)
    pieces = [packer.compress(piece) for piece in (head, *[bytes(1 << 20)] * (size_bytes >> 20))]
    packed = b"".join([*pieces, packer.flush()])
    assert len(packed) < LARGEST_FIRST_BYTES
    return packed


@contextmanager
def takes_no_more_than(most_bytes: int) -> Iterator[None]:
    """Fail where the block takes more memory at any time."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_bytes()
    yield
    assert peak_bytes() - before < most_bytes


@pytest.mark.parametrize(("encoding", "window_bits"), [("gzip", 31), ("deflate", 15)])
def test_invariant_4_a_bomb_is_not_inflated_beyond_the_limit(encoding: str, window_bits: int) -> None:
    packed = bomb(60 * LIMIT_BYTES, window_bits)
    with server(max_message_bytes=LIMIT_BYTES) as it, RawConnection(it.address) as client:
        client.call(1, LIVE)
        client.await_frame(DATA, 1)
        with takes_no_more_than(16 * LIMIT_BYTES):
            send_compressed(client, 3, INFER, packed, encoding)
            client.await_frame(HEADERS, 3)
        client.call(5, LIVE)
        client.await_frame(DATA, 5)


def test_invariant_4_bombs_within_the_limit_are_inflated_few_at_a_time_and_not_kept() -> None:
    packed = bomb(16 * LIMIT_BYTES, 31)
    with (
        server(max_message_bytes=17 * LIMIT_BYTES, max_in_flight_bytes=32 * LIMIT_BYTES) as it,
        ExitStack() as opened,
        takes_no_more_than(160 * LIMIT_BYTES),
    ):
        clients = [opened.enter_context(RawConnection(it.address)) for _ in range(24)]
        for client in clients:
            send_compressed(client, 1, INFER, packed, "gzip")
        for client in clients:
            client.await_frame(HEADERS, 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (LIVE, b""),
        ("/inference.GRPCInferenceService/ModelMetadata", b"\x0a\x01m"),
        (INFER, ROWS.SerializeToString()),
        (STREAM, ROWS.SerializeToString()),
        ("/grpc.health.v1.Health/Check", b"\x0a\x07model:m"),
        ("/grpc.health.v1.Health/Watch", b"\x0a\x07model:m"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\x3a\x00"),
    ],
)
def test_every_procedure_takes_what_came_compressed_however_short_it_is(path: str, message: bytes) -> None:
    with server() as it, RawConnection(it.address) as client:
        send_compressed(client, 1, path, gzip.compress(message), "gzip")
        assert len(client.await_frame(DATA, 1).payload) > 5


def test_a_compressed_request_that_is_refused_in_a_stream_is_named_and_the_stream_goes_on() -> None:
    wrong = infer_request("none", id="mine " * 200)
    with server() as it, connected(it.address) as stub:
        refusal, answer = stub.ModelStreamInfer(
            iter([wrong, ROWS]), compression=grpc.Compression.Gzip, timeout=PATIENCE_SECONDS
        )
    assert refusal.infer_response.id == wrong.id
    assert "no model 'none'" in refusal.error_message
    assert answer.infer_response.id == ROWS.id


def test_a_connection_is_asked_to_end_at_its_age_and_calls_go_on_elsewhere() -> None:
    with server(max_age_ms=50, max_age_grace_ms=60_000) as it:
        with RawConnection(it.address) as client:
            client.call(1, LIVE)
            client.await_frame(DATA, 1)
            client.await_frame(GOAWAY, 0)
            while client.read() is not None:
                pass
        with connected(it.address) as stub:
            answers = [stub.ModelInfer(ROWS, timeout=PATIENCE_SECONDS) for _ in range(300)]
    assert {answer.id for answer in answers} == {ROWS.id}


def test_calls_have_the_grace_to_end_on_a_connection_that_is_too_old() -> None:
    with (
        server(max_age_ms=50, max_age_grace_ms=50) as it,
        RawConnection(it.address) as client,
    ):
        client.call(1, STREAM, None)
        client.await_frame(GOAWAY, 0)
        while client.read() is not None:
            pass


def test_a_client_that_says_nothing_is_pinged_and_given_up_if_it_is_gone() -> None:
    with (
        server(keepalive_time_ms=1000, keepalive_timeout_ms=100) as it,
        RawConnection(it.address) as client,
    ):
        client.answers_pings = False
        client.call(1, STREAM, None)
        client.await_frame(PING, 0)
        while client.read() is not None:
            pass


def test_a_client_that_pings_more_than_is_allowed_is_cut_off() -> None:
    with server(min_ping_interval_ms=60_000) as it, RawConnection(it.address) as client:
        for _ in range(4):
            client.send(PING, 0, 0, b"too many")
        assert b"too_many_pings" in client.await_frame(GOAWAY, 0).payload
    with server(min_ping_interval_ms=0) as it, RawConnection(it.address) as client:
        for _ in range(4):
            client.synchronise()


@needs_completion_queue
def test_a_client_that_has_accepted_no_settings_cannot_send_more_metadata_than_is_allowed() -> None:
    block = header_block(INFER, one="1" * (9 << 10), other="2" * (9 << 10))
    with server(transport=TransportKind.COMPLETION_QUEUE) as it, RawConnection(it.address) as client:
        client.send(HEADERS, 0, 1, block[:FRAME_BYTES])
        client.send(CONTINUATION, END_HEADERS, 1, block[FRAME_BYTES:])
        assert b"--max-metadata-bytes" in client.await_frame(HEADERS, 1).payload
