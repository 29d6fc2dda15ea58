"""Asks a server once, with a prepared body, to learn how many bytes its good answer has."""

from __future__ import annotations

import urllib.request
from typing import Any, Final

import grpc

_PATIENCE_SECONDS: Final = 20
_HEAD_BYTES: Final = 5
"""Before each message, in gRPC."""
_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


def call(port: int, path: str, body: bytes) -> int:
    """Return the size of the answer to a unary call, framed. Raises grpc.RpcError."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        ask: Any = channel.unary_unary(path)
        return _HEAD_BYTES + len(ask(body[_HEAD_BYTES:], timeout=_PATIENCE_SECONDS))


def stream(port: int, path: str, body: bytes) -> int:
    """Return the size of the first answer in a stream, framed. Raises grpc.RpcError."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        ask: Any = channel.stream_stream(path)
        answers = ask(iter((body[_HEAD_BYTES:],)), timeout=_PATIENCE_SECONDS)
        return _HEAD_BYTES + len(next(answers))


def post(port: int, path: str, body: bytes) -> int:
    """Return the size of the answer over HTTP. Raises OSError."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"content-type": "application/octet-stream"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    with opener.open(asked, timeout=_PATIENCE_SECONDS) as reply:
        return len(reply.read())
