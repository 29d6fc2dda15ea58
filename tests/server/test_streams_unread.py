"""Streams whose clients do not read: what they hold is bounded, and given to others who need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import grpc
import numpy as np
from gated_server import Gated, gated
from google.rpc import error_details_pb2, status_pb2
from hosted_server import eventually, infer_request
from request_streams import Requests, closed
from scripted_engines import PATIENCE_SECONDS, rows_spec

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

ELEMENTS = 4096
ROW = np.zeros(ELEMENTS, np.int64).tobytes()
REQUEST = infer_request("m", ("x", "INT64", (1, ELEMENTS), ROW))
"""32 KiB, and as many in its answer."""
Code = grpc.StatusCode


@contextlib.contextmanager
def reluctant(address: str) -> Iterator[InferenceServiceStub]:
    """A client that takes no more than 64 KiB before it reads."""
    options = [
        ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1 << 16),
    ]  # fmt: skip
    with grpc.insecure_channel(address, options=options) as channel:
        yield InferenceServiceStub(channel)


class Unread(NamedTuple):
    """A stream whose client does not read."""

    requests: Requests
    call: grpc.Call

    def read(self) -> grpc.StatusCode:
        """Read it to its end after all; return how it ended."""
        self.requests.close()
        with contextlib.suppress(grpc.RpcError):
            list(self.call)
        code: grpc.StatusCode = self.call.code()
        return code


@contextlib.contextmanager
def filled(streams: int, **options: float) -> Iterator[tuple[Gated, list[Unread]]]:
    """Serve with room for few requests, all of which streams come to hold that are not read."""
    with contextlib.ExitStack() as stack:
        it = stack.enter_context(
            gated(spec=rows_spec(4, (ELEMENTS,)), max_in_flight_bytes=400_000, **options)
        )
        it.gate.open()
        unread = []
        for _ in range(streams):
            stub = stack.enter_context(reluctant(it.server.address))
            requests = Requests()
            stack.callback(requests.close)
            unread.append(Unread(requests, stub.ModelStreamInfer(requests)))
        eventually(lambda: it.server.transport.open_streams == streams, "all streams are open")
        for stream in unread:
            for _ in range(20):
                stream.requests.put(REQUEST)
        yield it, unread


def is_refused(it: Gated) -> bool:
    """Whether there is no room for a request."""
    call = it.stub.ModelInfer.future(REQUEST, timeout=PATIENCE_SECONDS)
    assert call.code() in (Code.OK, Code.RESOURCE_EXHAUSTED), call.details()
    return call.code() is Code.RESOURCE_EXHAUSTED


def await_room(it: Gated, streams: list[Unread], *, others: int = 0) -> None:
    """Ask for room until a stream has been ended for it, and until others have it.

    The streams go on asking as well, and none of them ends by itself; `others` are open beside them.
    """

    def is_one_ended() -> bool:
        for stream in streams:
            stream.requests.put(REQUEST)
        is_refused(it)
        return it.server.transport.open_streams < len(streams) + others

    eventually(is_one_ended, "a stream is ended")
    eventually(lambda: not is_refused(it), "others are served again")


def test_invariant_4_one_stream_that_is_not_read_leaves_room_for_others() -> None:
    with filled(1) as (it, (unread,)):
        eventually(lambda: it.served.model.statistics.success.count >= 2, "the first answers are there")
        for _ in range(30):
            assert not is_refused(it)
        assert it.server.transport.in_flight_bytes <= 200_000
        unread.requests.close()
        assert len(list(unread.call)) == 20, "nothing is lost of a stream that nobody's room depends on"
        assert unread.call.code() is Code.OK


def test_invariant_4_streams_that_are_not_read_give_up_what_others_need() -> None:
    with filled(8, stream_patience_seconds=0.3) as (it, streams):
        await_room(it, streams)
        assert it.stub.ServerReady(pb.ServerReadyRequest()).ready
        codes = {stream.read() for stream in streams}
        assert codes <= {Code.OK, Code.RESOURCE_EXHAUSTED}
        assert Code.RESOURCE_EXHAUSTED in codes
        eventually(lambda: it.server.transport.in_flight_bytes == 0, "nothing is held any more")


@contextlib.contextmanager
def given_up() -> Iterator[Gated]:
    """Serve while the client of the one stream does not read, which has been ended for others."""
    rows = infer_request("m", ("x", "INT64", (4, ELEMENTS), ROW * 4))
    limit_bytes = 8 << 20
    whole = infer_request("none", ("x", "INT64", (1, 1), bytes(limit_bytes)))
    options = {"max_message_bytes": 2 * limit_bytes, "max_in_flight_bytes": limit_bytes}
    with (
        gated(spec=rows_spec(4, (ELEMENTS,)), stream_patience_seconds=0.05, **options) as it,
        reluctant(it.server.address) as stub,
    ):
        stream = stub.ModelStreamInfer(closed(rows, rows))
        it.gate.arrival()
        it.gate.let_one_through()
        it.gate.arrival()
        transport = it.server.transport
        assert transport.in_flight_bytes >= 16 * len(ROW), "one is not read, the other is in work"

        def is_free() -> bool:
            call = it.stub.ModelInfer.future(whole, timeout=PATIENCE_SECONDS)
            assert call.code() in (Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED)
            return bool(transport.in_flight_bytes == 0)

        eventually(is_free, "nothing is held any more")
        yield it
        stream.cancel()


def test_invariant_4_a_stream_that_was_ended_has_no_place_even_while_its_client_does_not_read() -> None:
    with given_up() as it:
        eventually(lambda: it.server.transport.open_calls == 0, "its place is free")
        assert it.server.transport.open_streams == 0


def test_a_stop_does_not_wait_for_a_client_whose_stream_was_ended_to_read_it() -> None:
    with given_up() as it:
        it.server.begin_stop(grace_seconds=60).result(PATIENCE_SECONDS)


def test_a_client_who_comes_back_is_told_why_its_stream_ended() -> None:
    with filled(8, stream_patience_seconds=0.3) as (it, streams):
        await_room(it, streams)
        told = [stream.call for stream in streams if stream.read() is Code.RESOURCE_EXHAUSTED]
        assert told
        assert told[0].details() == "the answers were not read for 0.3 s"
        packed = dict(told[0].trailing_metadata())["grpc-status-details-bin"]
        (detail,) = status_pb2.Status.FromString(packed).details
        assert detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)


def test_streams_that_wait_for_requests_are_never_given_up() -> None:
    with filled(8, stream_patience_seconds=0.3) as (it, streams):
        half = Requests(REQUEST)
        quiet = it.stub.ModelStreamInfer(half)
        next(quiet)
        await_room(it, streams, others=1)

        def is_answered() -> bool:
            half.put(REQUEST)
            return not next(quiet).error_message

        eventually(is_answered, "the stream goes on")
        half.close()
        assert list(quiet) == []
        assert quiet.code() is Code.OK
