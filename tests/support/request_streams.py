"""A client's half of a stream, in a test's hand."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any


class Requests:
    """What is put goes out, until it is closed."""

    def __init__(self, *requests: Any) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        for request in requests:
            self.put(request)

    def put(self, request: Any) -> None:
        """Send a request."""
        self._queue.put(request)

    def close(self) -> None:
        """Send nothing any more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        request = self._queue.get()
        if request is None:
            raise StopIteration
        return request


def closed(*requests: Any) -> Requests:
    """Return a half that ends after these."""
    half = Requests(*requests)
    half.close()
    return half
