"""One HTTP/2 connection that sends the same gRPC request over and over, with everything prepared.

A load generator must cost far less than the server that it measures, and a general HTTP/2 or gRPC
client in Python costs more. So this knows only what a unary call needs: every request is the same
bytes but for the stream's number, headers are encoded without HPACK's table, and of an answer only
the sizes of its DATA frames count: an answer of the expected size is a good one, since a failed
call has no message.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, NamedTuple

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK: Final = 1
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 4
_HEAD_BYTES: Final = 9
_FRAME_BYTES: Final = 16384
"""The largest frame that every peer takes."""
_WINDOW_BYTES: Final = 65535
"""What may be sent before the peer gives more, on a connection and on a stream."""
_LARGEST_WINDOW_BYTES: Final = 2**31 - 1
_RECEIVE_BYTES: Final = 1 << 18


class Answer(NamedTuple):
    """A call that has ended; `begun_ns` is what `send` was told."""

    begun_ns: int
    good: bool


class Connection:
    """An open connection; the caller waits for its socket to be readable, then calls `receive`."""

    def __init__(self, port: int, path: str, message: bytes, reply_bytes: int) -> None:
        """Connect to this machine.

        `message` is framed for gRPC, `reply_bytes` is the size of a good answer, framed as well.
        """
        if len(message) > _WINDOW_BYTES:
            raise ValueError(
                f"a message of {len(message)} bytes: at most {_WINDOW_BYTES} fit a stream's window"
            )
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2) + _LARGEST_WINDOW_BYTES.to_bytes(4)
        self.socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, settings) + _more(_LARGEST_WINDOW_BYTES - _WINDOW_BYTES)
        )
        self._pieces = _pieces(path, f"127.0.0.1:{port}", message)
        self._cost = len(message)
        self._reply_bytes = reply_bytes
        self._window = _WINDOW_BYTES
        self._stream = -1
        self._begun: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._waiting: deque[int] = deque()
        self._received_bytes = 0
        self._rest = b""

    def fileno(self) -> int:
        """Let `select` wait for the connection itself."""
        return self.socket.fileno()

    @property
    def open_calls(self) -> int:
        """Calls that have not ended, those that wait for the peer's window among them."""
        return len(self._begun) + len(self._waiting)

    def send(self, begun_ns: int, calls: int = 1) -> None:
        """Begin calls, as soon as the peer's window allows; `begun_ns` comes back with their answers."""
        self._waiting.extend([begun_ns] * calls)
        self._flush()

    def receive(self) -> list[Answer]:
        """Read what has come, and return the calls that it ended. Raises ConnectionError at the end."""
        came = self.socket.recv(_RECEIVE_BYTES)
        if not came:
            raise ConnectionError("the server closed the connection")
        data = self._rest + came
        answers: list[Answer] = []
        at, size = 0, len(data)
        while at + _HEAD_BYTES <= size:
            length = int.from_bytes(data[at : at + 3])
            end = at + _HEAD_BYTES + length
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9])
            if kind == _DATA:
                self._sizes[stream] = self._sizes.get(stream, 0) + length
                self._received_bytes += length
            elif kind not in (_HEADERS, _RST_STREAM):
                self._control(kind, flags, stream, data[at + _HEAD_BYTES : end])
            if stream and (kind == _RST_STREAM or (kind <= _HEADERS and flags & _END_STREAM)):
                begun_ns = self._begun.pop(stream, None)
                received_bytes = self._sizes.pop(stream, 0)
                if begun_ns is not None:  # a reset may follow the end of a stream
                    answers.append(Answer(begun_ns, received_bytes == self._reply_bytes))
            at = end
        self._rest = data[at:]
        self._flush()
        return answers

    def close(self) -> None:
        """Close the socket; open calls are given up."""
        self.socket.close()

    def _flush(self) -> None:
        out = []
        while self._waiting and self._window >= self._cost:
            self._window -= self._cost
            self._stream += 2
            self._begun[self._stream] = self._waiting.popleft()
            out.append(self._stream.to_bytes(4).join(self._pieces))
        if self._received_bytes > _LARGEST_WINDOW_BYTES // 2:
            out.append(_more(self._received_bytes))
            self._received_bytes = 0
        if out:
            self.socket.sendall(b"".join(out))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _GOAWAY:
            raise ConnectionError(f"the server says good-bye: {payload[8:].decode(errors='replace')}")
        if kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, payload))


def _pieces(path: str, authority: str, message: bytes) -> list[bytes]:
    """Return a request's frames, cut wherever the stream's number belongs."""
    block = b"".join(
        (
            b"\x83\x86",  # :method POST and :scheme http, out of HPACK's static table
            b"\x01" + _text(authority),
            b"\x04" + _text(path),
            b"\x0f\x10" + _text("application/grpc"),  # 31, content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )
    pieces = [_head(_HEADERS, _END_HEADERS, len(block))]
    before = block
    for start in range(0, len(message), _FRAME_BYTES):
        chunk = message[start : start + _FRAME_BYTES]
        flags = _END_STREAM if start + _FRAME_BYTES >= len(message) else 0
        pieces.append(before + _head(_DATA, flags, len(chunk)))
        before = chunk
    return [*pieces, before]


def _head(kind: int, flags: int, length: int) -> bytes:
    return length.to_bytes(3) + bytes((kind, flags))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return _head(kind, flags, len(payload)) + bytes(4) + payload


def _more(window_bytes: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, window_bytes.to_bytes(4))


def _text(text: str) -> bytes:
    """Return an HPACK string; longer ones would need a length of several bytes."""
    if len(text) > 126:
        raise ValueError(f"a header of {len(text)} characters: at most 126 are possible")
    return bytes((len(text),)) + text.encode("ascii")
