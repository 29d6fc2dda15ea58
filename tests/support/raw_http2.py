"""A client that speaks HTTP/2 frame by frame, for what no gRPC library would do."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PATIENCE_SECONDS: Final = 10.0


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class RawConnection:
    """An open connection; pings of the server are answered, and its settings accepted, while it is read."""

    def __init__(
        self,
        address: str,
        settings: Mapping[int, int] | None = None,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """`patience_seconds` is the longest wait for the server to send or to take anything."""
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), patience_seconds)
        self._rest = b""
        self.answers_pings = True
        payload = b"".join(struct.pack(">HI", *item) for item in (settings or {}).items())
        self._socket.sendall(_PREFACE)
        self.send(SETTINGS, 0, 0, payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Send one frame."""
        self.send_bytes(frame(kind, flags, stream, payload))

    def send_bytes(self, data: bytes) -> None:
        """Send what need be no frame. Raises OSError where the server has closed, or takes no more."""
        self._socket.sendall(data)

    def call(self, stream: int, path: str, message: bytes | None = b"", **headers: str) -> None:
        """Begin a call, with one whole message and the end unless `message` is None."""
        self.send(HEADERS, END_HEADERS, stream, header_block(path, **headers))
        if message is not None:
            self.send(DATA, END_STREAM, stream, b"\0" + len(message).to_bytes(4) + message)

    def read(self) -> Frame | None:
        """Wait for the next frame; None is the end of the connection."""
        head = self._receive(9)
        if head is None:
            return None
        payload = self._receive(int.from_bytes(head[:3]))
        if payload is None:
            return None
        came = Frame(head[3], head[4], int.from_bytes(head[5:]), payload)
        answered = (SETTINGS, PING) if self.answers_pings else (SETTINGS,)
        if came.kind in answered and not came.flags & ACK:
            self.send(came.kind, ACK, 0, came.payload if came.kind == PING else b"")
        return came

    def await_frame(self, kind: int, stream: int) -> Frame:
        """Read until such a frame comes."""
        while (frame := self.read()) is not None:
            if (frame.kind, frame.stream) == (kind, stream):
                return frame
        raise AssertionError(f"the connection ended before a frame {kind} of stream {stream}")

    def synchronise(self) -> None:
        """Wait until the server has read everything that was sent."""
        self.send(PING, 0, 0, b"are here")
        while True:
            frame = self.await_frame(PING, 0)
            if frame.flags & ACK and frame.payload == b"are here":
                return

    def _receive(self, size: int) -> bytes | None:
        while len(self._rest) < size:
            try:
                came = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not came:
                return None
            self._rest += came
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame's bytes."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def header_block(path: str, **headers: str) -> bytes:
    """Return the headers of a call."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "test",
        "content-type": "application/grpc", "te": "trailers", **headers,
    }  # fmt: skip
    return b"".join(b"\0" + _text(key.replace("_", "-")) + _text(value) for key, value in fields.items())


def _text(text: str) -> bytes:
    """Return a string of HPACK, without Huffman's code."""
    data = text.encode(errors="surrogateescape")
    if len(data) < 127:
        return bytes((len(data),)) + data
    size, rest = b"\x7f", len(data) - 127
    while rest >= 128:
        size += bytes((rest % 128 + 128,))
        rest //= 128
    return size + bytes((rest,)) + data
