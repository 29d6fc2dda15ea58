from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fake_servers import FakeServer, HoldingProcess, Infer, Stream, echo, echo_stream

Serve = Callable[..., FakeServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that are stopped after the test."""
    with ExitStack() as stack:

        def start(infer: Infer = echo, stream: Stream = echo_stream, port: int = 0) -> FakeServer:
            return stack.enter_context(FakeServer(infer, stream, port))

        yield start


@pytest.fixture
def holding() -> Iterator[HoldingProcess]:
    """A process that takes calls and never answers."""
    process = HoldingProcess()
    yield process
    process.kill()
