"""One HTTP/2 connection that sends the same gRPC request over and over, with everything prepared.

A load generator must cost far less than the server that it measures, and a general HTTP/2 or gRPC
client in Python costs more. So this knows only what unary calls and one stream of messages need: every
request is the same bytes but for the stream's number, headers are encoded without HPACK's table, and of
an answer only its size counts: an answer of the expected size is a good one, since a failed call has no
message, and an error in a stream has another size.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
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
LARGEST_CALL_BYTES: Final = _WINDOW_BYTES
"""The largest message of a unary call here: it is sent at once, without a word of its stream's window."""
_RECEIVE_BYTES: Final = 1 << 18
_MESSAGE_HEAD_BYTES: Final = 5
_END_SECONDS: Final = 5.0
_STREAM: Final = 1
"""The number of the only stream."""


class Answer(NamedTuple):
    """A call that has ended; `begun_ns` is what `send` was told."""

    begun_ns: int
    good: bool


def framed(message: bytes) -> bytes:
    """Return the message as gRPC sends it."""
    return b"\0" + len(message).to_bytes(4) + message


class Wire:
    """An open connection; the caller waits for its socket to be readable, then calls `receive`."""

    def __init__(self, port: int) -> None:
        """Connect to this machine."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2) + _LARGEST_WINDOW_BYTES.to_bytes(4)
        self.socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, settings) + _more(0, _LARGEST_WINDOW_BYTES - _WINDOW_BYTES)
        )
        self._window = _WINDOW_BYTES
        self._first_window = _WINDOW_BYTES
        self._stream_window = 0
        self._received_bytes = 0
        self._rest = b""

    def fileno(self) -> int:
        """Let `select` wait for the connection itself."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket; open calls are given up."""
        self.socket.close()

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Read what has come: kind, flags, stream and payload of what concerns calls.

        Raises ConnectionError at the end.
        """
        came = self.socket.recv(_RECEIVE_BYTES)
        if not came:
            raise ConnectionError("the server closed the connection")
        data = self._rest + came
        at, size = 0, len(data)
        while at + _HEAD_BYTES <= size:
            end = at + _HEAD_BYTES + int.from_bytes(data[at : at + 3])
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9])
            payload = data[at + _HEAD_BYTES : end]
            at = end
            if kind in (_DATA, _HEADERS, _RST_STREAM):
                self._received_bytes += len(payload) if kind == _DATA else 0
                yield kind, flags, stream, payload
            else:
                self._control(kind, flags, stream, payload)
        self._rest = data[at:]

    def _room(self, *streams: int) -> list[bytes]:
        """Return what lets the peer send more on the connection and on the streams, if it is time for it."""
        room = self._received_bytes
        if room <= _LARGEST_WINDOW_BYTES // 2:
            return []
        self._received_bytes = 0
        return [_more(stream, room) for stream in (0, *streams)]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _GOAWAY:
            raise ConnectionError(f"the server says good-bye: {payload[8:].decode(errors='replace')}")
        if kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == _WINDOW_UPDATE:
            self._stream_window += int.from_bytes(payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._set(payload)
            self.socket.sendall(_frame(_SETTINGS, _ACK, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, payload))

    def _set(self, settings: bytes) -> None:
        """Take the size that the peer wants for the window of streams, open ones too."""
        for at in range(0, len(settings), 6):
            if int.from_bytes(settings[at : at + 2]) == _INITIAL_WINDOW_SIZE:
                value = int.from_bytes(settings[at + 2 : at + 6])
                self._stream_window += value - self._first_window
                self._first_window = value


class Calls(Wire):
    """Unary calls, each on a stream of its own."""

    def __init__(self, port: int, path: str, message: bytes, reply_bytes: int) -> None:
        """Connect; `message` and `reply_bytes`, the size of a good answer, are framed for gRPC."""
        if len(message) > LARGEST_CALL_BYTES:
            raise ValueError(
                f"a message of {len(message)} bytes: at most {LARGEST_CALL_BYTES} fit a stream's window"
            )
        super().__init__(port)
        self._pieces = _pieces(path, f"127.0.0.1:{port}", message)
        self._cost = len(message)
        self._reply_bytes = reply_bytes
        self._stream = -1
        self._begun: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._waiting: deque[int] = deque()

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
        answers: list[Answer] = []
        for kind, flags, stream, payload in self._frames():
            if kind == _DATA:
                self._sizes[stream] = self._sizes.get(stream, 0) + len(payload)
            if kind == _RST_STREAM or flags & _END_STREAM:
                begun_ns = self._begun.pop(stream, None)
                received_bytes = self._sizes.pop(stream, 0)
                if begun_ns is not None:  # a reset may follow the end of a stream
                    answers.append(Answer(begun_ns, received_bytes == self._reply_bytes))
        self._flush()
        return answers

    def _flush(self) -> None:
        out = self._room()
        while self._waiting and self._window >= self._cost:
            self._window -= self._cost
            self._stream += 2
            self._begun[self._stream] = self._waiting.popleft()
            out.append(self._stream.to_bytes(4).join(self._pieces))
        if out:
            self.socket.sendall(b"".join(out))


class Messages(Wire):
    """Messages in one stream, which stays open; answers are taken to come in the order of their requests."""

    def __init__(self, port: int, path: str, message: bytes, reply_bytes: int) -> None:
        """Connect and open the stream; `message` and `reply_bytes` are framed for gRPC."""
        super().__init__(port)
        self._message_bytes = len(message)
        # Any frame that begins in a message can be cut out of so many in a row.
        self._messages = message * (_FRAME_BYTES // len(message) + 2)
        self._at = 0
        """Where the next frame begins in a message."""
        self._reply_bytes = reply_bytes
        self._stream_window = self._first_window
        self._begun: deque[int] = deque()
        self._unsent_bytes = 0
        self._unread = b""
        block = _headers(path, f"127.0.0.1:{port}")
        self.socket.sendall(_head(_HEADERS, _END_HEADERS, len(block)) + _STREAM.to_bytes(4) + block)

    @property
    def open_calls(self) -> int:
        """Messages without an answer."""
        return len(self._begun)

    def send(self, begun_ns: int, calls: int = 1) -> None:
        """Send messages, as soon as the peer's windows allow; `begun_ns` comes back with their answers."""
        self._begun.extend([begun_ns] * calls)
        self._unsent_bytes += self._message_bytes * calls
        self._flush()

    def receive(self) -> list[Answer]:
        """Read the answers that have come. Raises ConnectionError if the stream has ended."""
        came = []
        for kind, flags, _, payload in self._frames():
            if kind == _RST_STREAM or flags & _END_STREAM:
                raise ConnectionError("the server ended the stream")
            if kind == _DATA:
                came.append(payload)
        data = self._unread + b"".join(came)
        answers = []
        at = 0
        while at + _MESSAGE_HEAD_BYTES <= len(data):
            size = _MESSAGE_HEAD_BYTES + int.from_bytes(data[at + 1 : at + _MESSAGE_HEAD_BYTES])
            if at + size > len(data):
                break
            answers.append(Answer(self._begun.popleft(), size == self._reply_bytes))
            at += size
        self._unread = data[at:]
        self._flush()
        return answers

    def close(self) -> None:
        """End the stream, wait for its end if all messages were answered, and close the socket."""
        if not self._begun:
            self.socket.settimeout(_END_SECONDS)
            with contextlib.suppress(OSError):  # also one that has ended already
                self.socket.sendall(_head(_DATA, _END_STREAM, 0) + _STREAM.to_bytes(4))
                while not self._has_ended():
                    pass
        super().close()

    def _has_ended(self) -> bool:
        return any(kind == _RST_STREAM or flags & _END_STREAM for kind, flags, _, _ in self._frames())

    def _flush(self) -> None:
        out = self._room(_STREAM)
        left = max(0, min(self._unsent_bytes, self._window, self._stream_window))
        self._unsent_bytes -= left
        self._window -= left
        self._stream_window -= left
        stream = _STREAM.to_bytes(4)
        while left:
            chunk = self._messages[self._at : self._at + min(left, _FRAME_BYTES)]
            out.append(_head(_DATA, 0, len(chunk)) + stream + chunk)
            self._at = (self._at + len(chunk)) % self._message_bytes
            left -= len(chunk)
        if out:
            self.socket.sendall(b"".join(out))


def _pieces(path: str, authority: str, message: bytes) -> list[bytes]:
    """Return a request's frames, cut wherever the stream's number belongs."""
    block = _headers(path, authority)
    pieces = [_head(_HEADERS, _END_HEADERS, len(block))]
    before = block
    for start in range(0, len(message), _FRAME_BYTES):
        chunk = message[start : start + _FRAME_BYTES]
        flags = _END_STREAM if start + _FRAME_BYTES >= len(message) else 0
        pieces.append(before + _head(_DATA, flags, len(chunk)))
        before = chunk
    return [*pieces, before]


def _headers(path: str, authority: str) -> bytes:
    return b"".join(
        (
            b"\x83\x86",  # :method POST and :scheme http, out of HPACK's static table
            b"\x01" + _text(authority),
            b"\x04" + _text(path),
            b"\x0f\x10" + _text("application/grpc"),  # 31, content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


def _head(kind: int, flags: int, length: int) -> bytes:
    return length.to_bytes(3) + bytes((kind, flags))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return _head(kind, flags, len(payload)) + bytes(4) + payload


def _more(stream: int, window_bytes: int) -> bytes:
    return _head(_WINDOW_UPDATE, 0, 4) + stream.to_bytes(4) + window_bytes.to_bytes(4)


def _text(text: str) -> bytes:
    """Return an HPACK string; longer ones would need a length of several bytes."""
    if len(text) > 126:
        raise ValueError(f"a header of {len(text)} characters: at most 126 are possible")
    return bytes((len(text),)) + text.encode("ascii")
