"""Which transports the installed grpcio lets be tried."""

from __future__ import annotations

import pytest

from headrace_server.transport.choice import TransportKind
from headrace_server.transport.completion_queue import support

_REASON = support.why_not()

needs_completion_queue = pytest.mark.skipif(
    _REASON is not None, reason=f"the completion-queue transport cannot be tried: {_REASON}"
)
KINDS = [TransportKind.AIO] if _REASON else [TransportKind.COMPLETION_QUEUE, TransportKind.AIO]
