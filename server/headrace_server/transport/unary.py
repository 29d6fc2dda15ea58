"""One request that is one call."""

from __future__ import annotations

from headrace_server.core.request import Work
from headrace_server.errors import InferenceError
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.intake import Intake
from headrace_server.transport.open_calls import OpenCalls
from headrace_server.transport.seam import UnaryCall
from headrace_server.transport.status import status_of


class UnaryRequest(Call):
    """What the call asked, and what is held for it until it is over.

    It may be answered, and its caller may go, before `settled` is heard, each in another thread. So both ends
    of each pair first say what has happened, and then look whether the other has.
    """

    __slots__ = ("_call", "_holdings", "_intake", "_is_submitted", "_open_calls", "_work")

    def __init__(self, call: UnaryCall, intake: Intake, holdings: Holdings, open_calls: OpenCalls) -> None:
        super().__init__()
        self._call = call
        self._intake = intake
        self._holdings = holdings
        self._open_calls = open_calls
        self._work: Work | None = None
        self._is_submitted = False
        call.on_end = self._ended

    def begin(self, message: bytes) -> None:
        """Take the request in. Raises Overloaded where there is no room for it."""
        self._holdings.admit(self, len(message))
        self._intake.take(message, self._call.deadline, self)

    def accepted(self, work: Work, more_bytes: int) -> None:
        """Hold what the request will take."""
        self._work = work
        self._holdings.add(self, more_bytes)

    def is_waiting(self) -> bool:
        """Whether the caller has not gone."""
        return not self.is_over

    def settled(self, error: Exception | None) -> None:
        """Tell the caller of a refusal."""
        if error is not None:
            self._call.fail(status_of(error))
            return
        self._is_submitted = True
        if self.is_over:
            self._abandon()

    def make_room(self, size_bytes: int) -> None:
        """Hold so much more for the answer."""
        self._holdings.admit(self, size_bytes, self.size_bytes)

    def answered(self, work: Work, answer: bytes | InferenceError) -> None:
        """Answer the call."""
        self._work = None
        if isinstance(answer, bytes):
            self._call.answer(answer)
        else:
            self._call.fail(status_of(answer))

    def answered_in_part(self, work: Work, answer: bytes) -> None:
        """Never called: a unary call is not given a model with several responses."""
        raise NotImplementedError

    def _ended(self) -> None:
        self._holdings.release(self)
        self._open_calls.leave()
        if self._is_submitted:
            self._abandon()

    def _abandon(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            self._intake.abandon(work)
