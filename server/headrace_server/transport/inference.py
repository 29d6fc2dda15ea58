"""ModelInfer and ModelStreamInfer, and the sink that their answers come back through."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from typing import Final

from headrace_server.core.failures import report
from headrace_server.core.request import Work
from headrace_server.core.service import Service
from headrace_server.errors import InferenceError, Overloaded
from headrace_server.transport.answers import Encoder
from headrace_server.transport.holdings import Holdings, unforeseen_bytes
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.intake import Intake
from headrace_server.transport.open_calls import InferenceLimits, OpenCalls
from headrace_server.transport.regions import Regions
from headrace_server.transport.seam import Reactor, StreamCall, UnaryCall
from headrace_server.transport.stream import Stream, StreamLimits
from headrace_server.transport.unary import UnaryRequest

_logger = logging.getLogger(__name__)

_GRPC_ERROR: Final = ("triton_grpc_error", "true")
"""The header of a stream that is to end with the first error's own status."""


class Inference:
    """The two procedures that infer."""

    def __init__(
        self,
        service: Service,
        reactor: Reactor,
        limits: InferenceLimits,
        regions: Regions,
        inflation: Inflation,
    ) -> None:
        self._reactor = reactor
        self._limits = limits
        self._streams: set[Stream] = set()
        self._finishing = False
        self._looked_at = 0.0
        self.holdings = Holdings(
            limits.max_in_flight_bytes, functools.partial(reactor.run, self._end_stalled)
        )
        """What is held for callers, of whatever they call."""
        self.open_calls = OpenCalls(limits)
        self._intake = Intake(service, self, reactor, self.holdings, regions, inflation)
        self.encode = Encoder().encode

    @property
    def open_streams(self) -> int:
        """Streams that are being answered, without those given up because their clients do not read."""
        return len(self._streams)

    def admit(self, work: Work, answer: bytes) -> None:
        """Hold what an answer has beyond what was foreseen, or raise Overloaded."""
        if more_bytes := unforeseen_bytes(work, answer):
            work.reply.make_room(more_bytes)

    def deliver(self, answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
        """Hand out the answers of a batch, where calls may be touched: one wake-up, if it takes one."""
        self._reactor.run(_hand_out, answers)

    def deliver_part(self, work: Work, answer: bytes) -> None:
        """Pass on one response of several, or raise Overloaded."""
        work.reply.make_room(len(answer))
        self._reactor.run(work.reply.answered_in_part, work, answer)

    def infer(self, call: UnaryCall, message: bytes) -> None:
        """Answer one request."""
        self.open_calls.enter()
        UnaryRequest(call, self._intake, self.holdings, self.open_calls).begin(message)

    def open_stream(self, call: StreamCall) -> Stream:
        """Answer the requests of a stream in the order in which they are done."""
        if self.open_streams >= self._limits.max_streams:
            raise Overloaded(f"{self.open_streams} streams are open, which is the limit (--max-streams)")
        self.open_calls.enter()
        limits = StreamLimits(
            self._limits.max_stream_requests,
            self._limits.stream_patience_seconds,
            ends_with_error=_GRPC_ERROR in call.metadata,
        )
        stream = Stream(call, self._intake, self.holdings, limits, self._let_go)
        self._streams.add(stream)
        if self._finishing:
            self._reactor.run(stream.finish)
        return stream

    def finish(self) -> None:
        """End the streams, each once what it had accepted is answered. For whoever may touch calls."""
        self._finishing = True
        for stream in tuple(self._streams):
            stream.finish()

    def close(self) -> None:
        """Let go of the threads; nothing comes any more."""
        self._intake.close()

    def _let_go(self, stream: Stream) -> None:
        self._streams.discard(stream)
        self.open_calls.leave()

    def _end_stalled(self) -> None:
        """Have the streams end that hold what others need, and are not read."""
        now = time.monotonic()
        if now - self._looked_at < self._limits.stream_patience_seconds / 10:
            return
        self._looked_at = now
        for stream in tuple(self._streams):
            stream.end_if_stalled(now)


def _hand_out(answers: Sequence[tuple[Work, bytes | InferenceError]]) -> None:
    for work, answer in answers:
        try:
            work.reply.answered(work, answer)
        except Exception as error:  # the others are to have theirs
            _hand_out_failure(work, error)


def _hand_out_failure(work: Work, error: Exception) -> None:
    try:
        told = report(work.model.facts.name, "the answer could not be handed out", error)
        work.reply.answered(work, told)
    except Exception:  # as above
        _logger.exception("nor could that be told")
