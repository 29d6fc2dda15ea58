"""Clients that keep a server busy until it refuses them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import grpc
from hosted_server import connected

from headrace_proto.v1 import inference_pb2 as pb

_PATIENCE_SECONDS = 20.0


class ClosedLoop:
    """Four clients that call one after the other and four that stream; what they were told is counted."""

    def __init__(self, address: str, request: pb.ModelInferRequest) -> None:
        self.outcomes: Counter[str] = Counter()
        self._address = address
        self._request = request
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=kind) for kind in (self._call, self._stream) * 4]
        for thread in self._threads:
            thread.start()

    def await_answers(self, count: int) -> None:
        """Wait until the server is busy with these clients."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.outcomes.total() >= count, _PATIENCE_SECONDS)

    def join(self) -> None:
        """Wait until each client was refused."""
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)
            assert not thread.is_alive()

    def _count(self, outcome: str) -> None:
        with self._changed:
            self.outcomes[outcome] += 1
            self._changed.notify_all()

    def _call(self) -> None:
        with connected(self._address) as stub:
            while True:
                try:
                    stub.ModelInfer(self._request, timeout=_PATIENCE_SECONDS)
                except grpc.RpcError as error:
                    self._count(error.code().name)
                    return
                self._count("OK")

    def _stream(self) -> None:
        ended = threading.Event()

        def requests() -> Iterator[pb.ModelInferRequest]:
            while not ended.is_set():
                yield self._request

        with connected(self._address) as stub:
            try:
                for answer in stub.ModelStreamInfer(requests(), timeout=_PATIENCE_SECONDS):
                    self._count(answer.infer_response.parameters["error_code"].string_param or "OK")
            except grpc.RpcError as error:
                self._count(error.code().name)
            finally:
                ended.set()
