"""The calls beside inference on grpc.aio: what they may cost is known before their messages are parsed."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from headrace_server.core.catalogue import IsWanted
from headrace_server.errors import InvalidInput, MessageTooLarge
from headrace_server.transport import outline
from headrace_server.transport.blocking import BlockingCalls
from headrace_server.transport.control import Blocking, Procedure
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.inflation import Inflation, inflate, is_compressed
from headrace_server.transport.refusal import Context, refuse

_LONG_THREADS: Final = 256
"""Begun as they are needed. Most of them wait for a model's turn to load, or for its drain."""
_BRIEF_THREADS: Final = 4
_COPIES: Final = 3
"""The message, what is built of it, and the files that are taken out of that."""


class ControlCalls:
    """Answers by procedures; those that block are counted, and done beside the loop."""

    def __init__(self, holdings: Holdings, inflation: Inflation) -> None:
        self._holdings = holdings
        self._inflation = inflation
        self._blocking = {
            Blocking.BRIEFLY: BlockingCalls("looks at the repository", _BRIEF_THREADS, holdings),
            Blocking.LONG: BlockingCalls("loads and unloads", _LONG_THREADS, holdings),
        }

    def handler(self, procedure: Procedure) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """Return what answers one procedure for gRPC."""

        async def answer(message: bytes, context: Context) -> bytes:
            try:
                return await self._answer(procedure, message)
            except Exception as error:  # the edge: the table of statuses decides what leaves
                return await refuse(context, error)

        return answer

    def end(self) -> None:
        """Let everybody go who waits."""
        for calls in self._blocking.values():
            calls.end()

    async def _answer(self, procedure: Procedure, message: bytes) -> bytes:
        procedure.permit()
        message = await self._inflated(message, procedure)
        blocking = self._blocking.get(procedure.blocking)
        if blocking is None:
            return bytes(procedure.answer(_parse(procedure, message)).SerializeToString())
        return await blocking.run(functools.partial(_block, procedure, message), _COPIES * len(message))

    async def _inflated(self, message: bytes, procedure: Procedure) -> bytes:
        most_bytes = procedure.most_bytes
        if most_bytes is not None and len(message) > most_bytes:
            name = procedure.request.DESCRIPTOR.name
            raise MessageTooLarge(
                f"the message is larger than max for a {name} ({len(message)} vs. {most_bytes} bytes)"
            )
        if not is_compressed(message):
            return message
        if most_bytes is not None:
            return inflate(message, most_bytes)
        held = Call()
        self._holdings.admit(held, len(message))
        try:
            return await self._inflation.inflated(message)
        finally:
            self._holdings.release(held)


def _block(procedure: Procedure, message: bytes, is_wanted: IsWanted) -> bytes:
    outline.check_control(message)
    request = _parse(procedure, message)
    if procedure.blocking is Blocking.LONG:
        return bytes(procedure.answer(request, is_wanted).SerializeToString())
    return bytes(procedure.answer(request).SerializeToString())


def _parse(procedure: Procedure, message: bytes) -> Any:
    try:
        return procedure.request.FromString(message)
    except DecodeError:
        name = procedure.request.DESCRIPTOR.name
        raise InvalidInput(f"the message is no {name}: its bytes cannot be parsed") from None
