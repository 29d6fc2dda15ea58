"""The way in: from a message's bytes to work that waits for its model.

What is quick is done on the event loop, without a task or a wait. What is not (large or compressed messages,
strings, inputs that stand in shared memory) is read and checked beside it, and only submitted there.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from typing import Any, Final, Protocol

from headrace_server.core.arrays import STRING_BYTES
from headrace_server.core.request import Holder, Request, Sink, Work
from headrace_server.core.service import Service
from headrace_server.core.window import Window
from headrace_server.errors import InferenceError, InvalidInput, ShuttingDown
from headrace_server.transport import codec, outline
from headrace_server.transport.aside import Aside
from headrace_server.transport.gathering import Gathering
from headrace_server.transport.holdings import Holdings
from headrace_server.transport.inflation import Inflation, is_compressed
from headrace_server.transport.shared_memory import Regions

_QUICK_BYTES: Final = 1 << 20
"""Of shared memory: as many are read in less time than another thread takes to begin."""
_LENGTH_BYTES: Final = 4
"""What a string takes at least in raw contents."""
_MOST_STRINGS: Final = 1 << 20
"""Engines turn those of a request into their own in one go, and nothing else in the process runs meanwhile:
a million take a few tenths of a second."""


class Reply(Protocol):
    """Whom to answer. Called on the event loop."""

    def __call__(self, answer: bytes | InferenceError) -> None:
        """Take the last answer; empty bytes end a request that gets several responses without another one."""

    def part(self, answer: bytes, window: Window | None) -> None:
        """Take one response of several; `window` is told when it has left."""


class _TimedReply:
    """A reply to a request with a timer, which would otherwise hold the request until its deadline."""

    __slots__ = ("_timer", "part", "reply")

    def __init__(self, timer: asyncio.TimerHandle, reply: Reply) -> None:
        self._timer = timer
        self.reply = reply
        self.part = reply.part

    def __call__(self, answer: bytes | InferenceError) -> None:
        self._timer.cancel()
        self.reply(answer)

    def disarm(self) -> None:
        self._timer.cancel()


def own_reply(work: Work) -> Any:
    """Return the reply that came with the work."""
    return work.reply.reply if isinstance(work.reply, _TimedReply) else work.reply


class Intake:
    """Reads, checks and submits requests; `sink` gets their answers."""

    def __init__(
        self,
        service: Service,
        sink: Sink,
        loop: asyncio.AbstractEventLoop,
        holdings: Holdings,
        regions: Regions,
        inflation: Inflation,
    ) -> None:
        self._service = service
        self._sink = sink
        self._loop = loop
        self._holdings = holdings
        self._regions = regions
        self._inflation = inflation
        self._aside = Aside(loop, holdings)
        self._gathering = Gathering(loop)

    def take(self, message: bytes, limit: float, reply: Reply, *, takes_many: bool = False) -> Work | None:
        """Submit the request at once, if that is quick; else return None: `take_slowly` is for it.

        `limit` is the call's deadline on the monotonic clock. Raises InferenceError.
        """
        if is_compressed(message) or outline.is_slow(message):
            return None
        request = codec.decode(message, self._regions)
        if request.rendering is not None and request.rendering.inputs:
            return None
        now_ns = time.monotonic_ns()
        work = self._service.infer(
            request, limit, self._sink, reply, now_ns, hold=True, takes_many=takes_many
        )
        self._follow(work, limit, reply)
        return work

    async def take_slowly(
        self, message: bytes, limit: float, reply: Reply, *, takes_many: bool = False
    ) -> Work:
        """Submit a request that takes its time. Raises InferenceError."""
        own_bytes = len(message)  # which whoever calls has counted
        if is_compressed(message):
            message = await self._inflation.inflated(message)
        is_quick = not outline.is_slow(message)
        decode = functools.partial(codec.decode, message, self._regions)
        request = decode() if is_quick else await self._aside.run(len(message), decode, own_bytes)
        made_bytes = self._fetched_bytes(request) + _string_bytes(request)
        is_quick = is_quick and made_bytes <= _QUICK_BYTES
        held_bytes = len(message) + made_bytes
        prepare = functools.partial(self._prepare, request, limit, reply, takes_many=takes_many)
        refused: Holder | None = None
        while True:
            work = prepare() if is_quick else await self._aside.run(held_bytes, prepare, own_bytes)
            try:
                work.model.submit(work, hold=True)
            except ShuttingDown:
                # Meanwhile another version may have taken over: it is asked instead.
                if refused is work.model:
                    raise
                refused = work.model
            else:
                self._follow(work, limit, reply)
                return work

    def abandon(self, work: Work) -> None:
        """Let go of a request whose caller has gone."""
        work.model.cancel(work)
        if isinstance(work.reply, _TimedReply):
            work.reply.disarm()

    def close(self) -> None:
        """Take nothing more that is slow."""
        self._aside.close()

    def _prepare(self, request: Request, limit: float, reply: Reply, *, takes_many: bool) -> Work:
        if request.rendering is not None:
            request = request.rendering.fetch(request)
        now_ns = time.monotonic_ns()
        return self._service.prepare(request, limit, self._sink, reply, now_ns, takes_many=takes_many)

    def _follow(self, work: Work, limit: float, reply: Reply) -> None:
        """Have submitted work released with others, and ended in time."""
        self._gathering.add(work)
        if work.deadline < limit:  # gRPC enforces the call's own deadline, and not the request's
            seconds = work.deadline - time.monotonic()
            timer = self._loop.call_later(seconds, work.model.expire, work)
            work.reply = _TimedReply(timer, reply)

    def _fetched_bytes(self, request: Request) -> int:
        """Return what is to be read from shared memory. Raises InvalidInput where it could never be held."""
        if request.rendering is None:
            return 0
        size_bytes: int = request.rendering.input_bytes
        if size_bytes > self._holdings.most_bytes:
            raise InvalidInput(
                f"the inputs take {size_bytes} bytes of shared memory; at most "
                f"{self._holdings.most_bytes} can be in flight"
            )
        return size_bytes


def _string_bytes(request: Request) -> int:
    """Return what the strings of a request take as objects, beside their characters, at the most.

    Raises InvalidInput where there are too many.
    """
    slices = request.rendering.inputs if request.rendering is not None else {}
    strings = 0
    for place, tensor in enumerate(request.inputs):
        if tensor.datatype == "BYTES":
            raw_bytes = slices[place].size_bytes if place in slices else len(tensor.data)
            strings += max(min(math.prod(tensor.shape), raw_bytes // _LENGTH_BYTES), 0)
    if strings > _MOST_STRINGS:
        raise InvalidInput(f"{strings} strings came, a request may have at most {_MOST_STRINGS}")
    return strings * STRING_BYTES
