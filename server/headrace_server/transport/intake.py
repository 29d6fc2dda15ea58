"""The way in: from a message's bytes to work that waits for its model.

What is quick is done where calls are handled, without a thread or a wait. What is not (large or compressed
messages, strings, inputs that stand in shared memory) is read and checked beside it.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Final, NamedTuple, Protocol

from headrace_server.core.arrays import STRING_BYTES
from headrace_server.core.request import Request, Sink, Work
from headrace_server.core.service import Service
from headrace_server.errors import InferenceError, InvalidInput
from headrace_server.transport import codec, outline
from headrace_server.transport.aside import Aside
from headrace_server.transport.gathering import Gathering
from headrace_server.transport.holdings import Call, Holdings, foreseen_bytes
from headrace_server.transport.inflation import Inflation, is_compressed
from headrace_server.transport.regions import Regions
from headrace_server.transport.seam import Reactor, Timer

_THREADS: Final = 2
"""So that many large requests leave the transport its share of the interpreter."""
_QUICK_BYTES: Final = 1 << 20
"""Of shared memory: as many are read in less time than another thread takes to begin."""
_LENGTH_BYTES: Final = 4
"""What a string takes at least in raw contents."""
_MOST_STRINGS: Final = 1 << 20
"""Engines turn those of a request into their own in one go, and nothing else in the process runs meanwhile:
a million take a few tenths of a second."""


class Asker(Protocol):
    """Who asked: hears what becomes of a request, where calls may be touched."""

    def accepted(self, work: Work, more_bytes: int) -> None:
        """Hear that the request is about to be submitted; it may be answered before `settled` is called.

        It will take so many bytes beside its message's. Where its model is replaced meanwhile, this is called
        again with the work that is submitted instead.
        """

    def is_waiting(self) -> bool:
        """Whether anybody still wants the answer."""

    def settled(self, error: Exception | None) -> None:
        """Hear that the request was submitted, or why it was not. Called once."""

    def make_room(self, size_bytes: int) -> None:
        """Hold so much more for an answer that is about to come, or raise Overloaded. Any thread."""

    def answered(self, work: Work, answer: bytes | InferenceError) -> None:
        """Take the last answer; empty bytes end a request that gets several responses without another one."""

    def answered_in_part(self, work: Work, answer: bytes) -> None:
        """Take one response of several; the work's `window` is told when it has left."""


class _Timed:
    """An asker whose request has a timer, which would otherwise hold the request until its deadline."""

    __slots__ = ("_asker", "_is_over", "_timer", "answered_in_part", "make_room")

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._timer: Timer | None = None
        self._is_over = False
        self.make_room = asker.make_room
        self.answered_in_part = asker.answered_in_part

    def arm(self, timer: Timer) -> None:
        self._timer = timer
        if self._is_over:  # it was answered meanwhile
            timer.cancel()

    def disarm(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def answered(self, work: Work, answer: bytes | InferenceError) -> None:
        self.disarm()
        self._asker.answered(work, answer)


class _Decoded(NamedTuple):
    """A request, what its message took once it was inflated, and whether the rest can be quick."""

    request: Request
    message_bytes: int
    is_quick: bool


class Intake:
    """Reads, checks and submits requests; `sink` gets their answers."""

    def __init__(
        self,
        service: Service,
        sink: Sink,
        reactor: Reactor,
        holdings: Holdings,
        regions: Regions,
        inflation: Inflation,
    ) -> None:
        self._service = service
        self._sink = sink
        self._reactor = reactor
        self._holdings = holdings
        self._regions = regions
        self._inflation = inflation
        self._aside = Aside("large-request", _THREADS, reactor, holdings)
        self._gathering = Gathering(reactor)

    def take(self, message: bytes, limit: float, asker: Asker, *, takes_many: bool = False) -> None:
        """Submit the request in a message, now or, where that takes its time, later.

        `limit` is the call's deadline on the monotonic clock; `takes_many` says that the caller can be
        given more than one response.
        """
        try:
            request = codec.recall(message)
            if request is None and (is_compressed(message) or outline.is_slow(message)):
                decode = functools.partial(self._decode, message)
                then = functools.partial(self._take_decoded, len(message), limit, asker, takes_many)
                self._aside.run(len(message), len(message), decode, then, asker.is_waiting)
                return
            if request is None:
                request = codec.build(message, self._regions)
            if request.rendering is not None and request.rendering.inputs:
                decoded = _Decoded(request, len(message), is_quick=True)
                self._take_decoded(len(message), limit, asker, takes_many, decoded)
                return
            work = self._prepare(request, limit, asker, takes_many)
            asker.accepted(work, foreseen_bytes(work))
            work = self._service.submit(work, self._again, request, limit, asker, takes_many, hold=True)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            asker.settled(error)
        else:
            self._gathering.add(work)
            if work.deadline < limit:
                self._arm(work)
            asker.settled(None)

    def abandon(self, work: Work) -> None:
        """Let go of submitted work whose caller has gone."""
        work.model.cancel(work)
        if isinstance(work.reply, _Timed):
            work.reply.disarm()

    def close(self) -> None:
        """Take nothing more that is slow."""
        self._aside.close()

    def _take_decoded(
        self,
        own_bytes: int,
        limit: float,
        asker: Asker,
        takes_many: bool,
        decoded: _Decoded | Exception,
    ) -> None:
        """Fetch what is elsewhere, check, and submit: beside the transport, unless that is quick."""
        if isinstance(decoded, Exception):
            asker.settled(decoded)
            return
        request, message_bytes, is_quick = decoded
        try:
            made_bytes = self._fetched_bytes(request) + _string_bytes(request)
            prepare = functools.partial(self._fetch_and_prepare, request, limit, asker, takes_many)
            submit = functools.partial(self._submit, request, limit, asker, takes_many)
            if is_quick and made_bytes <= _QUICK_BYTES and not self._waits_for_gpu(request):
                submit(prepare())
            else:
                size_bytes = message_bytes + made_bytes
                self._aside.run(size_bytes, own_bytes, lambda _: prepare(), submit, asker.is_waiting)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            asker.settled(error)

    def _decode(self, message: bytes, held: Call) -> _Decoded:
        with self._inflation.inflated(message) as inflated:
            if inflated is not message:
                self._holdings.admit(held, len(inflated), held.size_bytes + len(message))
        is_quick = not outline.is_slow(inflated)
        return _Decoded(codec.decode(inflated, self._regions), len(inflated), is_quick=is_quick)

    def _submit(
        self, request: Request, limit: float, asker: Asker, takes_many: bool, work: Work | Exception
    ) -> None:
        if isinstance(work, Exception):
            asker.settled(work)
            return
        try:
            asker.accepted(work, work.size_bytes + foreseen_bytes(work))
            work = self._service.submit(work, self._again, request, limit, asker, takes_many)
        except Exception as error:  # the edge: the table of statuses decides what leaves
            asker.settled(error)
        else:
            if work.deadline < limit:
                self._arm(work)
            asker.settled(None)

    def _again(self, request: Request, limit: float, asker: Asker, takes_many: bool) -> Work:
        """Prepare the request for the version that has taken over."""
        work = self._fetch_and_prepare(request, limit, asker, takes_many)
        asker.accepted(work, foreseen_bytes(work))
        return work

    def _fetch_and_prepare(self, request: Request, limit: float, asker: Asker, takes_many: bool) -> Work:
        rendering = request.rendering
        if rendering is None:
            return self._prepare(request, limit, asker, takes_many)
        work = self._prepare(rendering.fetch(request), limit, asker, takes_many)
        rendering.settle(work)
        return work

    def _prepare(self, request: Request, limit: float, asker: Asker, takes_many: bool) -> Work:
        work = self._service.prepare(
            request, limit, self._sink, asker, time.monotonic_ns(), takes_many=takes_many
        )
        if work.deadline < limit:  # the transport enforces the call's own deadline, and not the request's
            work.reply = _Timed(asker)
        return work

    def _arm(self, work: Work) -> None:
        """Have submitted work ended in time."""
        seconds = work.deadline - time.monotonic()
        work.reply.arm(self._reactor.later(max(seconds, 0.0), work.model.expire, work))

    def _waits_for_gpu(self, request: Request) -> bool:
        """Whether reading the inputs means to wait for a GPU. Raises ModelNotFound, ModelNotReady."""
        if request.rendering is None or not request.rendering.is_on_gpu:
            return False
        facts = self._service.model(request.model, request.version).facts
        waits: bool = request.rendering.waits_for_gpu(request, facts)
        return waits

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
