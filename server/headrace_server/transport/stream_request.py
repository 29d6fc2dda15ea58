"""One request of a stream, from its message to its last answer."""

from __future__ import annotations

from typing import Final, Protocol

from headrace_server.core.request import Work
from headrace_server.core.window import Window
from headrace_server.errors import InferenceError, Overloaded, Unread
from headrace_server.transport import answers, outline
from headrace_server.transport.holdings import Call, Holdings, unforeseen_bytes
from headrace_server.transport.inflation import beginning
from headrace_server.transport.intake import Intake

_WANTS_END: Final = "triton_enable_empty_final_response"


class Requester(Protocol):
    """The stream, as its requests know it."""

    @property
    def intake(self) -> Intake:
        """Where its requests go."""

    @property
    def holdings(self) -> Holdings:
        """What counts the bytes that are held."""

    @property
    def held(self) -> Call:
        """What the stream holds."""

    def settled(self) -> None:
        """Hear that the request that came last has been submitted or refused."""

    def answer(self, request: StreamRequest, message: bytes | None, held_bytes: int) -> None:
        """End a request, with a message or without another one, unless it has ended."""

    def answer_in_part(
        self, request: StreamRequest, message: bytes, held_bytes: int, window: Window | None
    ) -> None:
        """Send one response of several; `window` is told when it has left."""

    def fail(self, request: StreamRequest, error: Exception, request_id: str, held_bytes: int) -> None:
        """End a request with an error."""

    def give_up(self, request: StreamRequest, error: Unread) -> None:
        """End the stream, unless the request or the stream has ended: its client does not read."""


class StreamRequest:
    """One request of a stream."""

    __slots__ = ("_held_bytes", "_is_given_up", "_is_submitted", "_message", "_stream", "_work")

    def __init__(self, stream: Requester, message: bytes) -> None:
        self._stream = stream
        self._message: bytes | None = message
        """Kept until the request is accepted: its id may be needed."""
        self._held_bytes = 0
        self._work: Work | None = None
        self._is_submitted = False
        self._is_given_up = False

    def begin(self, message: bytes, limit: float) -> None:
        """Take the request in."""
        try:
            self._stream.holdings.admit(self._stream.held, len(message))
        except Overloaded as error:
            self.settled(error)
            return
        self._held_bytes = len(message)
        self._stream.intake.take(message, limit, self, takes_many=True)

    def accepted(self, work: Work, more_bytes: int) -> None:
        """Hold what the request will take."""
        self._message = None
        self._work = work
        self._held_bytes += more_bytes
        self._stream.holdings.add(self._stream.held, more_bytes)

    def is_waiting(self) -> bool:
        """Whether the stream goes on."""
        return not self._is_given_up

    def settled(self, error: Exception | None) -> None:
        """Tell the caller of a refusal, and let the next request in."""
        if error is not None:
            self._stream.fail(self, error, self._id(), self._held_bytes)
        else:
            self._is_submitted = True
            if self._is_given_up:
                self.give_up()
        self._stream.settled()

    def give_up(self) -> None:
        """Let go of the work, once it has been submitted: nobody waits for it."""
        self._is_given_up = True
        work = self._work  # its answer may come on another thread at any moment
        if self._is_submitted and work is not None:
            self._stream.intake.abandon(work)

    def make_room(self, size_bytes: int) -> None:
        """Hold so much more for an answer."""
        self._stream.holdings.admit(self._stream.held, size_bytes, self._held_bytes)

    def answered(self, work: Work, answer: bytes | InferenceError) -> None:
        """Take the last answer, unless the stream has ended."""
        stream, held_bytes = self._stream, self._held_bytes
        self._work = None
        if isinstance(answer, Unread):
            stream.give_up(self, answer)
        elif not isinstance(answer, bytes):
            stream.fail(self, answer, work.id, held_bytes)
        elif answer:
            held_bytes += unforeseen_bytes(work, answer)
            stream.answer(self, answers.stream_answer(answer), held_bytes)
        else:
            wants_end = work.parameters.get(_WANTS_END) is True
            stream.answer(self, answers.stream_end(work) if wants_end else None, held_bytes)

    def answered_in_part(self, work: Work, answer: bytes) -> None:
        """Take one response of several."""
        message = answers.stream_answer(answer, is_final=False)
        self._stream.answer_in_part(self, message, len(answer), work.window)

    def _id(self) -> str:
        if self._work is not None:
            return self._work.id
        return outline.request_id(beginning(self._message)) if self._message is not None else ""
