"""The calls beside inference: what they may cost is known before their messages are parsed."""

from __future__ import annotations

import functools
from typing import Final

from headrace_server.core.catalogue import IsWanted
from headrace_server.transport import outline
from headrace_server.transport.blocking import BlockingCalls
from headrace_server.transport.control import Blocking, Procedure
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.inflation import Inflation, is_compressed
from headrace_server.transport.messages import check_size, parse, parse_whole
from headrace_server.transport.seam import Reactor, Unary, UnaryCall

_LONG_THREADS: Final = 256
"""Begun as they are needed. Most of them wait for a model's turn to load, or for its drain."""
_BRIEF_THREADS: Final = 4
_COPIES: Final = 3
"""The message, what is built of it, and the files that are taken out of that."""


class ControlCalls:
    """Answers by procedures; those that block are counted, and done beside the transport."""

    def __init__(self, reactor: Reactor, holdings: Holdings, inflation: Inflation) -> None:
        self._holdings = holdings
        self._inflation = inflation
        self._blocking = {
            Blocking.BRIEFLY: BlockingCalls("looks at the repository", _BRIEF_THREADS, reactor, holdings),
            Blocking.LONG: BlockingCalls("loads and unloads", _LONG_THREADS, reactor, holdings),
        }

    def route(self, procedure: Procedure) -> Unary:
        """Return what answers calls of one procedure."""
        return Unary(functools.partial(self._take, procedure))

    def end(self) -> None:
        """Let everybody go who waits. Any thread."""
        for calls in self._blocking.values():
            calls.end()

    def _take(self, procedure: Procedure, call: UnaryCall, message: bytes) -> None:
        procedure.permit()
        if procedure.is_short:
            check_size(procedure.request, message)
        blocking = self._blocking.get(procedure.blocking)
        if blocking is None:
            request = parse(procedure.request, message)
            call.answer(procedure.answer(request).SerializeToString())
            return
        size_bytes = len(message) if is_compressed(message) else _COPIES * len(message)
        blocking.run(call, functools.partial(self._block, procedure, message), size_bytes)

    def _block(self, procedure: Procedure, message: bytes, held: Call, is_wanted: IsWanted) -> bytes:
        if procedure.is_short:
            request = parse(procedure.request, message)
        else:
            request = parse_whole(procedure.request, self._inflated(message, held))
        if procedure.blocking is Blocking.LONG:
            return procedure.answer(request, is_wanted).SerializeToString()
        return procedure.answer(request).SerializeToString()

    def _inflated(self, message: bytes, held: Call) -> bytes:
        with self._inflation.inflated(message) as inflated:
            if inflated is not message:
                self._holdings.admit(held, _COPIES * len(inflated), held.size_bytes)
        outline.check_control(inflated)
        return inflated
