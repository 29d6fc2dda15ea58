"""What no gRPC library would send costs nobody else an answer, and the server no more than a bounded memory.

A server process is attacked by clients that write HTTP/2 by hand, while a well-behaved one asks the same
question again and again on a connection of its own.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc
import pytest
from hosted_server import infer_request
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import put
from onnx_models import Models
from raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawConnection,
    frame,
    header_block,
)
from server_process import ServerProcess

from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

INFER: Final = f"/{TRITON_SERVICE}/ModelInfer"
STREAM: Final = f"/{TRITON_SERVICE}/ModelStreamInfer"
GOOD: Final = infer_request("good", ("x", "FP32", (1, 4), bytes(range(16))), id="good")
MESSAGE: Final = b"\0" + len(GOOD.SerializeToString()).to_bytes(4) + GOOD.SerializeToString()
PATIENCE_SECONDS: Final = 20.0
BRIEF_SECONDS: Final = 0.5
"""How long an attacker waits for a server that takes no more."""
QUESTIONS: Final = 20
FRAME_BYTES: Final = 1 << 14
MOST_GROWTH_BYTES: Final = 512 << 20
"""What gRPC holds for the calls that wait to be seen, and what it keeps of that for the next ones."""

Attack = Callable[[str, ExitStack], None]
"""Attacks an address; what it leaves in the stack stays open while others ask."""


class Victim:
    """The server, and the client whose answers must not change."""

    def __init__(self, process: ServerProcess) -> None:
        self.address = str(process.ready()["grpc"])
        self._status = Path(f"/proc/{process.pid}/status")
        self._channel = grpc.insecure_channel(self.address)
        self._stub = InferenceServiceStub(self._channel)
        self._answer = self.ask()

    def ask(self) -> pb.ModelInferResponse:
        return self._stub.ModelInfer(GOOD, timeout=PATIENCE_SECONDS)

    def check(self) -> None:
        """Ask, and compare the answers bit for bit with the first one."""
        for _ in range(QUESTIONS):
            assert self.ask() == self._answer

    def resident_bytes(self) -> int:
        (line,) = [row for row in self._status.read_text().splitlines() if row.startswith("VmRSS")]
        return int(line.split()[1]) << 10

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def victim(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    repository = tmp_path_factory.mktemp("models")
    put(repository, "good", models.mlp())
    with ServerProcess(repository) as process:
        victim = Victim(process)
        yield victim
        victim.close()


def flood(client: RawConnection, data: bytes, times: int) -> None:
    """Write until the server has had enough: it closes, or takes no more."""
    with contextlib.suppress(OSError):
        for _ in range(times):
            client.send_bytes(data)


def connection(address: str, stack: ExitStack, *, takes_answers: bool = True) -> RawConnection:
    settings_sent = {} if takes_answers else {INITIAL_WINDOW_SIZE: 0}
    return stack.enter_context(RawConnection(address, settings_sent, patience_seconds=BRIEF_SECONDS))


def endless_headers(address: str, stack: ExitStack) -> None:
    """Headers of one call go on and on."""
    client = connection(address, stack)
    client.send(HEADERS, 0, 1, header_block(INFER))
    field = b"\0\x04junk\x64" + b"x" * 100
    flood(client, frame(CONTINUATION, 0, 1, field * 150), 4000)


def headers_of_nothing(address: str, stack: ExitStack) -> None:
    client = connection(address, stack)
    client.send(HEADERS, 0, 1, header_block(INFER))
    flood(client, frame(CONTINUATION, 0, 1) * 1000, 500)


def large_headers(address: str, stack: ExitStack) -> None:
    for _ in range(50):
        client = connection(address, stack)
        block = header_block(INFER, large="x" * 60_000)
        client.send(HEADERS, 0, 1, block[:FRAME_BYTES])
        pieces = [block[start : start + FRAME_BYTES] for start in range(FRAME_BYTES, len(block), FRAME_BYTES)]
        for piece in pieces:
            client.send(CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, 1, piece)


def rapid_resets(address: str, stack: ExitStack, *, message: bytes = b"") -> None:
    """Calls are taken back as soon as they have begun: many more than may be open."""
    client = connection(address, stack)
    block = header_block(INFER)
    cancel = (8).to_bytes(4)
    with contextlib.suppress(OSError):
        for stream in range(1, 60_001, 2):
            sent = frame(DATA, END_STREAM, stream, message) if message else b""
            client.send_bytes(
                frame(HEADERS, END_HEADERS, stream, block) + sent + frame(RST_STREAM, 0, stream, cancel)
            )


def rapid_resets_of_requests(address: str, stack: ExitStack) -> None:
    rapid_resets(address, stack, message=MESSAGE)


def several_rapid_resets(address: str, stack: ExitStack) -> None:
    for _ in range(3):
        rapid_resets(address, stack)


def pings(address: str, stack: ExitStack) -> None:
    """Nobody reads the answers."""
    flood(connection(address, stack), frame(PING, 0, 0, bytes(8)) * 1000, 2000)


def changes_of_settings(address: str, stack: ExitStack) -> None:
    change = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 1000))
    flood(connection(address, stack), change * 1000, 2000)


def data_of_nothing(address: str, stack: ExitStack) -> None:
    client = connection(address, stack)
    client.call(1, INFER, None)
    flood(client, frame(DATA, 0, 1) * 1000, 500)


def calls_that_never_end(address: str, stack: ExitStack) -> None:
    """More than may be open on one connection, and none says what it wants."""
    client = connection(address, stack)
    block = header_block(INFER)
    with contextlib.suppress(OSError):
        for stream in range(1, 40_001, 2):
            client.send(HEADERS, END_HEADERS, stream, block)


def promises(address: str, stack: ExitStack) -> None:
    """Each of a thousand calls says that 60 MiB will come, and sends a kilobyte."""
    for _ in range(50):
        client = connection(address, stack)
        for stream in range(1, 41, 2):
            client.call(stream, INFER, None)
            client.send(DATA, 0, stream, b"\0" + (60 << 20).to_bytes(4) + bytes(1000))


def promise_of_4_gib(address: str, stack: ExitStack) -> None:
    client = connection(address, stack)
    client.call(1, INFER, None)
    client.send(DATA, 0, 1, b"\0\xff\xff\xff\xff" + bytes(1000))


def answers_that_nobody_takes(address: str, stack: ExitStack) -> None:
    for _ in range(20):
        client = connection(address, stack, takes_answers=False)
        with contextlib.suppress(OSError):
            for stream in range(1, 401, 2):
                client.call(stream, INFER, GOOD.SerializeToString())


def streams_that_nobody_reads(address: str, stack: ExitStack) -> None:
    for _ in range(10):
        client = connection(address, stack, takes_answers=False)
        client.call(1, STREAM, None)
        flood(client, frame(DATA, 0, 1, MESSAGE), 60_000 // len(MESSAGE))


def half_open(address: str, stack: ExitStack) -> None:
    """Connections that say nothing, half of a greeting, or another protocol's."""
    host, port = address.rsplit(":", 1)
    for number in range(200):
        client = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_SECONDS))
        client.sendall((b"", b"PRI * HT", b"\x16\x03\x01\x02\0", b"GET / HTTP/1.1\r\n")[number % 4])


BROKEN: Final = {
    "a window that grows by nothing": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a stream's window that grows by nothing": frame(WINDOW_UPDATE, 0, 1, bytes(4)),
    "a window that overflows": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a window of three bytes": frame(WINDOW_UPDATE, 0, 0, bytes(3)),
    "data of no stream": frame(DATA, 0, 0, b"data"),
    "data of a stream that nobody opened": frame(DATA, 0, 77, b"data"),
    "padding that is longer than its frame": frame(DATA, 8, 1, b"\xff"),
    "headers of a stream of the server's": frame(HEADERS, END_HEADERS, 2, header_block(INFER)),
    "headers of no stream": frame(HEADERS, END_HEADERS, 0, header_block(INFER)),
    "headers that are no HPACK": frame(HEADERS, END_HEADERS, 3, b"\xff" * 50),
    "headers that refer to what never was": frame(HEADERS, END_HEADERS, 3, b"\xfe"),
    "headers without a path": frame(HEADERS, END_HEADERS, 3, b"\x83\x86"),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 3, b""),
    "a frame between headers": frame(HEADERS, 0, 3, header_block(INFER)) + frame(PING, 0, 0, bytes(8)),
    "a frame that is too long": frame(DATA, 0, 1, bytes(FRAME_BYTES + 1)),
    "a frame that says 16 MiB": b"\xff\xff\xff\0\0\0\0\0\1",
    "a reset of nothing": frame(RST_STREAM, 0, 99, bytes(4)),
    "a reset of two bytes": frame(RST_STREAM, 0, 1, bytes(2)),
    "a ping of seven bytes": frame(PING, 0, 0, bytes(7)),
    "an answer to no ping": frame(PING, ACK, 0, bytes(8)),
    "settings of five bytes": frame(SETTINGS, 0, 0, bytes(5)),
    "settings of a stream": frame(SETTINGS, 0, 1, bytes(6)),
    "a window larger than there can be": frame(
        SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 2**32 - 1)
    ),
    "frames of one byte": frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
    "a farewell": frame(GOAWAY, 0, 0, bytes(8)),
    "half of a farewell": frame(GOAWAY, 0, 0, bytes(3)),
    "a frame of a kind that nobody knows": frame(200, 255, 1, b"what"),
    "a promise of a push": frame(5, END_HEADERS, 1, bytes(4) + header_block(INFER)),
}


def broken_frames(address: str, stack: ExitStack) -> None:
    """Each breaks a rule of HTTP/2, or comes close, in the middle of a call."""
    for data in BROKEN.values():
        client = connection(address, stack)
        client.call(1, INFER, None)
        with contextlib.suppress(OSError):
            client.send_bytes(data)


ATTACKS: Final[tuple[Attack, ...]] = (
    endless_headers, headers_of_nothing, large_headers, rapid_resets, rapid_resets_of_requests,
    several_rapid_resets, pings, changes_of_settings, data_of_nothing, calls_that_never_end, promises,
    promise_of_4_gib, answers_that_nobody_takes, streams_that_nobody_reads, half_open, broken_frames,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_others_are_answered_during_an_attack_and_after_it(victim: Victim, attack: Attack) -> None:
    before = victim.resident_bytes()
    with ExitStack() as stack:
        attack(victim.address, stack)
        victim.check()
        assert victim.resident_bytes() - before < MOST_GROWTH_BYTES
    victim.check()


@pytest.mark.slow
def test_memory_stays_bounded_while_attacks_are_repeated(victim: Victim) -> None:
    def round_of_attacks() -> int:
        for attack in ATTACKS:
            with ExitStack() as stack:
                attack(victim.address, stack)
                victim.check()
        return victim.resident_bytes()

    first = round_of_attacks()
    assert max(round_of_attacks() for _ in range(4)) - first < MOST_GROWTH_BYTES // 2


FRAMES: Final = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 9),
    st.binary(max_size=40) | st.just(header_block(INFER)) | st.just(MESSAGE),
)
BYTES: Final = st.lists(FRAMES | st.binary(max_size=60) | st.sampled_from([*BROKEN.values()]), max_size=12)


@pytest.mark.parametrize("examples", [40, pytest.param(3000, marks=pytest.mark.slow)])
def test_any_bytes_after_the_greeting_cost_the_others_nothing(victim: Victim, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(BYTES)
    def send(pieces: list[bytes]) -> None:
        with ExitStack() as stack, contextlib.suppress(OSError):
            client = connection(victim.address, stack)
            for piece in pieces:
                client.send_bytes(piece)
        assert victim.ask().id == GOOD.id

    send()
    victim.check()


def test_a_burst_of_calls_is_answered_or_refused_in_words(victim: Victim) -> None:
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(victim.address, options)) for _ in range(4)]
        stubs = [InferenceServiceStub(channel) for channel in channels]
        calls = [stub.ModelInfer.future(GOOD) for _ in range(1500) for stub in stubs]
        refused = [error for error in (call.exception(PATIENCE_SECONDS) for call in calls) if error]
    assert {error.code() for error in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(refused) < len(calls)
